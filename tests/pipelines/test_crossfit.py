"""`radtransfer crossfit`: which runs it makes, in which order, what it keeps and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from finished_runs import images, write_run

from radtransfer.artifacts import read_json, write_json
from radtransfer.config import RunConfig
from radtransfer.errors import RadtransferError
from radtransfer_pipelines import crossfit as module
from radtransfer_pipelines import members
from radtransfer_pipelines.crossfit import crossfit
from radtransfer_pipelines.plan import Work

TEST = images(count=60, positives=30)
PLAN = [Work("pretrain", "b", 1, 10, 1, 600.0), Work("finetune", "b", 3, 10, 1, 1200.0)]


class Runs:
    """Stands in for `run_local`: leaves a finished run, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, RunConfig]] = []
        self.taken_up: list[Path | None] = []
        self.stop_before = ""
        self.code = "0.1.0+aa"

    def __call__(self, config: RunConfig, *, data_root: str, out: Path, takes_up: Path | None) -> None:
        if out.name == self.stop_before:
            raise KeyboardInterrupt
        assert takes_up is None or takes_up.is_dir()
        self.asked.append((out.name, config))
        self.taken_up.append(takes_up)
        number, of = config.test_fold
        write_run(out, TEST[number - 1 :: of], noise=number, **config.model_dump(mode="json"))
        write_json(out / "run.json", read_json(out / "run.json") | {"code_version": self.code})
        (out / "pretrained").mkdir()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    identity = {"data_version": "d1"}
    monkeypatch.setattr(members, "run_local", made)
    monkeypatch.setattr(
        module, "requested", lambda *_: ({"identity": identity | {"code_version": made.code}}, [60, 100])
    )
    monkeypatch.setattr(module, "apart", lambda *_: PLAN)
    return made


def config(**settings: Any) -> RunConfig:
    base = {"name": "tiny", "target_layout": "class_folders", "target_path": "T", "target_part": "T"}
    base |= {"source_layout": "class_folders", "source_path": "S", "seed": 5, "bootstrap": 100}
    return RunConfig(**(base | settings))


def test_one_run_for_each_seed_and_fold_pretrained_once_a_seed(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    page = crossfit(config(), data_root=tmp_path, out=out, folds=3, repeats=2)
    assert page == out / "comparison.html" and page.is_file()
    assert [name for name, _ in runs.asked] == [f"seed{seed}-fold{fold}" for seed in (5, 6) for fold in (1, 2, 3)]
    for (name, made), takes_up in zip(runs.asked, runs.taken_up, strict=True):
        seed, fold = int(name[4]), int(name[-1])
        assert (made.seed, made.test_fold) == (seed, [fold, 3])
        assert takes_up == (None if fold == 1 else out / f"seed{seed}-fold1" / "pretrained")
        assert made.model_copy(update={"seed": 5, "test_fold": []}) == config()
    found = read_json(out / "comparison.json")
    assert found["test"]["images"] == 60 and found["subjects"][0]["seeds"] == [5, 6]


def test_models_that_are_given_serve_all_runs(runs: Runs, tmp_path: Path) -> None:
    crossfit(config(pretrained_models="earlier"), data_root=tmp_path, out=tmp_path / "out", folds=2)
    assert [made.pretrained_models for _, made in runs.asked] == ["earlier", "earlier"]
    assert runs.taken_up == [None, None]


def test_it_goes_on_where_it_was_and_takes_more_repeats(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs.stop_before = "seed5-fold2"
    with pytest.raises(KeyboardInterrupt):
        crossfit(config(), data_root=tmp_path, out=out, folds=3)
    assert not (out / "comparison.html").exists()
    runs.stop_before = ""
    crossfit(config(), data_root=tmp_path, out=out, folds=3)
    crossfit(config(), data_root=tmp_path, out=out, folds=3)
    crossfit(config(budget_minutes=3), data_root=tmp_path, out=out, folds=3, repeats=2)
    assert [name for name, _ in runs.asked] == [f"seed{seed}-fold{fold}" for seed in (5, 6) for fold in (1, 2, 3)]
    assert read_json(out / "comparison.json")["subjects"][0]["seeds"] == [5, 6]


def test_dry_run_says_how_many_and_how_long(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pre-training 10 minutes, the rest 20: two seeds of three folds are 2 (10 + 3 * 20) = 140, less one finished."""
    out = tmp_path / "out"
    assert crossfit(config(), data_root=tmp_path, out=out, folds=3, repeats=2, dry_run=True) is None
    said = " ".join(capsys.readouterr().err.split())
    assert "6 runs (3 folds; seeds 5, 6), 6 of them left: about 140 minutes" in said
    assert not out.exists() and not runs.asked
    runs.stop_before = "seed5-fold2"
    with pytest.raises(KeyboardInterrupt):
        crossfit(config(), data_root=tmp_path, out=out, folds=3, repeats=2)
    crossfit(config(), data_root=tmp_path, out=out, folds=3, repeats=2, dry_run=True)
    assert "5 of them left: about 110 minutes" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"finetune_epochs": 3}, "seed5-fold1 is finished with finetune_epochs"),
        ({"name": "other"}, "finished with name 'tiny', asked for is 'other'"),
        ({"folds": 2}, r"test_fold \[1, 3\], asked for are 2 folds"),
        ({"code": "0.1.0+bb"}, "finished with code_version '0.1.0\\+aa', asked for is '0.1.0\\+bb'"),
        ({"test_fold": [1, 3]}, "leave test_fold and previous_splits out"),
        ({"previous_splits": "a.csv"}, "leave test_fold and previous_splits out"),
        ({"max_images": 60, "repeats": 2}, "max_images = 60 keeps other target images for every seed"),
        ({"repeats": 0}, "expected 2 to 50 folds"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    runs: Runs, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    out = tmp_path / "out"
    crossfit(config(), data_root=tmp_path, out=out, folds=3)
    runs.code = settings.pop("code", runs.code)
    given = {"folds": settings.pop("folds", 3), "repeats": settings.pop("repeats", 1)}
    with pytest.raises(RadtransferError, match=said):
        crossfit(config(**settings), data_root=tmp_path, out=out, **given)
    assert len(runs.asked) == 3


def test_a_folder_of_something_else_is_refused(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(RadtransferError, match=r"holds thesis\.tex"):
        crossfit(config(), data_root=tmp_path, out=tmp_path / "out", folds=2)
    assert not runs.asked
