"""``benchmarks/null.py``: labels that mean nothing, and what it makes of the runs."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import null


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "phantoms.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_labels_are_dealt_to_whole_patients_of_one_part(tmp_path: Path) -> None:
    null.make_phantoms(tmp_path / "phantoms", 30, ("humerus", "forearm"), size=64)
    before = table(tmp_path / "phantoms")
    null.dealt_anew(tmp_path / "phantoms", "humerus", 0)
    after = table(tmp_path / "phantoms")
    patients: list[dict[str, str]] = []
    for rows in (before, after):
        patients.append({row["patient"]: row["label"] for row in rows if row["part"] == "humerus"})
        assert all(row["label"] == patients[-1][row["patient"]] for row in rows if row["part"] == "humerus")
    assert patients[0] != patients[1] and Counter(patients[0].values()) == Counter(patients[1].values())
    assert all(not row["boxes"] for row in after if row["part"] == "humerus")
    assert [row for row in before if row["part"] == "forearm"] == [row for row in after if row["part"] == "forearm"]


@pytest.mark.parametrize(
    ("aurocs", "alarms", "right"),
    [((0.45, 0.55), 0, True), ((0.45, 0.55), 4, True), ((0.45, 0.55), 5, False), ((0.58, 0.62), 0, False)],
)
def test_chance_is_told_from_what_is_no_chance(
    aurocs: tuple[float, float], alarms: int, right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(null, "make_phantoms", lambda out, *args, **keywords: out.mkdir(parents=True))
    monkeypatch.setattr(null, "dealt_anew", lambda *given: None)

    def run(folder: Path, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        return {"auroc": aurocs[seed % 2], "id": "r", "p": 0.01 if seed < alarms else 0.5, "winner": None, "text": ""}

    monkeypatch.setattr(null, "run", run)
    assert null.nothing(tmp_path, 20) is right


@pytest.mark.parametrize(("winners", "right"), [(("in_domain", None), True), (("in_domain", "in_domain"), False)])
def test_planted_effects_must_be_named(
    winners: tuple[str | None, ...], right: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(null, "make_phantoms", lambda out, *args, **keywords: out.mkdir(parents=True))
    dealt: list[str] = []
    monkeypatch.setattr(null, "dealt_anew", lambda folder, part, seed: dealt.append(part))
    said = iter(winners)
    monkeypatch.setattr(null, "run", lambda *given: {"winner": next(said), "text": ""})
    assert null.planted(tmp_path, 1) is right
    assert dealt == [null.SOURCE]
