"""Who is champion: promoted, rolled back and declined, each with who, when, why and the figures that it rests on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from radtransfer.errors import RadtransferError
from radtransfer.provenance import who
from radtransfer.registry import ledger
from radtransfer.registry.ledger import Ledger
from radtransfer.registry.versions import BUNDLE, Registry, Version


class OvertakenError(RadtransferError):
    """Another became champion since the version was compared."""


def promote(
    registry: Registry,
    name: str,
    number: int,
    *,
    why: str,
    figures: Mapping[str, Any] | None = None,
    by: str = "",
    instead_of: int | None = None,
) -> Ledger:
    """Make a version champion, every file of which is hashed and compared first.

    Args:
        registry: where.
        name, number: the version, a bundle.
        why: the reason, a sentence.
        figures: those that it rests on, JSON values.
        by: who decides; empty: user and machine of this process.
        instead_of: the champion that it was compared with (0: none); promoted only if it still is. None: whoever is.

    Returns:
        The ledger with this decision, its last.

    Raises:
        OvertakenError: there is another champion than ``instead_of``.
        RadtransferError: no such version, no bundle, damaged, champion already, or removed meanwhile.
    """
    registry.verify(_bundle(registry, name, number))

    def check(now: Ledger) -> int:
        _same_champion(registry, name, number, now, instead_of)
        if now.champion == number:
            raise RadtransferError(f"{registry.place.name}: {name}@{number} is the champion already")
        return number

    return _decide(registry, name, "promote", check, why, figures, by)


def rollback(
    registry: Registry, name: str, *, why: str, figures: Mapping[str, Any] | None = None, by: str = ""
) -> Ledger:
    """Make the champion before the present one champion again; once more, the one before that.

    Args, returns: as of :func:`promote`.

    Raises:
        RadtransferError: there was none before, or it is not there whole.
    """

    def check(now: Ledger) -> int:
        if len(now.reigns) < 2:
            raise RadtransferError(
                f"{registry.place.name}: {name} has no champion before the present one; promote the version you want"
            )
        registry.verify(_bundle(registry, name, now.reigns[-2]))
        return now.reigns[-2]

    return _decide(registry, name, "rollback", check, why, figures, by)


def decline(
    registry: Registry,
    name: str,
    number: int,
    *,
    why: str,
    figures: Mapping[str, Any] | None = None,
    by: str = "",
    instead_of: int | None = None,
) -> Ledger:
    """Record that a version was weighed and not promoted; the champion stays.

    Args, returns: as of :func:`promote`.

    Raises:
        OvertakenError: there is another champion than ``instead_of``.
        RadtransferError: no such version, or no bundle.
    """
    _bundle(registry, name, number)

    def check(now: Ledger) -> int:
        _same_champion(registry, name, number, now, instead_of)
        return number

    return _decide(registry, name, "decline", check, why, figures, by)


def _same_champion(registry: Registry, name: str, number: int, now: Ledger, instead_of: int | None) -> None:
    if instead_of is not None and (now.champion or 0) != instead_of:
        raise OvertakenError(
            f"{registry.place.name}: {name}@{number} was compared with {_called(name, instead_of)}, but "
            f"{_called(name, now.champion or 0)} is champion now; compare again"
        )


def _decide(
    registry: Registry,
    name: str,
    action: Literal["promote", "rollback", "decline"],
    check: Callable[[Ledger], int],
    why: str,
    figures: Mapping[str, Any] | None,
    by: str,
) -> Ledger:
    if not why.strip():
        raise RadtransferError(f"{action} {name}: a decision needs its reason; say why")
    writer = uuid.uuid4().hex

    def decide(before: Ledger) -> Ledger:
        if any(each.writer == writer for each in before.history):  # done, though the answer got lost
            return before
        number = check(before)
        if number in before.removed:
            raise RadtransferError(f"{registry.place.name}: {name}@{number} was removed (radtransfer models gc)")
        champion = before.champion if action == "decline" else number
        decision = ledger.Decision(
            action=action,
            version=number,
            champion=champion,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            by=by or who(),
            why=why,
            figures=dict(figures or {}),
            writer=writer,
        )
        return before.model_copy(update={"champion": champion, "history": [*before.history, decision]})

    return ledger.change(registry.place, name, decide)


def _bundle(registry: Registry, name: str, number: int) -> Version:
    version = registry.version(name, number)
    if version.kind != BUNDLE:
        raise RadtransferError(
            f"{registry.place.name}: {version.label} is of kind {version.kind!r}, and only a bundle can be champion"
        )
    return version


def _called(name: str, number: int) -> str:
    return f"{name}@{number}" if number else "no version"
