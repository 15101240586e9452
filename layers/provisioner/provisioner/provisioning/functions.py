"""The functions that run stages: each has the access of its own, and no other."""

from provisioner.jobs.definition import Function

#: For how long a clean-up may wait until nothing of the failed job is at work: in the process of a
#: person it is taken to be so for an hour.
LEASE_SECONDS = 60 * 60
#: Reaches the tables alone.
LIFECYCLE = Function("lifecycle", seconds=60)
#: Reaches the clusters, and the secrets of logins.
DATABASE = Function("database", seconds=180)
#: Reaches Amazon RDS, and the secrets of instances; it is in no VPC, and opens no database.
INSTANCES = Function("instances", seconds=120)
#: For how long a stage may wait for AWS to make an instance, or to start one: it takes 4 to 10
#: minutes, and sometimes much longer.
INSTANCE_SECONDS = 40 * 60
#: For how long one may wait until an instance is gone: one that AWS makes is waited for first.
INSTANCE_REMOVAL_SECONDS = 60 * 60
#: For how long one may wait for a snapshot of an instance: the first copies all that it stores.
INSTANCE_SNAPSHOT_SECONDS = 4 * 60 * 60
#: Reaches Cognito, AppSync and S3.
SERVICES = Function("services", seconds=120)
#: Reaches the secrets of API keys, and their digests.
API_KEYS = Function("api_keys", seconds=120)
#: Reads databases, and writes the bucket of snapshots.
SNAPSHOT = Function("snapshot", seconds=900)

#: All of them, by name.
FUNCTIONS = {f.name: f for f in (LIFECYCLE, DATABASE, INSTANCES, SERVICES, API_KEYS, SNAPSHOT)}
