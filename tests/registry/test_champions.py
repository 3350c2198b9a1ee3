"""The champion and its history: decided by compare and swap, and always a whole version."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from hypothesis import given, settings
from hypothesis import strategies as st

from radtransfer.errors import RadtransferError
from radtransfer.registry import ledger
from radtransfer.registry.champion import OvertakenError, decline, promote, rollback
from radtransfer.registry.entry import enter
from radtransfer.registry.places import Prefix
from radtransfer.registry.versions import Registry
from tests.registry.tiny import entered, tiny_bundle, tiny_pretrained


def test_a_decision_keeps_who_when_why_and_its_figures(registry: Registry, where: str, tmp_path: Path) -> None:
    entered(registry, tmp_path, "a", "b")
    promote(registry, "tiny", 1, why="first", by="mary")
    promote(registry, "tiny", 2, why="better", figures={"difference": 0.03, "low": 0.01}, instead_of=1)
    decline(registry, "tiny", 1, why="worse", figures={"difference": -0.03})
    book = ledger.read(Registry.open(where).place, "tiny")[0]
    assert Registry.open(where).version("tiny", "champion").number == book.champion == 2
    assert [(each.action, each.version, each.champion, each.why) for each in book.history] == [
        ("promote", 1, 1, "first"),
        ("promote", 2, 2, "better"),
        ("decline", 1, 2, "worse"),
    ]
    assert book.history[0].by == "mary" and "@" in book.history[1].by
    assert book.history[1].figures == {"difference": 0.03, "low": 0.01}
    assert book.counter == 3 and all(each.when.endswith("+00:00") for each in book.history)


def test_a_rollback_leads_to_the_champion_before_and_once_more_to_the_one_before_that(
    registry: Registry, tmp_path: Path
) -> None:
    entered(registry, tmp_path, "a", "b", "c")
    for number in (1, 2, 3):
        promote(registry, "tiny", number, why="better")
    assert [rollback(registry, "tiny", why="alarm").champion for _ in range(2)] == [2, 1]
    with pytest.raises(RadtransferError, match=r"tiny has no champion before the present one; promote the version"):
        rollback(registry, "tiny", why="alarm")
    promote(registry, "tiny", 3, why="mended")
    assert rollback(registry, "tiny", why="again").champion == 1


@settings(max_examples=20)
@given(st.lists(st.one_of(st.integers(1, 4), st.just("rollback"), st.just("decline")), max_size=12))
def test_any_history_is_that_of_a_stack(steps: list[int | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry.open(Path(folder) / "registry", write=True)
        entered(registry, Path(folder), *"abcd")
        stack: list[int] = []
        done = 0
        for step in steps:
            try:
                if step == "rollback":
                    rollback(registry, "tiny", why="w")
                elif step == "decline":
                    decline(registry, "tiny", 2, why="w")
                else:
                    promote(registry, "tiny", int(step), why="w")
            except RadtransferError:
                assert len(stack) < 2 if step == "rollback" else stack[-1] == step
                continue
            done += 1
            if step == "rollback":
                stack.pop()
            elif step != "decline":
                stack.append(int(step))
        book = ledger.read(registry.place, "tiny")[0]
        assert book.reigns == stack and book.champion == (stack[-1] if stack else None)
        assert book.counter == len(book.history) == done


def test_what_cannot_be_champion_is_refused_and_the_pointer_stays(registry: Registry, tmp_path: Path) -> None:
    first, second = entered(registry, tmp_path, "a", "b")
    promote(registry, "tiny", 1, why="first")
    registry.place.delete(f"{second.folder}MODEL_CARD.md")
    enter(registry, tiny_bundle(tmp_path / "c", "c"), [tiny_pretrained(tmp_path / "b1", "b1")])
    for name, number, given_, message in (
        ("tiny", 9, {}, "there is no tiny@9; there is version 1 to 3"),
        ("tiny", 2, {}, r"tiny@2: .*MODEL_CARD\.md is missing"),
        ("tiny", 1, {}, "tiny@1 is the champion already"),
        ("tiny", 3, {"instead_of": 2}, "tiny@3 was compared with tiny@2, but tiny@1 is champion now; compare again"),
        ("tiny", 3, {"instead_of": 0}, "tiny@3 was compared with no version, but tiny@1 is champion now"),
        ("tiny", 3, {"why": " "}, "a decision needs its reason"),
        ("tiny-pretrained", 1, {}, "only a bundle can be champion"),
    ):
        with pytest.raises(RadtransferError, match=message):
            promote(registry, name, number, **({"why": "w"} | given_))  # type: ignore[arg-type]
    assert registry.champion("tiny") == first.number
    assert ledger.read(registry.place, "tiny")[0].counter == 1


def test_a_rollback_to_a_damaged_version_is_refused(registry: Registry, tmp_path: Path) -> None:
    first, _ = entered(registry, tmp_path, "a", "b")
    promote(registry, "tiny", 1, why="first")
    promote(registry, "tiny", 2, why="better")
    registry.place.delete(f"{first.folder}MODEL_CARD.md")
    with pytest.raises(RadtransferError, match=r"tiny@1: .* is missing"):
        rollback(registry, "tiny", why="alarm")
    assert registry.champion("tiny") == 2


def test_a_pointer_to_nothing_names_it(registry: Registry, where: str, tmp_path: Path) -> None:
    entered(registry, tmp_path, "a", "b")
    promote(registry, "tiny", 1, why="first")
    registry.place.delete("versions/tiny/000001.json")
    with pytest.raises(RadtransferError, match=r"champion of tiny is version 1, which is not there; restore versions/"):
        Registry.open(where).version("tiny", "champion")


def test_a_ledger_that_was_changed_or_is_newer_is_refused(registry: Registry, tmp_path: Path) -> None:
    entered(registry, tmp_path, "a", "b")
    promote(registry, "tiny", 1, why="first")
    key = "ledgers/tiny.json"
    for old, new, message in (
        (b'"champion": 1', b'"champion": 2', "does not match its seal"),
        (b'"schema": 1', b'"schema": 4', "of schema 4, this radtransfer knows 1"),
    ):
        found = registry.place.read(key)
        assert found is not None and registry.place.replace(key, found[0].replace(old, new), found[1])
        for act in (lambda: registry.champion("tiny"), lambda: promote(registry, "tiny", 2, why="w")):
            with pytest.raises(RadtransferError, match=rf"ledgers/tiny\.json: {message}"):
                act()


def test_decisions_at_once_are_all_kept(tmp_path: Path) -> None:
    """Eight threads promote two versions each; a promotion of the champion is an error and counts as none."""
    registry = Registry.open(tmp_path / "registry", write=True)
    entered(registry, tmp_path, *"abcdefgh")

    def decide(number: int) -> int:
        done = 0
        for each in (number, number % 8 + 1):
            try:
                promote(Registry.open(tmp_path / "registry"), "tiny", each, why=f"by {number}")
                done += 1
            except RadtransferError as error:
                assert "is the champion already" in str(error)
        return done

    with ThreadPoolExecutor(8) as pool:
        done = sum(pool.map(decide, range(1, 9)))
    book = ledger.read(registry.place, "tiny")[0]
    assert done >= 8 and len(book.history) == book.counter == done
    assert len({each.writer for each in book.history}) == done


@pytest.mark.parametrize("others", [0, 1])
def test_a_decision_whose_answer_was_lost_is_made_once(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """It is sent again and gets 412; meanwhile nobody, or another writer, has decided something else."""
    registry = Registry.open(bucket, write=True)
    entered(registry, tmp_path, "a", "b")
    promote(registry, "tiny", 1, why="first")
    assert isinstance(registry.place, Prefix)
    client = registry.place._bucket._client
    put, lost = client.put_object, []

    def losing(**asked: Any) -> Any:
        answer = put(**asked)
        if "IfMatch" in asked and not lost:
            lost.append(asked["Key"])
            for _ in range(others):
                decline(Registry.open(bucket), "tiny", 1, why="meanwhile")
            raise ConnectionClosedError(endpoint_url="http://s3")
        return answer

    monkeypatch.setattr(client, "put_object", losing)
    assert promote(registry, "tiny", 2, why="better").champion == 2
    assert lost
    history = ledger.read(registry.place, "tiny")[0].history
    assert [each.why for each in history] == ["first", "better", "meanwhile"][: 2 + others]


def test_a_ledger_that_others_change_all_the_time_is_given_up_on(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered(registry, tmp_path, "a")
    monkeypatch.setattr(ledger, "LONGEST_WAIT", 0)
    monkeypatch.setattr(type(registry.place), "create", lambda *_: False)
    with pytest.raises(RadtransferError, match=r"ledgers/tiny\.json: others changed it 60 times in a row"):
        promote(registry, "tiny", 1, why="first")


def test_a_decision_against_another_champion_than_is_there_is_not_recorded(registry: Registry, tmp_path: Path) -> None:
    entered(registry, tmp_path, "a", "b")
    promote(registry, "tiny", 1, why="first")
    for act in (promote, decline):
        with pytest.raises(OvertakenError, match="compared with no version, but tiny@1 is champion now; compare again"):
            act(registry, "tiny", 2, why="w", instead_of=0)
    assert decline(registry, "tiny", 2, why="worse", instead_of=1).champion == 1


def test_a_version_is_known_to_be_taken_back_until_it_is_promoted_again(registry: Registry, tmp_path: Path) -> None:
    entered(registry, tmp_path, "a", "b")

    def back(number: int) -> str | None:
        found = ledger.read(registry.place, "tiny")[0].taken_back(number)
        return found and found.why

    for number in (1, 2):
        promote(registry, "tiny", number, why="better")
    assert back(1) is back(2) is None
    rollback(registry, "tiny", why="alarm")
    decline(registry, "tiny", 2, why="worse")
    assert (back(1), back(2)) == (None, "alarm")
    promote(registry, "tiny", 2, why="mended")
    assert back(2) is None
