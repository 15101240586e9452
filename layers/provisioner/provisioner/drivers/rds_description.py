"""Amazon RDS: what a database instance is to be, and how one that is there differs.

Source: Amazon RDS API Reference, CreateDBInstance and ModifyDBInstance; Amazon RDS User Guide,
"Upgrading a DB instance engine version".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from provisioner.aws_types import DBInstanceTypeDef
from provisioner.drivers.drift import Remaining
from provisioner.drivers.server_versions import keeps_version
from provisioner.ownership import Ownership

#: An identifier of an instance or a snapshot: letters, digits and single hyphens, first a letter.
#: RDS keeps it in lower case.
_IDENTIFIER = re.compile("[a-z](-?[a-z0-9])*")

_MASTER_USER = re.compile("[A-Za-z][A-Za-z0-9_]{0,15}")

#: A master password: MySQL and MariaDB take 41 characters at most, and none of / " ' @ or a space.
_MASTER_PASSWORD = re.compile(r"[!#-&(-.0-?A-~]{8,41}")

#: What RDS takes at all: characters of an identifier, ports, GiB of gp3 storage, days of backups.
_IDENTIFIER_LENGTH = 63
_BOUNDS = {
    "port": range(1150, 65535 + 1),
    "storage_gb": range(20, 65536 + 1),
    "backup_days": range(35 + 1),
}

#: What every instance is made with, and its operator may change: a standby doubles the price, and
#: minor versions bring the corrections of the server's security. docs/decisions.md says why.
_FIRST_SETTINGS: dict[str, Any] = {
    "MultiAZ": False,
    "AutoMinorVersionUpgrade": True,
    "StorageType": "gp3",
    "CACertificateIdentifier": "rds-ca-rsa2048-g1",
}


@dataclass(frozen=True, slots=True)
class InstanceDescription:
    """What an instance is to be; the password is left out of its text form.

    Raises:
        ValueError: RDS would refuse it, whatever the account and the region.
    """

    #: 1 to 63 lower-case letters, digits and single hyphens, first a letter.
    identifier: str
    #: RDS's word: `postgres` or `mysql`; of a local stack also `mariadb`.
    engine: str
    #: Such as `16` or `8.4`: RDS takes its newest version that begins so.
    version: str
    #: The instance class, such as `db.t4g.micro`.
    size: str
    #: GiB, 20 to 65,536.
    storage_gb: int
    #: The master user: 1 to 16 letters, digits and underscores, first a letter.
    user: str
    #: Its password: 8 to 41 printable characters of ASCII, none of them a space or one of / " ' @.
    password: str = field(repr=False)
    #: 1150 to 65535.
    port: int
    subnet_group: str
    #: The instance's whole set; that of the VPC's default where it is empty.
    security_group_ids: tuple[str, ...]
    #: Days for which automated backups are kept, 0 to 35; 0 switches them off.
    backup_days: int
    deletion_protection: bool
    #: The key of AWS KMS that a new one is encrypted with, of its region; None for the account's
    #: own. One that is there, or is made of a snapshot, keeps the key that it has.
    kms_key_arn: str | None = None

    def __post_init__(self) -> None:
        """Refuse what RDS refuses: emulators take it."""
        if not _MASTER_USER.fullmatch(self.user):
            raise ValueError(
                "user: RDS takes 1 to 16 letters, digits and underscores, first a letter."
            )
        if len(self.identifier) > _IDENTIFIER_LENGTH or not _IDENTIFIER.fullmatch(self.identifier):
            raise ValueError(
                f"identifier: RDS takes at most {_IDENTIFIER_LENGTH} lower-case letters, digits "
                "and single hyphens, first a letter and last no hyphen."
            )
        if not _MASTER_PASSWORD.fullmatch(self.password):
            # The message does not tell it.
            raise ValueError(
                "password: RDS takes 8 to 41 printable characters of ASCII, no space, none of "
                "/ \" ' @."
            )
        for name, bounds in _BOUNDS.items():
            if getattr(self, name) not in bounds:
                raise ValueError(f"{name}: RDS takes {bounds.start} to {bounds[-1]}.")


def settings_of_new(description: InstanceDescription, owner: Ownership) -> dict[str, Any]:
    """Return what is set alike for a new instance and for a restored one."""
    groups = list(description.security_group_ids)
    return {
        **_FIRST_SETTINGS,
        "DBInstanceIdentifier": description.identifier,
        "DBInstanceClass": description.size,
        "Port": description.port,
        "DBSubnetGroupName": description.subnet_group,
        **({"VpcSecurityGroupIds": groups} if groups else {}),
        "PubliclyAccessible": False,
        "BackupRetentionPeriod": description.backup_days,
        "DeletionProtection": description.deletion_protection,
        "CopyTagsToSnapshot": True,
        "Tags": owner.tag_list(),
    }


def settings(found: DBInstanceTypeDef) -> dict[str, Any]:
    """Return the settings of ours that an instance has, or will have: a change may be pending."""
    return {
        **found,
        **found.get("PendingModifiedValues", {}),
        "VpcSecurityGroupIds": [
            group["VpcSecurityGroupId"]
            for group in found.get("VpcSecurityGroups", [])
            if group.get("Status") != "removing"
        ],
    }


def wanted_settings(found: DBInstanceTypeDef, description: InstanceDescription) -> dict[str, Any]:
    """Return the settings that an instance must have; what is stricter is right as it is."""
    groups = list(description.security_group_ids)
    return {
        "BackupRetentionPeriod": max(
            settings(found).get("BackupRetentionPeriod", 0), description.backup_days
        ),
        "DeletionProtection": description.deletion_protection
        or found.get("DeletionProtection", False),
        "PubliclyAccessible": False,
        "CopyTagsToSnapshot": True,
        **({"VpcSecurityGroupIds": groups} if groups else {}),
    }


def differences(found: DBInstanceTypeDef, description: InstanceDescription) -> Iterator[Remaining]:
    """Yield what is not as described and that a repair leaves as it is."""
    will_be = settings(found)
    engine, version = will_be["Engine"], will_be["EngineVersion"]
    size, storage = will_be["DBInstanceClass"], will_be["AllocatedStorage"]
    is_engine = engine == description.engine
    is_version = keeps_version(description.engine, version, description.version)
    for what, is_right, why in (
        (
            "Engine",
            is_engine,
            f"Its engine is {engine}, not {description.engine}: make a new instance.",
        ),
        (
            "EngineVersion",
            is_version or not is_engine,
            f"Its version is {version}, not {description.version}: RDS only goes to newer ones.",
        ),
        (
            "DBInstanceClass",
            size == description.size,
            (
                f"Its size is {size}, not {description.size}: modify the instance (rds "
                "modify-db-instance), which interrupts it."
            ),
        ),
        (
            "AllocatedStorage",
            storage >= description.storage_gb,
            (
                f"Its storage is {storage} GB, not {description.storage_gb}: modify the instance "
                "(rds modify-db-instance)."
            ),
        ),
        (
            "StorageEncrypted",
            found.get("StorageEncrypted", True),
            "It is not encrypted: only a new instance can be, of an encrypted copy of a snapshot.",
        ),
    ):
        if not is_right:
            yield Remaining(name_of(description.identifier), what, why)


def grown_storage(
    found: DBInstanceTypeDef, description: InstanceDescription
) -> Iterator[Remaining]:
    """Yield that there is more storage than described, where there is."""
    storage = settings(found)["AllocatedStorage"]
    if storage > description.storage_gb:
        why = (
            f"Its storage is {storage} GB, not {description.storage_gb}: RDS never makes it "
            "smaller, and nothing needs to be done."
        )
        yield Remaining(name_of(description.identifier), "AllocatedStorage", why)


def name_of(identifier: str) -> str:
    """Return what an instance is called in a report of repairs."""
    return f"database instance {identifier}"
