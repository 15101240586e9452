"""The marker that every resource carries: which project it belongs to and which job made it."""

from collections.abc import Mapping
from dataclasses import dataclass

MANAGED_BY_TAG = "provisioner:managed-by"
PROJECT_TAG = "provisioner:project-id"
JOB_TAG = "provisioner:job-id"


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whose a resource is.

    A resource of ours is recognized by deployment and project: a later job of the same project
    takes it up and leaves the marker as it is, so that the job in it stays the one that made it.
    """

    #: The deployment (stack and account) whose resources these are.
    namespace: str
    project_id: str
    job_id: str

    def tags(self) -> dict[str, str]:
        """Return the marker as resource tags."""
        return {
            MANAGED_BY_TAG: self.namespace,
            PROJECT_TAG: self.project_id,
            JOB_TAG: self.job_id,
        }

    def owns(self, tags: Mapping[str, str]) -> bool:
        """Whether a resource with these tags belongs to the same deployment and project."""
        return (
            tags.get(MANAGED_BY_TAG) == self.namespace and tags.get(PROJECT_TAG) == self.project_id
        )

    def comment(self) -> str:
        """Return the marker as the comment of a database object."""
        return " ".join(f"{key}={value}" for key, value in self.tags().items())

    def owns_comment(self, comment: str | None) -> bool:
        """Whether a database object of this comment belongs to the same deployment and project."""
        return self.owns(
            dict(part.split("=", 1) for part in (comment or "").split() if "=" in part)
        )
