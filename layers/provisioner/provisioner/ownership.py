"""The marker that every resource carries: which project it belongs to and which job made it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MANAGED_BY_TAG = "provisioner:managed-by"
PROJECT_TAG = "provisioner:project-id"
JOB_TAG = "provisioner:job-id"


#: Says by the tags of a resource whether it may be removed.
type Claim = Callable[[Mapping[str, str]], bool]


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

    def tag_list(self) -> list[Any]:
        """Return the marker as services take it that keep tags in a list."""
        return [{"Key": key, "Value": value} for key, value in self.tags().items()]

    def owns(self, tags: Mapping[str, str]) -> bool:
        """Whether a resource with these tags belongs to the same deployment and project."""
        return (
            tags.get(MANAGED_BY_TAG) == self.namespace and tags.get(PROJECT_TAG) == self.project_id
        )

    def made(self, tags: Mapping[str, str]) -> bool:
        """Whether a resource with these tags was made by this very job."""
        return self.owns(tags) and tags.get(JOB_TAG) == self.job_id

    def claim(self, *, only_this_job: bool) -> Claim:
        """Return what says by its marker whether a resource may be removed.

        Args:
            only_this_job: whether what other jobs of the project made stays.
        """
        return self.made if only_this_job else self.owns

    def comment(self) -> str:
        """Return the marker as the comment of a database object."""
        return " ".join(f"{key}={value}" for key, value in self.tags().items())

    def owns_comment(self, comment: str | None) -> bool:
        """Whether a database object of this comment belongs to the same deployment and project."""
        return self.owns(tags_of_comment(comment))


def tags_of_list(tags: Iterable[Any]) -> dict[str, str]:
    """Return the tags of a service that keeps them in a list, as `Ownership.tag_list` does."""
    return {tag["Key"]: tag["Value"] for tag in tags}


def tags_of_comment(comment: str | None) -> dict[str, str]:
    """Return the marker that a database object's comment holds, as resource tags."""
    return dict(part.split("=", 1) for part in (comment or "").split() if "=" in part)
