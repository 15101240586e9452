"""A desk whose settings are meant for something else than the local stack."""

from __future__ import annotations

#: What a desk may have that is meant for something else.
DESK = {
    "HTTP_PROXY": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1",
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "AWS_PROFILE": "production",
    "AWS_CONFIG_FILE": "/etc/passwd",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:2",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:2",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_CA_BUNDLE": "/nowhere",
    "AWS_RETRY_MODE": "no such mode",
    "AWS_MAX_ATTEMPTS": "none",
    "AWS_SESSION_TOKEN": "a session's",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "never",
    "PGSERVICE": "nowhere",
    "PGHOSTADDR": "192.0.2.1",
    "PGOPTIONS": "-c no_such_setting=1",
    "PGSSLMODE": "verify-full",
    "PYTHONPATH": "/nowhere",
    "PYTHONHOME": "/nowhere",
    "UV_PYTHON": "2.7",
    "UV_TARGET": "/nowhere",
    "SAM_TEMPLATE_FILE": "/nowhere",
    "LANG": "xx_YY.ISO-8859-1",
    "TMPDIR": "/nowhere",
}
