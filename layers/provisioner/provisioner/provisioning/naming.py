"""Names of a project's resources: derived from its id alone, within each service's limits."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from provisioner.drivers.database_engine import TenantNames
from provisioner.ownership import Ownership
from provisioner.provisioning.engine import Engine

#: Characters of the project id that a name shows.
_SLUG_LENGTH = 24
#: Hexadecimal digits of the hash: 40 bits keep the slugs of different projects apart.
_HASH_LENGTH = 10

#: Characters of a bucket's name at most. Source: Amazon S3 User Guide, "General purpose bucket
#: naming rules".
_BUCKET_LENGTH = 63
#: Digits of an AWS account's id.
_ACCOUNT_LENGTH = 12

#: What the name of a snapshot ends with.
SNAPSHOT_SUFFIX = ".dump"


@dataclass(frozen=True, slots=True)
class ResourceNames:
    """Every name that one project's resources have in one deployment."""

    #: Cognito user pool: 1 to 128 characters.
    user_pool: str
    user_pool_client: str
    #: AppSync Event API: 1 to 50 characters.
    event_api: str
    #: AppSync channel namespace: 1 to 50 letters, digits and hyphens.
    channel_namespace: str
    #: RDS instance: 1 to 63 lower-case letters, digits and hyphens, first a letter, no hyphen at
    #: the end, and no two in a row.
    instance: str
    #: Secrets Manager secret with the instance's master user, among the logins on clusters.
    instance_secret: str
    #: Secrets Manager secret with the app role's login.
    database_secret: str
    #: Secrets Manager secret that hands over the API keys once.
    api_keys_secret: str
    #: What it has on a cluster, by the technology of its database.
    tenants: Mapping[Engine, TenantNames]


def _slug(text: str) -> str:
    """Write an id in lower-case letters, digits and single hyphens.

    Different ids can have one slug: a hash beside it keeps them apart. RDS refuses two hyphens in a
    row, and S3 keeps some names with two for itself. Source: Amazon RDS API Reference,
    CreateDBInstance; Amazon S3 User Guide, "General purpose bucket naming rules".
    """
    return re.sub("[_-]+", "-", text.lower()).strip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


def instance_snapshot_name(names: ResourceNames, job_id: str) -> str:
    """Name the RDS snapshot which a job takes of a project's instance.

    It has at most 122 of the 255 characters that RDS takes, by the rule of an instance's name.
    Source: Amazon RDS API Reference, CreateDBSnapshot.
    """
    parts = (names.instance, _slug(job_id), _digest(job_id))
    return "-".join(filter(None, parts))


def snapshot_key(project_id: str, job_id: str) -> str:
    """Name the object that holds the snapshot which a job takes of a project's database."""
    return f"{project_id}/{job_id}{SNAPSHOT_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Naming:
    """One deployment's way to name and mark what it makes."""

    #: 2 to 10 lower-case letters and digits, first a letter, and none that a service keeps for
    #: itself; the IAM policies allow only names that begin with it.
    prefix: str
    #: The deployment, as `<stack>-<account id>`; it goes into the hash, so that two deployments
    #: that serve the same project id get different names.
    namespace: str
    #: Whether new buckets are in S3's namespace of the account and region, in which nobody else can
    #: ever have a bucket; else in the one that all accounts share.
    has_own_buckets: bool = True

    def names(self, project_id: str) -> ResourceNames:
        """Name the resources of a project whose id is valid, but for its bucket."""
        digest = self._digest(project_id)
        name = self._name(project_id, _SLUG_LENGTH)
        identifier = name.replace("-", "_")
        return ResourceNames(
            user_pool=name,
            user_pool_client=f"{name}-app",
            event_api=name,
            channel_namespace="default",
            instance=name,
            instance_secret=f"{self.prefix}/clusters/{name}",
            database_secret=f"{self.prefix}/{name}/database",
            api_keys_secret=f"{self.prefix}/{name}/api-keys",
            tenants={
                Engine.POSTGRESQL: TenantNames(
                    database=identifier,
                    schema="app",
                    app_role=f"{identifier}_app",
                    owner_role=f"{identifier}_owner",
                ),
                # Schema and database are one, and a login has 32 characters at most.
                Engine.MYSQL: TenantNames(
                    database=identifier, schema=identifier, app_role=f"{self.prefix}_{digest}_app"
                ),
            },
        )

    def bucket(self, project_id: str, region: str) -> str:
        """Name the S3 bucket that is made for a project in a region.

        It has 3 to 63 lower-case letters, digits and hyphens. In the account's own namespace it
        ends with account and region, and shows so much less of the project's id: beside a prefix of
        10 characters, a region's name may have up to 25. Source: Amazon S3 User Guide, "Namespaces
        for general purpose buckets".
        """
        if not self.has_own_buckets:
            return self._name(project_id, _SLUG_LENGTH)
        suffix = f"-{self.namespace[-_ACCOUNT_LENGTH:]}-{region}-an"
        others = self.prefix, self._digest(project_id), suffix
        room = _BUCKET_LENGTH - sum(map(len, others)) - len("--")
        return self._name(project_id, min(_SLUG_LENGTH, room)) + suffix

    def _name(self, project_id: str, slug_length: int) -> str:
        """Name a project by the start of its id, and by a hash that no other project has."""
        slug = _slug(project_id)[: max(slug_length, 0)].strip("-")
        return "-".join(filter(None, (self.prefix, slug, self._digest(project_id))))

    def _digest(self, project_id: str) -> str:
        return _digest(f"{self.namespace}/{project_id}")

    def owner(self, project_id: str, job_id: str) -> Ownership:
        """Return the marker of what a job makes for a project."""
        return Ownership(namespace=self.namespace, project_id=project_id, job_id=job_id)
