"""`datasets check`: what `preprocess` would do, reported, and nothing kept."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from radtransfer import cli
from radtransfer.config import RunConfig
from radtransfer.configfile import validate
from radtransfer.datasets.phantoms import make_phantoms
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.check import check
from radtransfer.preprocess.run import preprocess
from radtransfer.preprocess.store import Store

DATA = {
    "target_layout": "phantoms",
    "target_path": "ph",
    "target_part": "hand",
    "source_layout": "phantoms",
    "source_path": "ph",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms, with a file in no row and one that holds nothing."""
    root = tmp_path_factory.mktemp("data")
    make_phantoms(root / "ph", 40, ("hand", "knee"), size=80, seed=2)
    (root / "ph" / "stray.png").write_bytes(b"x")
    min((root / "ph" / "hand").iterdir()).write_bytes(b"")
    return root


def config(**more: object) -> RunConfig:
    return validate({"name": "n"} | DATA | more, "test")


def test_it_reports_what_preprocess_makes_and_keeps_no_store(root: Path, tmp_path: Path) -> None:
    report = check(config(seed=3), data_root=root, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    files = ["data_report.html", "data_report.md", "problems.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    preprocess(
        data_root=root, source_parts=[], image_size=64, test_fraction=0.2, validation_fraction=0.2, max_images=0,
        seed=3, target_out=tmp_path / "target", source_out=tmp_path / "source", **DATA,
    )  # fmt: skip
    for said in report.stores:
        made = Store.open(tmp_path / said["role"]).content
        assert {key: said[key] for key in made if key != "size"} == {key: made[key] for key in made if key != "size"}
    assert {(one.problem, one.outcome) for one in report.findings} == {("unplaced", "left out"), ("empty", "left out")}


def test_what_is_to_fail_is_reported_and_gives_an_exit_code(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("name: n\n" + "".join(f"{key}: {value}\n" for key, value in DATA.items()))
    command = ["radtransfer", "datasets", "check", "--config", str(tmp_path / "run.yaml"), "--data-root", str(root)]
    for policy, code, outcome in (("skip", 0, "left out"), ("fail", 1, "stops the run")):
        out = tmp_path / policy
        monkeypatch.setattr(sys, "argv", [*command, "--out", str(out), "--set", f"on_problem={{empty: {policy}}}"])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert int(stopped.value.code or 0) == code
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "target ph, hand: 41 files found = 39 images + 2 left out (1 empty, 1 unplaced)"
        assert f"empty: 1 {outcome}" in said and said[-1] == str(out / "data_report.html")
        with (out / "problems.csv").open(encoding="utf-8", newline="") as stream:
            rows = [(row["problem"], row["outcome"]) for row in csv.DictReader(stream)]
        assert rows == [("unplaced", "left out"), ("empty", outcome)]


def test_an_external_set_is_looked_at_too(tmp_path: Path) -> None:
    """A copy of a target image, and its patient, are left out, and what would stop a run stops nothing there."""
    make_phantoms(tmp_path / "ph", 40, ("hand", "knee"), size=80, seed=2)
    make_phantoms(tmp_path / "other", 12, ("hand",), size=80, seed=5)
    ours, theirs = (sorted((tmp_path / name / "hand").iterdir()) for name in ("ph", "other"))
    theirs[0].write_bytes(b"")
    theirs[1].write_bytes(ours[0].read_bytes())
    external = {"layout": "phantoms", "path": "other", "part": "hand"}
    report = check(config(external=external, on_problem={"empty": "fail"}), data_root=tmp_path, out=tmp_path / "out")
    assert [store["role"] for store in report.stores] == ["target", "source", "external"]
    found = [(one.store, one.problem, one.outcome) for one in report.findings]
    assert set(found) == {("external", "empty", "left out"), ("external", "leak", "left out")} and not report.stopping
    assert theirs[1].name in {Path(one.file).name for one in report.of_problem("leak")}
    assert report.stores[2]["files_found"] == 12 == report.stores[2]["images"] + len(found)
    page = (tmp_path / "out" / "data_report.html").read_text()
    assert "External: <strong>other</strong>" in page and 'id="external"' in page


def test_nothing_is_written_where_something_is_or_of_what_cannot_be_read(root: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RadtransferError, match="already exists"):
        check(config(), data_root=root, out=tmp_path)
    with pytest.raises(RadtransferError, match="target part 'foot' is not in ph"):
        check(config(target_part="foot"), data_root=root, out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
