"""Shortens the way of a call from botocore to moto: a pytest plugin.

What is asked and what is answered stays: botocore checks and writes each request and reads each
answer, moto answers. Left out is what is on the way between the two and says nothing, which was
half of a workflow's time: signatures that nobody checks, the user agent, and finding out anew who
answers at a URL. DynamoDB, which most calls go to, is handed the request as it is, without HTTP.
"""

from __future__ import annotations

import re
import string
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any

from botocore import auth as signatures
from botocore.awsrequest import AWSPreparedRequest
from botocore.endpoint import Endpoint
from botocore.useragent import UserAgentString
from moto import backend_index, backends
from moto.core import models, responses
from moto.core.base_backend import BackendDict, BaseBackend
from moto.core.botocore_stubber import BotocoreStubber
from moto.core.request import normalize_request
from moto.dynamodb.responses import DynamoHandler
from moto.moto_api._internal.moto_random import MotoRandom
from moto.utilities.utils import get_partition
from werkzeug.exceptions import HTTPException

# What is replaced below are names that these modules use, not names that they export.
_responses: Any = responses
_user_agent: Any = UserAgentString
_base_backend: Any = BaseBackend
_stubber: Any = models.botocore_stubber
_ACCOUNT: str = models.DEFAULT_ACCOUNT_ID

_auth: Any = signatures
_sign = _auth.SigV4Auth.add_auth
_write_user_agent = UserAgentString.to_string
_create_request = Endpoint.create_request
_process_request = BotocoreStubber.process_request
_urls = _base_backend.urls.fget


def _name_the_signer(signer: Any, request: Any) -> None:
    """Say for which service and region a request is, and leave its signature out."""
    if not _stubber.enabled or type(signer) not in {_auth.SigV4Auth, _auth.S3SigV4Auth}:
        _sign(signer, request)
        return
    request.context["timestamp"] = _auth.get_current_datetime().strftime(_auth.SIGV4_TIMESTAMP)
    signer._modify_request_before_signing(request)
    signer._inject_signature_to_request(request, "none")


def _no_user_agent(agent: UserAgentString) -> str:
    return "botocore" if _stubber.enabled else _write_user_agent(agent)


class _Asked(AWSPreparedRequest):
    """What DynamoDB is asked, with what its answer depends on."""

    def __init__(self, written: Any) -> None:
        super().__init__(
            method=written["method"],
            url=written["url"],
            headers=written["headers"],
            body=written["body"],
            stream_output=False,
        )
        self.region = written["context"]["client_region"]


def _create_request_or_ask(endpoint: Any, written: Any, operation_model: Any = None) -> Any:
    is_short = (
        _stubber.enabled
        and operation_model is not None
        and operation_model.service_model.service_name == "dynamodb"
    )
    return _Asked(written) if is_short else _create_request(endpoint, written, operation_model)


def _ask_dynamodb(asked: _Asked) -> Any:
    """Let moto's DynamoDB answer, with all set that it reads of a request."""
    handler: Any = DynamoHandler()
    handler.headers = asked.headers
    handler.querystring = handler.uri_match = {}
    handler.response_headers = {"server": "amazon.com"}
    handler.region, handler.current_account = asked.region, _ACCOUNT
    handler.partition = get_partition(asked.region)
    handler.parse_parameters(
        SimpleNamespace(
            content_type=asked.headers["Content-Type"],
            method=asked.method,
            values={},
            headers=asked.headers,
            data=asked.body,
            path="/",
        )
    )
    return handler.call_action()


@lru_cache(maxsize=1024)
def _answering_at(url: str) -> Any:
    """Return what answers at a URL without its query, as the stubber finds it; None if nothing."""
    for service, pattern in backend_index.backend_url_patterns:
        if not pattern.match(url):
            continue
        found: Any = backends.get_backend(service)  # type: ignore[call-overload]  # a service's name
        if isinstance(found, BackendDict):
            regions = found[_ACCOUNT]
            backend = regions["us-east-1" if "us-east-1" in regions else "aws"]
        else:
            backend = found["global"]
        for matching, answer in backend.urls.items():
            if re.match(matching, url):
                return answer
    return None


def _process(stubber: Any, request: Any) -> Any:
    """Answer a request as the stubber does; no test lets a service through to AWS."""
    if isinstance(request, _Asked):
        return _ask_dynamodb(request)
    answer = _answering_at(request.url.partition("?")[0])
    if answer is None:
        return _process_request(stubber, request)
    normal = normalize_request(request)
    try:
        return answer(normal, normal.raw_url, normal.headers)
    except HTTPException as error:
        return error.code, error.get_headers(), error.get_body()


_found_urls: dict[type, Any] = {}


def _urls_once(backend: BaseBackend) -> Any:
    """Remember the URLs of a service; for those of S3, moto runs a module anew."""
    if type(backend) not in _found_urls:
        _found_urls[type(backend)] = _urls(backend)
    return _found_urls[type(backend)]


def _random_string(
    random: MotoRandom,
    length: int = 20,
    include_digits: bool = True,  # noqa: FBT001, FBT002  # as moto has it
    lower_case: bool = False,  # noqa: FBT001, FBT002
) -> str:
    pool = string.ascii_letters + (string.digits if include_digits else "")
    drawn = "".join(random.choices(pool, k=length))
    return drawn.lower() if lower_case else drawn


_base_backend.urls = property(_urls_once)
_auth.SigV4Auth.add_auth = _name_the_signer
_user_agent.to_string = _no_user_agent
_endpoint: Any = Endpoint
_endpoint.create_request = _create_request_or_ask
_botocore_stubber: Any = BotocoreStubber
_botocore_stubber.process_request = _process
_random: Any = MotoRandom
_random.get_random_string = _random_string
_responses.camelcase_to_underscores = cache(_responses.camelcase_to_underscores)
