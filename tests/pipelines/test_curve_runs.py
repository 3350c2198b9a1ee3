"""`radtransfer learning-curve`: which runs it makes, in which order, what it keeps and what it refuses."""

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
from radtransfer_pipelines import learning_curve as module
from radtransfer_pipelines import members
from radtransfer_pipelines.learning_curve import learning_curve
from radtransfer_pipelines.plan import Work
from tests.pipelines.test_crossfit import config

TEST = images(count=60, positives=30)
PLAN = [Work("pretrain", "b", 1, 10, 1, 600.0), Work("finetune", "b", 3, 10, 1, 1200.0)]


class Runs:
    """Stands in for `run_local`: leaves a finished run, and remembers what it was asked."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.asked: list[tuple[str, RunConfig, str]] = []
        self.stop_before = ""

    def __call__(self, config: RunConfig, *, data_root: str, out: Path, takes_up: Path | None) -> None:
        name = str(out.relative_to(self.out))
        if name == self.stop_before:
            raise KeyboardInterrupt
        assert takes_up is None or takes_up.is_dir()
        self.asked.append((name, config, str(takes_up.relative_to(self.out)) if takes_up else ""))
        number, of = config.test_fold or [1, 1]
        write_run(out, TEST[number - 1 :: of], noise=number, **config.model_dump(mode="json"))
        write_json(out / "run.json", read_json(out / "run.json"))
        (out / "pretrained").mkdir()

    @property
    def made(self) -> list[str]:
        return [name for name, _, _ in self.asked]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    made = Runs(tmp_path / "out")
    identity = {"data_version": "d1", "code_version": "0.1.0+aa"}
    monkeypatch.setattr(members, "run_local", made)
    monkeypatch.setattr(module, "requested", lambda *_: ({"identity": identity}, [60, 100]))
    monkeypatch.setattr(module, "apart", lambda _, configs, *more: [PLAN for _ in configs])
    return made


def make(runs: Runs, fractions: tuple[float, ...] = (0.25, 0.1, 1), **options: Any) -> Path | None:
    given = options.pop("config", config())
    return learning_curve(given, data_root=runs.out.parent, out=runs.out, fractions=fractions, **options)


def test_one_run_for_each_fraction_the_smallest_first_and_one_pre_training(runs: Runs) -> None:
    assert make(runs) == runs.out / "learning_curve.html"
    assert runs.made == ["fraction-0.1", "fraction-0.25", "fraction-1"]
    assert [taken for _, _, taken in runs.asked] == ["", "fraction-0.1/pretrained", "fraction-0.1/pretrained"]
    for (_, made, _), share in zip(runs.asked, (0.1, 0.25, 1.0), strict=True):
        assert made == config(label_fraction=share)
    found = read_json(runs.out / "learning_curve.json")
    assert [point["fraction"] for point in found["points"]] == [0.1, 0.25, 1.0] and found["test"]["images"] == 60


def test_a_cross_fitting_for_each_fraction_pre_trains_once_for_each_seed(runs: Runs) -> None:
    make(runs, (0.5, 1), folds=2, repeats=2)
    names = [f"fraction-{share}/seed{seed}-fold{fold}" for share in (0.5, 1) for seed in (5, 6) for fold in (1, 2)]
    assert runs.made == names
    donors = {seed: f"fraction-0.5/seed{seed}-fold1" for seed in (5, 6)}
    for name, made, taken in runs.asked:
        assert taken == ("" if name == donors[made.seed] else f"{donors[made.seed]}/pretrained")
    assert read_json(runs.out / "learning_curve.json")["subjects"][0]["seeds"] == [5, 6]


def test_models_that_are_given_serve_all(runs: Runs) -> None:
    make(runs, config=config(pretrained_models="earlier"))
    assert {(made.pretrained_models, taken) for _, made, taken in runs.asked} == {("earlier", "")}


def test_it_goes_on_where_it_was_and_takes_more_fractions(runs: Runs) -> None:
    runs.stop_before = "fraction-1"
    with pytest.raises(KeyboardInterrupt):
        make(runs)
    assert not (runs.out / "learning_curve.html").exists()
    runs.stop_before = ""
    make(runs)
    make(runs, (0.05, 0.1, 0.25, 1), config=config(budget_minutes=3))
    assert runs.made == ["fraction-0.1", "fraction-0.25", "fraction-1", "fraction-0.05"]
    assert runs.asked[-1][2] == "fraction-0.1/pretrained"  # one that is finished, though it comes later
    assert len(read_json(runs.out / "learning_curve.json")["points"]) == 4


def test_dry_run_says_how_many_and_how_long(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    """Pre-training 10 minutes, the rest 20: three fractions are 10 + 3 * 20 = 70."""
    assert make(runs, dry_run=True) is None
    said = " ".join(capsys.readouterr().err.split())
    assert "3 runs (3 label fractions; seeds 5), 3 of them left: about 70 minutes" in said
    assert "pre-training once for each seed" in said and not runs.out.exists() and not runs.asked


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fractions": (0.5,)}, "--fractions 0.5: expected two or more"),
        ({"fractions": (0.5, 0.5)}, "expected two or more, each once"),
        ({"fractions": (0.0, 1)}, "above 0, 1 at most"),
        ({"config": config(label_fraction=0.5)}, "leave it out of the configuration"),
        ({"repeats": 2}, "another seed tests other images"),
        ({"folds": 1}, "expected 2 to 50 folds"),
        ({"config": config(finetune_epochs=3)}, "fraction-0.1 is finished with finetune_epochs"),
        ({"folds": 2}, r"fraction-0.1: holds .*, which is of no cross-fitting"),
    ],
)
def test_what_does_not_belong_together_is_refused(runs: Runs, options: dict[str, Any], said: str) -> None:
    make(runs)
    with pytest.raises(RadtransferError, match=said):
        make(runs, **options)
    assert len(runs.asked) == 3


def test_a_folder_of_something_else_is_refused(runs: Runs) -> None:
    runs.out.mkdir()
    (runs.out / "thesis.tex").write_text("")
    with pytest.raises(RadtransferError, match=r"holds thesis\.tex"):
        make(runs)
    assert not runs.asked
