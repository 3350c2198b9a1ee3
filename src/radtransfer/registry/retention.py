"""Which versions are kept, and the removal of the others and of what dead writers left.

A version is kept if it is one of the newest of its model, or young; if it is the champion, the one that a rollback
would lead to, or was champion within the same number of days; or if a version that is kept builds on it. All else goes.
Ages are by the clock of the place (the storage's own, not that of any writer), reigns by the dates in the ledger.

A version is first marked in the ledger as removed, and only if nothing else changed that ledger meanwhile, so that a
version that is promoted, or built on, at the same moment stays. What is marked is then removed, in this call or, if it
dies, in the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from radtransfer.errors import RadtransferError
from radtransfer.registry import ledger
from radtransfer.registry.ledger import Ledger
from radtransfer.registry.places import PARTIAL, Entry
from radtransfer.registry.versions import LEFT_HOURS, Registry, key

KEEP, DAYS = 5, 90
"""What is kept where nothing else is said: so many of the newest, and all that is younger."""
DAY = 86400


@dataclass(frozen=True)
class Judged:
    """What becomes of a version, or of what a dead writer left.

    Attributes:
        name: of the model.
        number: of the version; None: of none.
        size: bytes of its files.
        state: ``busy``: its ledger was changed meanwhile, so that it stays until the next time.
        why: the reason.
    """

    name: str
    number: int | None
    size: int
    state: Literal["kept", "removed", "busy"]
    why: str


def collect(registry: Registry, *, keep: int = KEEP, days: float = DAYS, dry_run: bool = False) -> list[Judged]:
    """Remove what is not to be kept.

    Args:
        registry: where.
        keep: so many of the newest versions of each model stay, 1 or more: numbers are never given twice.
        days: what is younger stays.
        dry_run: say what would be done, and do nothing.

    Returns:
        What became of every version, and of all that belongs to none.

    Raises:
        RadtransferError: ``keep`` is below 1, or the place does not answer, or refuses.
    """
    if keep < 1:
        raise RadtransferError(f"gc: keep {keep}; expected 1 or more, since the newest version bears the count of all")
    # In this order: what is decided, or built on, after a ledger was read changes it, and nothing of it is removed.
    now = registry.place.now()
    ledgers = {name: ledger.read(registry.place, name) for name in registry.names()}
    stored = {entry.key: entry.modified for entry in registry.place.list("versions/")}
    versions = {name: registry.versions(name) for name in ledgers}
    reasons: dict[tuple[str, int], str] = {}
    for name, (book, _) in ledgers.items():
        ages = {each.number: now - stored.get(key(name, each.number), now) for each in versions[name]}
        reasons |= {(name, number): why for number, why in _reasons(book, ages, keep, days, now).items()}
    for each in (each for found in versions.values() for each in found):
        if (each.name, each.number) in reasons:
            for parent in each.parents:
                reasons.setdefault((parent.name, parent.number), f"{each.label} builds on it")
    judged = []
    for name, (book, tag) in ledgers.items():
        gone = [each for each in versions[name] if (name, each.number) not in reasons]
        state: Literal["removed", "busy"] = "removed"
        marked = sorted({*book.removed, *(each.number for each in gone)})
        if marked != book.removed and not dry_run:
            after = book.model_copy(update={"removed": marked})
            state = "removed" if ledger.swap(registry.place, name, tag, after) else "busy"
        for each in versions[name]:
            why = reasons.get((name, each.number))
            if why is None and state == "removed" and not dry_run:
                registry.remove(each)
            other = "its ledger was changed meanwhile" if state == "busy" else "old"
            judged.append(Judged(name, each.number, each.size, "kept" if why else state, why or other))
    return judged + _left(registry, now, dry_run)


def _reasons(book: Ledger, ages: Mapping[int, float], keep: int, days: float, now: float) -> dict[int, str]:
    """Why versions of a model are kept, but for those that others build on.

    Args:
        book: ledger of the model.
        ages: of all its versions, seconds.
        keep, days: as of :func:`collect`.
        now: seconds since the epoch.
    """
    found: dict[int, str] = {}
    if book.champion is not None:
        found[book.champion] = "champion"
    if len(book.reigns) > 1:
        found.setdefault(book.reigns[-2], "champion before")
    champion: int | None = None
    for decision in book.history:
        ended = datetime.fromisoformat(decision.when).timestamp()
        if champion is not None and decision.champion != champion and now - ended < days * DAY:
            found.setdefault(champion, f"champion within {days:g} days")
        champion = decision.champion
    for number in sorted(ages, reverse=True)[:keep]:
        found.setdefault(number, f"one of the newest {keep}")
    for number, age in ages.items():
        if age < days * DAY:
            found.setdefault(number, f"younger than {days:g} days")
        if now - book.used.get(str(number), 0) < LEFT_HOURS * 3600:
            found.setdefault(number, f"built on within {LEFT_HOURS} hours")
    return {number: why for number, why in found.items() if number not in book.removed}


def _left(registry: Registry, now: float, dry_run: bool) -> list[Judged]:
    """What belongs to no version, and is removed once it is older than :data:`LEFT_HOURS`."""
    owned = {version.folder for name in registry.names() for version in registry.versions(name)}
    groups: dict[str, list[Entry]] = {}
    for each in registry.place.list(""):
        folder = re.match(r"files/[^/]+/[^/]+/", each.key)
        if folder and folder[0] not in owned:
            groups.setdefault(folder[0], []).append(each)
        elif each.key.rpartition("/")[2].startswith(PARTIAL):
            groups.setdefault(each.key, []).append(each)
    judged = []
    for place, entries in sorted(groups.items()):
        old = now - max(each.modified for each in entries) > LEFT_HOURS * 3600
        if old and not dry_run:
            for each in entries:
                registry.place.delete(each.key)
        name = place.split("/")[1].removesuffix(".json") if "/" in place else ""
        size = sum(each.size for each in entries)
        if old:
            judged.append(Judged(name, None, size, "removed", "left by a writer that died"))
        else:
            judged.append(Judged(name, None, size, "kept", f"being written, or left within {LEFT_HOURS} hours"))
    return judged
