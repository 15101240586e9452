"""The functions that run stages: each has the access of its own, and no other."""

from provisioner.jobs.definition import Function

#: Reaches the tables alone.
LIFECYCLE = Function("lifecycle", seconds=60)
#: Reaches the clusters, and the secrets of logins.
DATABASE = Function("database", seconds=180)
#: Reaches Cognito, AppSync and S3.
SERVICES = Function("services", seconds=120)
#: Reaches the secrets of API keys, and their digests.
API_KEYS = Function("api_keys", seconds=120)
#: Reads databases, and writes the bucket of snapshots.
SNAPSHOT = Function("snapshot", seconds=900)

#: All of them, by name.
FUNCTIONS = {f.name: f for f in (LIFECYCLE, DATABASE, SERVICES, API_KEYS, SNAPSHOT)}
