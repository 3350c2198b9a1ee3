"""Degradation curves on small artifacts whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from radtransfer.errors import RadtransferError
from radtransfer.evaluation.intervals import resample
from radtransfer.evaluation.metrics import METRICS, auroc
from radtransfer.robustness.kinds import EVERY, GRADES, graded
from tests.evaluation.test_evaluate import Made, make, make_store

KINDS = ("noise", "blur")


def corrupted(first: Made, spoilt: dict[str, float]) -> pd.DataFrame:
    """Scores of the graded kinds: those of the images as they are, with noise that grows by ``spoilt`` each grade."""
    table = pd.read_parquet(first.path / "test_scores.parquet")
    columns = {name.rpartition("/seed")[0]: name for name in table.columns if name.endswith("/seed3")}
    rng = np.random.default_rng(5)
    parts = []
    for kind in KINDS:
        noise = {name: rng.normal(size=len(table)) for name in columns}
        for grade in range(1, GRADES + 1):
            part = pd.DataFrame({"corruption": graded(kind, grade), "image_id": table["image_id"]})
            for name, row in columns.items():
                by = grade * spoilt[name.partition("/")[0]]
                part[name] = expit(logit(table[row]) + by * noise[name])
            parts.append(part)
    return pd.concat(parts)


def choice(made: Made, source: str, what: str = "fused") -> str:
    return str(made.content["choices"][source][what])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Made:
    return make(tmp_path_factory.mktemp("clean"), store, bootstrap=400)


@pytest.fixture(scope="module")
def stressed(clean: Made) -> pd.DataFrame:
    return corrupted(clean, {"scratch": 0.4, "imagenet": 2.0, "in_domain": 0.1})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, store: Path, stressed: pd.DataFrame) -> Made:
    return make(tmp_path_factory.mktemp("stressed"), store, stressed=stressed, bootstrap=400)


def test_an_area_is_the_mean_under_the_curve(made: Made, clean: Made, stressed: pd.DataFrame) -> None:
    labels = pd.read_parquet(clean.path / "test_scores.parquet")["label"]
    row = choice(made, "imagenet")
    column, areas = row.rpartition("/seed")[0], []
    for kind in KINDS:
        curve = [clean.rows[row]["auroc"]["value"]]
        for grade in range(1, GRADES + 1):
            scores = stressed.loc[stressed["corruption"] == graded(kind, grade), column]
            curve.append(roc_auc_score(labels, scores))
            assert made.rows[f"{row}/{graded(kind, grade)}"]["auroc"]["value"] == pytest.approx(curve[-1])
        areas.append(np.trapezoid(curve) / GRADES)
        area = made.rows[f"{row}/{kind}"]
        assert area["auroc"]["value"] == pytest.approx(areas[-1])
        assert area["auroc"]["low"] < areas[-1] < area["auroc"]["high"]
        assert (area["corruption"], area["n"], area["selected"]) == (kind, len(labels), False)
        assert all(area[name]["value"] is None for name in METRICS if name != "auroc")
    assert made.rows[f"{row}/{EVERY}"]["auroc"]["value"] == pytest.approx(np.mean(areas))
    graded_rows = {graded(kind, grade) for kind in KINDS for grade in range(1, GRADES + 1)}
    scored = [name for name, one in clean.rows.items() if one["tl_source"] != "shortcut" and one["level"] == "image"]
    added = {f"{name}/{change}" for name in scored for change in graded_rows | {*KINDS, EVERY}}
    assert set(made.rows) - set(clean.rows) == added
    assert set(made.curves) == set(clean.rows), "no ROC curves of them"


def test_what_was_there_before_is_as_it_was(made: Made, clean: Made) -> None:
    assert {name: row for name, row in made.rows.items() if row["corruption"] == "none"} == clean.rows
    others = [one for one in made.metrics["comparisons"] if one["family"] != "robustness"]
    assert others == clean.metrics["comparisons"] and clean.content["robustness"] == {}


def test_differences_are_paired_over_images_and_grades(made: Made, clean: Made, stressed: pd.DataFrame) -> None:
    """Recomputed by hand: the same resample of groups for both sources, the images as they are and every grade."""
    found = [one for one in made.metrics["comparisons"] if one["family"] == "robustness"]
    rows = {source: choice(made, source) for source in ("in_domain", "imagenet", "scratch")}
    pairs = [("in_domain", "imagenet"), ("in_domain", "scratch"), ("imagenet", "scratch")]
    expected = [(rows[a], rows[b]) for a, b in pairs] + [(rows[one], choice(made, one, "single")) for one in rows]
    assert [(one["a"], one["b"]) for one in found] == [(f"{a}/{EVERY}", f"{b}/{EVERY}") for a, b in expected]
    assert all(one["adjusted_p"] >= one["p_value"] and one["beside"]["test"].startswith("clustered") for one in found)
    table = pd.read_parquet(clean.path / "test_scores.parquet")
    labels = table["label"].to_numpy(bool)
    weights = resample(table["group_id"].to_numpy(), labels, 400, 0).weights
    lost, areas = {}, {}
    for row in expected[0]:
        first = auroc(labels, table[row].to_numpy(), weights)
        areas[row] = np.zeros(400)
        for kind in KINDS:
            scores = [stressed.loc[stressed["corruption"] == graded(kind, g), row.rpartition("/seed")[0]].to_numpy()
                      for g in range(1, GRADES + 1)]  # fmt: skip
            curve = np.array([first, *(auroc(labels, one, weights) for one in scores)])
            areas[row] += np.trapezoid(curve, axis=0) / GRADES / len(KINDS)
        lost[row] = first - areas[row]
    a, b = expected[0]
    low, high = np.quantile(areas[a] - areas[b], [0.025, 0.975])
    assert (found[0]["low"], found[0]["high"]) == pytest.approx((low, high))
    told = made.content["robustness"]["drops"]
    assert [told["of"][a]["low"], told["of"][a]["high"]] == pytest.approx(np.quantile(lost[a], [0.025, 0.975]))
    low, high = np.quantile(lost[a] - lost[b], [0.025, 0.975])
    assert (told["between"][0]["low"], told["between"][0]["high"]) == pytest.approx((low, high))
    assert [(one["a"], one["b"]) for one in told["between"]] == expected
    assert set(told["of"]) == {row for pair in expected for row in pair}
    for one in (*told["of"].values(), *told["between"]):
        assert one["low"] <= one["value"] <= one["high"]


def test_the_more_robust_keeps_more_and_loses_less(made: Made) -> None:
    text = made.content["robustness"]["text"]
    assert text.startswith("Under corruption in-domain pre-training is more robust than ImageNet transfer: mean AUROC ")
    area, row = (made.rows[f"{choice(made, 'in_domain')}{end}"]["auroc"]["value"] for end in (f"/{EVERY}", ""))
    assert f"over 2 kinds of corruption in 5 grades {area:.3f} against" in text and f"images {row - area:.3f} " in text


def test_what_is_not_spoilt_loses_nothing(tmp_path: Path, store: Path, clean: Made) -> None:
    even = make(tmp_path / "run", store, stressed=corrupted(clean, dict.fromkeys(clean.content["choices"], 0.0)))
    row = choice(even, "scratch")
    for change in (*KINDS, EVERY, graded("blur", 5)):
        assert even.rows[f"{row}/{change}"]["auroc"] == pytest.approx(even.rows[row]["auroc"])
    robustness = even.content["robustness"]
    assert robustness["kinds"] == list(KINDS) and robustness["text"].startswith("Neither in-domain")
    for one in (*robustness["drops"]["of"].values(), *robustness["drops"]["between"]):
        assert (one["value"], one["low"], one["high"]) == pytest.approx((0, 0, 0), abs=1e-9)


def test_who_is_ahead_on_clean_images_is_not_called_more_robust_for_it(tmp_path: Path, store: Path) -> None:
    skills = {"scratch": 0.6, "imagenet": 0.7, "in_domain": 2.4}
    first = make(tmp_path / "a", store, skills)
    spoilt = corrupted(first, {"scratch": 0.3, "imagenet": 0.1, "in_domain": 0.4})
    text = make(tmp_path / "b", store, skills, stressed=spoilt, bootstrap=400).content["robustness"]["text"]
    start = "Under corruption in-domain pre-training stays ahead of ImageNet transfer, but is not shown to lose less: "
    assert text.startswith(start)


def test_few_groups_leave_it_open_and_one_source_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", images=90)
    for number, skills in enumerate(({"imagenet": 1.4, "in_domain": 1.6}, {"imagenet": 1.4})):
        first = make(tmp_path / f"{number}a", store, skills)
        again = make(tmp_path / f"{number}b", store, skills, stressed=corrupted(first, dict.fromkeys(skills, 0.2)))
        said = ("There is no verdict on whether in-domain", "Mean AUROC over 2 kinds of corruption in 5 grades: ")[
            number
        ]
        assert again.content["robustness"]["text"].startswith(said)


def test_corruptions_of_other_images_are_refused(tmp_path: Path, store: Path, stressed: pd.DataFrame) -> None:
    for number, table in enumerate((stressed.groupby("corruption").head(50), stressed.iloc[::-1])):
        with pytest.raises(RadtransferError, match="is not of all test images in the store's order"):
            make(tmp_path / str(number), store, stressed=table)
