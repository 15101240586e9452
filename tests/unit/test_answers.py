"""What is not AWS's answer is never read as one: a proxy's page, a portal's, nothing, a part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from provision_cli.main import main
from provisioner import api
from provisioner.drivers.aws_errors import translate_errors
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.runtime import aws
from support.portal import Page, Portal, portal

HTML = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body><p>Room?<br></body></html>"
XHTML = b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body/></html>'
WEB = {"Content-Type": "text/html; charset=utf-8"}
JSON = {"Content-Type": "application/json"}
NAMED = {"x-amzn-RequestId": "6f1c0c1e-3d3c-4b0c-9a37-5b5b8f6a2f0e"}

#: Calls of every protocol: JSON, REST-JSON, XML query and REST-XML; with a body that is read, with
#: one that is a file, and without.
CALLS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "GetItem": ("dynamodb", lambda c: c.get_item(TableName="jobs", Key={"job_id": {"S": "a"}})),
    "Scan": ("dynamodb", lambda c: c.scan(TableName="jobs")),
    "SendMessage": (
        "sqs",
        lambda c: c.send_message(QueueUrl=f"{c.meta.endpoint_url}/1/jobs", MessageBody="{}"),
    ),
    "DeleteMessage": (
        "sqs",
        lambda c: c.delete_message(QueueUrl=f"{c.meta.endpoint_url}/1/jobs", ReceiptHandle="a"),
    ),
    "DescribeExecution": (
        "stepfunctions",
        lambda c: c.describe_execution(
            executionArn="arn:aws:states:eu-central-1:123456789012:execution:jobs:a"
        ),
    ),
    "GetSecretValue": ("secretsmanager", lambda c: c.get_secret_value(SecretId="a")),
    "GetParameter": ("ssm", lambda c: c.get_parameter(Name="a")),
    "ListUserPools": ("cognito-idp", lambda c: c.list_user_pools(MaxResults=1)),
    "ListApis": ("appsync", lambda c: c.list_apis()),
    "DescribeStacks": ("cloudformation", lambda c: c.describe_stacks(StackName="a")),
    "HeadBucket": ("s3", lambda c: c.head_bucket(Bucket="bucket")),
    "ListObjectVersions": ("s3", lambda c: c.list_object_versions(Bucket="bucket")),
    "GetBucketPolicy": ("s3", lambda c: c.get_bucket_policy(Bucket="bucket")),
    "PutBucketTagging": (
        "s3",
        lambda c: c.put_bucket_tagging(Bucket="bucket", Tagging={"TagSet": []}),
    ),
    "DeleteBucket": ("s3", lambda c: c.delete_bucket(Bucket="bucket")),
}

#: What else answers, with what is said of it.
FOREIGN: dict[str, tuple[Page, str]] = {
    "a portal": (Page(200, WEB, HTML), "200 and a web page"),
    "a portal in XHTML": (Page(200, WEB, XHTML), "200 and a web page"),
    "a web page that names a request": (Page(200, WEB | NAMED, HTML), "200 and a web page"),
    "a redirect": (
        Page(302, WEB | {"Location": "http://portal.example:8080/login?token=4711"}, HTML),
        "302: a redirect to http://portal.example:8080.",
    ),
    "a redirect within": (Page(307, {"Location": "/login"}), "307: a redirect to another page."),
    "a login": (Page(407, WEB, HTML), "407: a proxy wants a login"),
    "a login without a page": (Page(407), "407: a proxy wants a login"),
    "a network's login": (Page(511, WEB, HTML), "511: a network wants a login"),
    "a web page of a refusal": (Page(403, WEB, HTML), "403 and a web page"),
    "a web page that is not there": (Page(404, WEB, HTML), "404 and a web page"),
    "a gateway": (Page(502, WEB, HTML), "502 and a web page"),
    "a service that is down": (Page(503, {"Content-Type": "text/plain"}, b"down"), "503 and"),
    "nothing": (Page(200), "200 and nothing"),
    "nothing to say": (Page(204), "204 and nothing"),
    "a refusal without a word": (Page(403), "403 and nothing"),
    "not there without a word": (Page(404), "404 and nothing"),
    "an object": (Page(200, JSON, b"{}"), "200 and no request id"),
    "another API": (Page(200, JSON, b'{"Item": {"job_id": {"S": "a"}}}'), "no request id"),
    "another API's error": (Page(400, JSON, b'{"error": "login"}'), "400 and no request id"),
    "a list": (Page(200, JSON, b"[]"), "200 and no request id"),
    "a word": (Page(200, {"Content-Type": "text/plain"}, b"Success"), "no request id"),
}

#: What is left of an answer of AWS that something on the way has cut, or put its own into.
BROKEN: dict[str, tuple[Page, str]] = {
    "nothing of it": (Page(200, NAMED), "nothing"),
    "a part": (Page(200, NAMED, b'{"Item": {"job_id'), "breaks off"),
    "a part of XML": (Page(200, NAMED, b'<?xml version="1.0"?><DescribeStacksRes'), "breaks off"),
    "another length": (
        Page(200, NAMED | {"Content-Length": "500"}, b'{"Items": []}'),
        "13 of its 500 bytes",
    ),
    "a list": (Page(200, NAMED, b"[]"), ""),
    "null": (Page(200, NAMED, b"null"), ""),
    "an error that is a list": (Page(400, NAMED, b"[]"), ""),
}

#: Of these the body is read as JSON or XML.
READ = [name for name in CALLS if not name.startswith(("Head", "Delete", "Put", "GetBucket"))]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Portal]:
    """Lead the AWS SDK to a server of another kind, by a login that no message may tell."""
    with portal() as made, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", made.url.replace("//", "//someone:hunter2@"))
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "example")
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
        aws.reset()
        yield made
        aws.reset()


def call(name: str) -> Any:
    service, ask = CALLS[name]
    return ask(aws.client(service))


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_aws_is_never_read(elsewhere: Portal, what: str) -> None:
    page, said = FOREIGN[what]
    elsewhere.answer(page)
    for name in CALLS:
        with pytest.raises(api.NotAwsError) as caught:
            call(name)
        text = str(caught.value)
        assert text.startswith(f"That was not AWS: {elsewhere.url} answered {name} with ")
        # Of a page that is asked for by HEAD there is nothing to see but its headers.
        assert said in text or name == "HeadBucket"
        assert "Check the proxy" in text
        assert not any(secret in text for secret in ("hunter2", "token", "Room"))


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("name", READ)
def test_a_part_of_an_answer_is_never_read(elsewhere: Portal, name: str, what: str) -> None:
    page, said = BROKEN[what]
    elsewhere.answer(page)
    with pytest.raises(api.NotAwsError) as caught:
        call(name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "page", "answer"),
    [
        ("GetItem", Page(200, NAMED, b"{}"), {}),
        ("Scan", Page(200, NAMED, b'{"Count": 0, "Items": []}'), {"Count": 0, "Items": []}),
        ("DeleteMessage", Page(200, NAMED), {}),
        ("ListApis", Page(200, NAMED | JSON, b'{"apis": []}'), {"apis": []}),
        # What a HEAD answers has the length that a GET would have.
        ("HeadBucket", Page(200, {"x-amz-request-id": "4711", "Content-Length": "243"}), {}),
        ("PutBucketTagging", Page(204, {"x-amz-request-id": "4711"}), {}),
        ("GetBucketPolicy", Page(200, {"x-amz-id-2": "4711"}, b"{}"), {"Policy": "{}"}),
        (
            "DescribeStacks",
            Page(
                200,
                NAMED | {"Content-Type": "text/xml"},
                b"<DescribeStacksResponse><DescribeStacksResult><Stacks/></DescribeStacksResult>"
                b"<ResponseMetadata><RequestId>4711</RequestId></ResponseMetadata>"
                b"</DescribeStacksResponse>",
            ),
            {"Stacks": []},
        ),
    ],
)
def test_an_answer_of_aws_is_read(
    elsewhere: Portal, name: str, page: Page, answer: dict[str, Any]
) -> None:
    elsewhere.answer(page)
    given = call(name)
    assert {field: value for field, value in given.items() if field != "ResponseMetadata"} == answer


@pytest.mark.parametrize(
    ("name", "page", "code"),
    [
        ("GetItem", Page(400, NAMED, b'{"__type": "ThrottlingException"}'), "ThrottlingException"),
        ("HeadBucket", Page(404, {"x-amz-request-id": "4711"}), "404"),
        ("ListApis", Page(503, NAMED), "503"),
        (
            "DeleteBucket",
            Page(
                409,
                {"x-amz-request-id": "4711", "Content-Type": "application/xml"},
                b"<Error><Code>BucketNotEmpty</Code><Message>no</Message></Error>",
            ),
            "BucketNotEmpty",
        ),
    ],
)
def test_an_error_of_aws_stays_what_it_is(
    elsewhere: Portal, name: str, page: Page, code: str
) -> None:
    elsewhere.answer(page)
    with pytest.raises(ClientError) as caught:
        call(name)
    assert caught.value.response["Error"]["Code"] == code


@pytest.mark.parametrize("name", ["GetItem", "ListApis", "DescribeStacks", "HeadBucket"])
def test_a_gateway_that_is_down_is_asked_again(elsewhere: Portal, name: str) -> None:
    # A client tries only so many calls again, and this one has tried some.
    aws.reset()
    elsewhere.answer(Page(502, WEB, HTML))
    with pytest.raises(api.NotAwsError):
        call(name)
    assert elsewhere.asked == 4


def test_a_gateway_that_is_up_again_is_asked_no_more(elsewhere: Portal) -> None:
    elsewhere.answer(Page(503, WEB, HTML), Page(200, NAMED, b"{}"))
    assert "Item" not in call("GetItem")
    assert elsewhere.asked == 2


def test_a_stage_takes_it_for_an_outage_that_may_pass(elsewhere: Portal) -> None:
    elsewhere.answer(Page(200, WEB, HTML))
    with (
        pytest.raises(ProvisioningError) as caught,
        translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "look for the bucket"),
    ):
        call("HeadBucket")
    assert caught.value.type is ErrorType.NETWORK_ERROR
    assert caught.value.cause == "NotAwsError"


def test_the_program_says_what_to_check(
    elsewhere: Portal, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere.answer(Page(200, WEB, HTML))
    assert main(["--stack", "prod", "--region", "eu-central-1", "jobs"]) == 1
    assert capsys.readouterr().err == (
        f"provision: That was not AWS: {elsewhere.url} answered DescribeStacks with 200 and a web "
        "page. Check the proxy (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), whether the network wants a "
        "login in a browser first, and the endpoint (AWS_ENDPOINT_URL).\n"
    )


@pytest.mark.parametrize("page", [Page(200, WEB, HTML), Page(407, WEB, HTML), Page(200)])
def test_the_program_says_so_where_credentials_are_asked_for(
    elsewhere: Portal, capsys: pytest.CaptureFixture[str], tmp_path: Path, page: Page
) -> None:
    elsewhere.answer(page)
    config = tmp_path / "config"
    config.write_text(
        "[profile at-work]\nrole_arn = arn:aws:iam::123456789012:role/me\nsource_profile = mine\n"
        "[profile mine]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = example\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", str(config))
        patch.setenv("AWS_PROFILE", "at-work")
        aws.reset()
        assert main(["--stack", "prod", "--region", "eu-central-1", "jobs"]) == 1
    aws.reset()
    said = capsys.readouterr().err
    assert said.startswith("provision: That was not AWS: something answered AssumeRole with ")
    assert "Check the proxy" in said


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("HTTPS_PROXY", "check HTTPS_PROXY, and its login"),
        ("AWS_ENDPOINT_URL", "whether the network wants a login in a browser"),
    ],
)
def test_the_program_says_so_where_the_way_is_encrypted(
    elsewhere: Portal, capsys: pytest.CaptureFixture[str], variable: str, said: str
) -> None:
    elsewhere.answer(Page(407, WEB, HTML))
    url = elsewhere.url.replace("//", "//someone:hunter2@")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL")
        patch.setenv(variable, url if variable == "HTTPS_PROXY" else f"https{url[4:]}")
        aws.reset()
        assert main(["--stack", "prod", "--region", "eu-central-1", "jobs"]) == 1
    aws.reset()
    err = capsys.readouterr().err
    assert err.startswith("provision: That was not AWS: ")
    assert said in err
    assert "hunter2" not in err
