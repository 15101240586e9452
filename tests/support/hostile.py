"""What someone could put where a name or a text is asked for."""

from __future__ import annotations

#: None of it is an id. By what it could break.
TEXTS = {
    "nothing": "",
    "a space": " ",
    "very long": "x" * 5000,
    "longer than a key": "x" * 2049,
    "NUL": "shop\x00",
    "a line of its own": 'shop\n{"level":"INFO","message":"forged"}',
    "a header": "shop\r\nX-Forged: 1",
    "the end of SQL": "shop'; DROP DATABASE postgres; --",
    "an SQL identifier": 'shop"; DROP ROLE provisioner; --',
    "a dollar quote": "$$; SELECT 1; $$",
    "a path": "../../etc/passwd",
    "a Windows path": "..\\..\\shop",
    "an encoded path": "%2e%2e%2fshop",
    "an ARN": "arn:aws:s3:::shop/*",
    "a wildcard": "*",
    "a policy variable": "${aws:username}",
    "a substitution": "${LifecycleFunctionArn}",
    "a JSONPath": "$.job.payload",
    "the context": "$$.Execution.Id",
    "an intrinsic function": "States.Format('{}', $.job)",
    "a JSONata expression": "{% $states.input %}",
    "a placeholder of a name": "#status",
    "a placeholder of a value": ":of_attempt",
    "a format": "%s{0}{job_id}",
    "HTML": "<script>alert(1)</script>",
    "markup": "[red]shop[/red]",
    "a command of a terminal": "\x1b[2J\x1b]0;shop\x07",
    "a shell's command": "$(reboot) `reboot` | reboot",
    "a look-alike": "\u0455hop",
    "full width": "\uff53\uff48\uff4f\uff50",
    "from right to left": "\u202epohs",
    "no width": "sh\u200bop",
    "another digit": "shop\u0663",
    "another form": "shoe\u0301",
    "no character": "shop\ufffe",
    "no character either": "\uffff",
    "half a pair": "shop\ud800",
    "beyond the first plane": "shop\U0001f600",
}

#: Words that mean something to DynamoDB, PostgreSQL or Python, and are ids all the same.
RESERVED_WORDS = ["status", "Attempt", "SELECT", "user", "table", "public", "template1", "NULL"]

#: What UTF-8 can hold, and so a message, a table and an execution.
CARRIED = {name: text for name, text in TEXTS.items() if name != "half a pair"}


def nested(depth: int) -> dict[str, object]:
    """Return objects within objects."""
    made: dict[str, object] = {}
    for _ in range(depth):
        made = {"a": made}
    return made


#: Metadata that has it all: it is kept as it is, and means nothing to anyone.
METADATA: dict[str, object] = {
    "texts": list(CARRIED.values())[3:],
    **{text: text for text in CARRIED.values() if len(text) < 100},
    "value.$": "$.job.payload.project_id",
    "States.ALL": {"Retry": [], "Catch": [], "Next": "Failed"},
    "numbers": [0, -1, 10**60, 1e300, -1e-300, 0.1],
    "deep": nested(30),
    "__proto__": {"project_id": "other"},
    "project_id": "other",
    "password": None,
}
