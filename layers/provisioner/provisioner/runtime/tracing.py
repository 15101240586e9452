"""The tracer of the functions.

Only they import it: the X-Ray SDK makes a client, of the profile that the environment names, when
it is imported. It is not auto-patched: patching imports every library that the SDK knows and costs
more than the rest of a function's start.
"""

from aws_lambda_powertools import Tracer

tracer = Tracer(auto_patch=False)
