"""AWS Lambda's way into a function: its start, and one call with log context, metrics and traces.

What imports and clients make lives as long as the process: looking through it for garbage, again
and again while it grows, finds nothing. Importing this module switches the collector off, so a
handler imports it before the rest of the package. Source: Python documentation, "gc".
"""

import gc

gc.disable()

from collections.abc import Callable, Mapping  # noqa: E402  # the collector is off first
from typing import Any  # noqa: E402

from aws_lambda_powertools.utilities.typing import LambdaContext  # noqa: E402

from provisioner.runtime.observability import logger, metrics  # noqa: E402
from provisioner.runtime.tracing import tracer  # noqa: E402

#: What AWS Lambda calls: the event and the context to the answer.
type Handler = Callable[[dict[str, Any], LambdaContext], Mapping[str, Any]]


def handler_of(
    build: Callable[[], Callable[..., Mapping[str, Any]]], *, takes_context: bool = False
) -> Handler:
    """Put a function together, once in a process, and return what AWS Lambda calls.

    Neither event nor answer is logged or traced: they may hold what only their function may see.

    Args:
        build: puts the function together from the environment.
        takes_context: whether what it makes takes the context of the invocation beside the event.
    """
    run = build()
    # What has been made so far is left out of every later collection.
    gc.freeze()
    gc.enable()

    @tracer.capture_lambda_handler(capture_response=False)
    @logger.inject_lambda_context(clear_state=True)
    @metrics.log_metrics(capture_cold_start_metric=True)
    def handle(event: dict[str, Any], context: LambdaContext) -> Mapping[str, Any]:
        return run(event, context) if takes_context else run(event)

    decorated: Handler = handle
    return decorated
