"""What is kept and what is removed: never a champion, the one before it, or what is built on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radtransfer.errors import RadtransferError
from radtransfer.registry import ledger, retention
from radtransfer.registry.champion import promote, rollback
from radtransfer.registry.entry import enter
from radtransfer.registry.places import Folder, Place
from radtransfer.registry.retention import DAY, Judged, collect
from radtransfer.registry.versions import Registry
from tests.registry.tiny import entered, tiny_bundle, tiny_pretrained


def later(monkeypatch: pytest.MonkeyPatch, place: Place, days: float) -> None:
    """The place's clock goes before."""
    now = type(place).now
    monkeypatch.setattr(type(place), "now", lambda self: now(self) + days * DAY)


def left(judged: list[Judged]) -> dict[int, str]:
    return {each.number: each.why for each in judged if each.state == "kept" and each.number}


def test_the_newest_the_young_and_the_champions_are_kept(
    registry: Registry, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered(registry, tmp_path, *"abcdefgh")
    for number in (2, 4, 5):
        promote(registry, "tiny", number, why="better")
    rollback(registry, "tiny", why="alarm")
    assert {*left(collect(registry, keep=1, days=1)).values()} == {
        "champion", "champion before", "champion within 1 days", "one of the newest 1", "younger than 1 days"
    }  # fmt: skip
    later(monkeypatch, registry.place, 10)
    said = collect(registry, keep=2, days=30, dry_run=True)
    assert len(left(said)) == 8, "all are younger than 30 days"
    assert left(collect(registry, keep=2, days=9.5, dry_run=True)) == {
        4: "champion", 2: "champion before", 7: "one of the newest 2", 8: "one of the newest 2"
    }  # fmt: skip
    assert len(registry.versions("tiny")) == 8, "nothing was removed yet"
    said = collect(registry, keep=1, days=9.5)
    assert sorted(left(said)) == [2, 4, 8] and [each.number for each in said if each.state == "removed"] == [
        1,
        3,
        5,
        6,
        7,
    ]
    again = Registry.open(where)
    assert [version.number for version in again.versions("tiny")] == [2, 4, 8]
    for version in again.versions("tiny"):
        again.verify(version)
    assert {each.key.split("/")[2] for each in again.place.list("files/")} == {
        version.id for version in again.versions("tiny")
    }
    with pytest.raises(RadtransferError, match="there is no tiny@3"):
        promote(again, "tiny", 3, why="w")
    assert entered(again, tmp_path / "more", "i")[0].number == 9
    with pytest.raises(RadtransferError, match="keep 0; expected 1 or more"):
        collect(registry, keep=0)


def test_a_former_champion_is_kept_for_days_after_its_reign(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 was champion until now, versions 2 and 3 after it; only the end of a reign counts."""
    entered(registry, tmp_path, *"abcd")
    for number in (1, 2, 3):
        promote(registry, "tiny", number, why="better")
    later(monkeypatch, registry.place, 10)
    assert sorted(left(collect(registry, keep=1, days=10.5, dry_run=True))) == [1, 2, 3, 4]
    assert left(collect(registry, keep=1, days=9.5, dry_run=True)).keys() == {2, 3, 4}


def test_parents_that_are_built_on_are_kept(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, mark in enumerate("abc"):
        before = [tiny_pretrained(tmp_path / f"before-{mark}", "b1", mark)]
        enter(registry, tiny_bundle(tmp_path / mark, mark, before if number < 2 else ()), before)
    promote(registry, "tiny", 1, why="first")
    later(monkeypatch, registry.place, 10)
    judged = collect(registry, keep=1, days=1)
    said = {(each.name, each.number): (each.state, each.why) for each in judged}
    assert said == {
        ("tiny", 1): ("kept", "champion"),
        ("tiny", 2): ("removed", "old"),
        ("tiny", 3): ("kept", "one of the newest 1"),
        ("tiny-pretrained", 1): ("kept", "tiny@1 builds on it"),
        ("tiny-pretrained", 2): ("removed", "old"),
        ("tiny-pretrained", 3): ("kept", "one of the newest 1"),
    }


def test_what_is_about_to_be_built_on_is_kept(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version that builds on it is not there yet: its files are being written while old ones are removed."""
    for mark in "ab":
        enter(registry, tiny_bundle(tmp_path / mark, mark), [tiny_pretrained(tmp_path / f"before-{mark}", "b1", mark)])
    create, judged = type(registry.place).create, []

    def meanwhile(self: Place, key: str, content: bytes) -> bool:
        if key == "versions/tiny/000003.json":
            judged.extend(collect(Registry.open(self.name), keep=1, days=0))
        return create(self, key, content)

    monkeypatch.setattr(type(registry.place), "create", meanwhile)
    before = [tmp_path / "before-a"]
    version = enter(registry, tiny_bundle(tmp_path / "c", "c", before), before)[0]
    assert {each.number: each.why for each in judged if each.name == "tiny-pretrained" and each.number} == {
        1: "built on within 24 hours",
        2: "one of the newest 1",
    }
    for each in (version, registry.version("tiny-pretrained", version.parents[0].number)):
        registry.verify(each)


def test_a_version_that_is_promoted_while_it_is_to_be_removed_stays(
    registry: Registry, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered(registry, tmp_path, *"abc")
    promote(registry, "tiny", 3, why="first")
    later(monkeypatch, registry.place, 10)
    swap = ledger.swap

    def meanwhile(*arguments: object) -> bool:
        monkeypatch.setattr(retention.ledger, "swap", swap)
        promote(Registry.open(where), "tiny", 1, why="better")
        return swap(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(retention.ledger, "swap", meanwhile)
    assert [each.state for each in collect(registry, keep=1, days=1)] == ["busy", "busy", "kept"]
    registry.verify(Registry.open(where).version("tiny", "champion"))
    assert [each.state for each in collect(registry, keep=1, days=1)] == ["kept", "removed", "kept"]


def test_a_version_that_is_being_removed_is_not_promoted_and_the_next_gc_removes_it(
    registry: Registry, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered(registry, tmp_path, *"ab")
    later(monkeypatch, registry.place, 10)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Registry, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            collect(registry, keep=1, days=1)
    assert len(registry.versions("tiny")) == 2
    with pytest.raises(RadtransferError, match=r"tiny@1 was removed \(radtransfer models gc\)"):
        promote(Registry.open(where), "tiny", 1, why="w")
    assert enter(Registry.open(where, write=True), tiny_bundle(tmp_path / "a", "a"), [])[0].number == 3
    assert [each.state for each in collect(registry, keep=1, days=1000)] == ["removed", "kept", "kept"]
    assert [version.number for version in Registry.open(where).versions("tiny")] == [2, 3]


def test_what_a_dead_writer_left_is_removed_after_a_day(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(registry.place), "create", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            entered(registry, tmp_path, "a")
    entered(registry, tmp_path / "more", "b")
    if isinstance(registry.place, Folder):
        (registry.place.path / "versions" / "tiny" / ".partial-x").write_text("half")
    orphans = 2 if isinstance(registry.place, Folder) else 1
    later(monkeypatch, registry.place, 0.9)
    assert [each.state for each in collect(registry) if each.number is None] == ["kept"] * orphans
    later(monkeypatch, registry.place, 0.2)
    assert [each.state for each in collect(registry, dry_run=True) if each.number is None] == ["removed"] * orphans
    gone = [each for each in collect(registry) if each.number is None]
    assert [(each.name, each.state) for each in gone] == [("tiny", "removed")] * orphans
    (version,) = registry.versions("tiny")
    registry.verify(version)
    keys = {"registry.json", "versions/tiny/000001.json"} | {version.folder + name for name in version.files}
    assert {each.key for each in registry.place.list("")} - {"ledgers/tiny.json"} == keys


@settings(max_examples=10)
@given(
    promoted=st.lists(st.integers(1, 7), max_size=4),
    parents=st.lists(st.integers(0, 2), min_size=7, max_size=7),
    young=st.integers(0, 7),
    keep=st.integers(1, 3),
)
def test_whatever_happened_the_rules_hold(promoted: list[int], parents: list[int], young: int, keep: int) -> None:
    """Seven versions, each built on one of two parents or none, the last ``young`` of them of today."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        root = Path(folder)
        registry = Registry.open(root / "registry", write=True)
        before = [tiny_pretrained(root / f"p{number}", "b1", str(number)) for number in (1, 2)]
        now = type(registry.place).now(registry.place)
        for number, parent in enumerate(parents, 1):
            given_ = [before[parent - 1]] if parent else []
            enter(registry, tiny_bundle(root / str(number), str(number), given_), given_)
        for number in promoted:
            if ledger.read(registry.place, "tiny")[0].champion != number:
                promote(registry, "tiny", number, why="w")
        import os

        assert isinstance(registry.place, Folder)
        for number in range(8 - young, 8):
            os.utime(registry.place.path / f"versions/tiny/{number:06d}.json", (now + 100 * DAY, now + 100 * DAY))
        patched.setattr(Folder, "now", lambda _: now + 100 * DAY + 1)
        reigns = ledger.read(registry.place, "tiny")[0].reigns
        collect(registry, keep=keep, days=30)
        kept = {version.number for version in registry.versions("tiny")}
        assert kept == {*reigns[-2:], *range(8 - young, 8), *range(8 - keep, 8)}
        for name in registry.names():
            for version in registry.versions(name):
                registry.verify(version)
                for parent_ in version.parents:
                    registry.verify(registry.version(parent_.name, parent_.number))
        assert not [each for each in collect(registry, keep=keep, days=30) if each.state == "removed"]
