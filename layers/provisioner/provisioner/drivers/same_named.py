"""Things of a service that lets there be several of one name, and has no client token.

One of ours is looked for by name and marker before it is made, and afterwards, in case two runs
made one each: every run keeps the oldest and removes only its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from provisioner.drivers.aws_errors import is_sent_once
from provisioner.errors import ErrorType, conflict, failure

#: Is called as soon as a thing was made, with what deletes it again unless it is the one of the id
#: that it is given; see `SameNamed.keep_one`.
type Made = Callable[[Callable[[str], None]], object]


def ignore(_keep_one: Callable[[str], None]) -> None:
    """Let what was made be."""


@dataclass(frozen=True, slots=True)
class SameNamed[Thing]:
    """All things of one kind and name, whoever made them."""

    #: What one is, for people: `user pool`.
    kind: str
    name: str
    #: What the service's answers have one under: `UserPool`.
    field: str
    #: Returns the ids of those that the service lists.
    list_ids: Callable[[], Iterator[str]]
    #: Ask for and delete the one of an id; both raise `missing` where there is none.
    get: Callable[[str], Mapping[str, Any]]
    delete: Callable[[str], object]
    missing: type[Exception]
    id_of: Callable[[Thing], str]
    #: Sorts things by their age, the oldest first.
    age_of: Callable[[Thing], Any]
    #: Says whether one is ours.
    is_ours: Callable[[Thing], bool]
    #: What a new one would be in the place of one that is known and gone, for people.
    loss: str = ""

    def ensure(
        self,
        make: Callable[[], Mapping[str, Any]],
        *,
        may_exist: bool,
        made: Made,
    ) -> tuple[Thing, bool]:
        """Return the oldest that is ours; make one where there is none.

        Args:
            make: makes one, and returns the service's answer.
            may_exist: whether one can be there already. If not, one is made without a look at the
                list; who says so sees to it that no other run makes one that stays.
            made: as of `Made`.

        Returns:
            The thing, and whether it was made here, by one request, where none could be there.

        Raises:
            CONFLICT: there are some, and none is ours.
        """
        found = self.find_oldest() if may_exist else None
        if found is not None:
            return found, False
        answer = make()
        thing: Thing = answer[self.field]
        made(partial(self.keep_one, self.id_of(thing)))
        if not may_exist and is_sent_once(answer):
            return thing, True
        return self.settle(self.id_of(thing)), False

    def describe(self, identifier: str) -> Thing:
        """Return the one of an id; raises `missing` where there is none."""
        thing: Thing = self.get(identifier)[self.field]
        return thing

    def find(self, known: str | None = None) -> list[Thing]:
        """Return those that are ours.

        Args:
            known: the id of the only one of ours that there can be; empty where there can be none.
                None where nobody knows: then all are listed.

        Raises:
            botocore.exceptions.ClientError: they could not be listed or described.
        """
        ids = self.list_ids() if known is None else filter(None, [known])
        return list(filter(self.is_ours, self._describe(ids)))

    def find_oldest(self) -> Thing | None:
        """Return the oldest that is ours.

        Raises:
            CONFLICT: there are some, and none is ours.
        """
        things = list(self._describe(self.list_ids()))
        ours = list(filter(self.is_ours, things))
        if things and not ours:
            raise conflict(self.kind, self.name)
        return min(ours, key=lambda it: (self.age_of(it), self.id_of(it)), default=None)

    def settle(self, made: str) -> Thing:
        """Return the oldest that is ours; delete the one that this run has made if it is another.

        Args:
            made: the id of what this run has made.
        """
        oldest = self.find_oldest()
        if oldest is None:
            return self.describe(made)
        if self.id_of(oldest) != made:
            self.delete(made)
        return oldest

    def keep_one(self, made: str, kept: str) -> None:
        """Delete what this run has made, unless it is the one that is kept.

        Args:
            made: the id of what this run has made.
            kept: that of the one that is known to be the project's; empty where none is: then it is
                the oldest.
        """
        # What they are in may have gone, too.
        with suppress(self.missing):
            if not kept:
                self.settle(made)
            elif kept != made:
                self.delete(made)

    def remove(self, known: str | None = None) -> str:
        """Delete those that are ours; say what is there.

        Args:
            known: as of `find`.

        Raises:
            TIMEOUT: one was deleted and is still there.
        """
        for thing in self.find(known):
            with suppress(self.missing):
                self.delete(self.id_of(thing))
        left = [self.id_of(thing) for thing in self.find(known)]
        if left:
            raise failure(
                ErrorType.TIMEOUT,
                f"The {self.kind} of the project is still there.",
                f"{self.kind} {', '.join(left)}: was deleted and is still there",
            )
        return f"no {self.kind} named {self.name} is left to remove"

    def require(self, identifier: str) -> Thing:
        """Return the one of an id, which is known.

        Raises:
            SERVICE_REGISTRATION_FAILED: it is not there.
            CONFLICT: it does not have the project's marker.
        """
        try:
            thing = self.describe(identifier)
        except self.missing:
            raise failure(
                ErrorType.SERVICE_REGISTRATION_FAILED,
                f"The {self.kind} {identifier} of the project is not there, and a new one would "
                f"{self.loss}; deprovision the project and provision it again.",
                f"{self.kind} {identifier}: is not there",
            ) from None
        if not self.is_ours(thing):
            raise failure(
                ErrorType.CONFLICT,
                f"The {self.kind} {identifier} does not have the project's tags; give them back to "
                "it.",
            )
        return thing

    def _describe(self, ids: Iterable[str]) -> Iterator[Thing]:
        for identifier in ids:
            # One that is deleted in this moment is listed and cannot be described.
            with suppress(self.missing):
                yield self.describe(identifier)
