"""The ledger of a model, its one object that changes: champion, decisions, and what was removed.

It is changed by compare and swap alone, and bears a counter, so that no two states of it are equal. All that must not
happen at once is decided here: a version is marked as removed before it is removed, so that it cannot become champion
meanwhile, and a parent as used before the version that builds on it is there.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from radtransfer.errors import RadtransferError
from radtransfer.registry.documents import Document, dump, load, named
from radtransfer.registry.places import Place

ATTEMPTS = 60
LONGEST_WAIT = 1.0
"""Seconds; others that change the ledger are given way to for a random time that grows to this."""


class Decision(Document):
    """What was decided on a version, and why.

    Attributes:
        action: ``promote``, ``rollback`` to it, or ``decline`` it.
        version: its number.
        champion: who is champion from then on; None: nobody.
        when: ISO 8601, UTC, by the clock of who decided; the order is that of the list.
        by, why: who, and for which reason.
        figures: those that it rests on.
        writer: tells this decision from every other.
    """

    action: Literal["promote", "rollback", "decline"]
    version: int = Field(ge=1)
    champion: int | None
    when: str
    by: str
    why: str = Field(min_length=1)
    figures: dict[str, Any]
    writer: str


class Ledger(Document):
    """See the module.

    Attributes:
        counter: how often it was changed.
        writer: of the last change.
        champion: number of the champion; None: there is none.
        history: all decisions, in order.
        removed: numbers of versions that retention removed.
        used: by number of a version, when one that builds on it was last entered, by the clock of the place.
    """

    counter: int = 0
    writer: str = ""
    champion: int | None = None
    history: list[Decision] = Field(default=[])
    removed: list[int] = Field(default=[])
    used: dict[str, float] = Field(default={})

    @property
    def reigns(self) -> list[int]:
        """The champion last, before it the one that a rollback leads to, and so on."""
        found: list[int] = []
        for decision in self.history:
            if decision.action == "promote":
                found.append(decision.version)
            elif decision.action == "rollback":
                found.pop()
        return found

    def taken_back(self, number: int) -> Decision | None:
        """The rollback that ended the reign of a version, if that is the last that was decided for or against it."""
        last, reigns = None, [0]
        for decision in self.history:
            if decision.action == "promote":
                reigns.append(decision.version)
                last = None if decision.version == number else last
            elif decision.action == "rollback":
                last = decision if reigns.pop() == number else last
        return last


def key(name: str) -> str:
    """Where the ledger of a model lies."""
    return f"ledgers/{named(name)}.json"


def read(place: Place, name: str) -> tuple[Ledger, str | None]:
    """The ledger of a model, and the tag to replace it by; None: there is none yet.

    Raises:
        RadtransferError: damaged, or of a newer schema.
    """
    found = place.read(key(name))
    return (Ledger(), None) if found is None else (load(found[0], Ledger, f"{place.name}/{key(name)}"), found[1])


def swap(place: Place, name: str, tag: str | None, after: Ledger) -> bool:
    """Put a ledger in the place of the one that was read with this tag; False: it has changed since, or it *may* be."""
    content = dump(after.model_copy(update={"counter": after.counter + 1, "writer": uuid.uuid4().hex}))
    stored = place.replace(key(name), content, tag) if tag else place.create(key(name), content)
    if not stored:
        found = place.read(key(name))
        stored = found is not None and found[0] == content  # the answer to a first request got lost
    return stored


def change(place: Place, name: str, decide: Callable[[Ledger], Ledger]) -> Ledger:
    """Change a ledger, as often as it takes until nobody else did meanwhile.

    Args:
        place: where it lies.
        name: of the model.
        decide: gives the ledger as it shall be; the one that it was given, if that is so already. It must know its own
            change again, which may have been made although the answer got lost.

    Returns:
        The ledger as it was decided.

    Raises:
        RadtransferError: others change it all the time; or what ``decide`` raises.
    """
    for attempt in range(ATTEMPTS):
        before, tag = read(place, name)
        after = decide(before)
        if after == before or swap(place, name, tag, after):
            return after
        time.sleep(random.uniform(0, min(LONGEST_WAIT, 0.01 * 2**attempt)))  # noqa: S311 - no secret
    raise RadtransferError(
        f"{place.name}/{key(name)}: others changed it {ATTEMPTS} times in a row; try again when there are fewer"
    )


def use(place: Place, name: str, number: int) -> None:
    """Note that a version is about to be built on, which keeps it from being removed until that shows.

    Raises:
        RadtransferError: it was removed.
    """
    now = place.now()

    def decide(ledger: Ledger) -> Ledger:
        if number in ledger.removed:
            raise RadtransferError(
                f"{place.name}: {name}@{number} was removed just now; what builds on it was not entered: enter it again"
            )
        return ledger.model_copy(update={"used": ledger.used | {str(number): now}})

    change(place, name, decide)
