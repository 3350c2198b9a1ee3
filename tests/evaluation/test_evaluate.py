"""The evaluation step on small artifacts whose truth is known."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.evaluate import _target, evaluate
from radtransfer.evaluation.metrics import METRICS
from radtransfer.evaluation.schema import MetricsFile
from radtransfer.evaluation.shortcuts import metadata
from radtransfer.fusion.threshold import Rule
from radtransfer.preprocess.store import SCHEMA

BACKBONES = ("alpha", "beta")
CANDIDATES = [
    *((backbone, "head") for backbone in BACKBONES),
    *((backbone, "logistic_regression") for backbone in BACKBONES),
    *(("fused", name) for name in ("logistic_regression", "svm_rbf")),
]


def make_store(
    path: Path,
    *,
    images: int = 480,
    exposure: float = 0.0,
    widths: float = 0.0,
    studies: bool = False,
    synthetic: bool = False,
    grouping: str = "patient",
    test_labels: Callable[[np.ndarray], np.ndarray] = lambda labels: labels,
    label_fraction: float | None = None,
    attributes: Callable[[int, int], tuple[str, ...]] = lambda group, image: (),
) -> Path:
    """A store of 8 x 8 noise, three images a group.

    Brightness tells the label as far as ``exposure`` says, and width as far as ``widths`` says; ``attributes`` of an
    image are given by the numbers of its group and of itself.
    """
    rng = np.random.default_rng(0)
    groups = np.arange(images) // 3
    share = np.arange(groups.max() + 1) / (groups.max() + 1)
    split = np.select([share < 0.4, share < 0.6], ["train", "validation"], "test")[groups]
    labels = (rng.random(groups.max() + 1) < 0.45)[groups].astype(np.int8)
    brightness = 120 + 40 * exposure * labels + 20 * rng.normal(size=images)
    pixels = brightness[:, None, None] + 10 * rng.normal(size=(images, 8, 8))
    in_test = split == "test"
    labels[in_test] = test_labels(labels[in_test])
    names = [f"images/{one:04d}.png" for one in range(images)]
    manifest = pd.DataFrame(
        {
            "image_id": names,
            "label": labels,
            "label_name": np.where(labels, "fractured", "intact"),
            "body_part": "hand",
            "patient_id": [f"p{one}" for one in groups] if grouping == "patient" else None,
            "study_id": [f"s{one}" for one in groups] if studies else None,
            "group_id": [f"g{one}" for one in groups],
            "split": split,
            "boxes": [[] for _ in names],
            "source_file": names,
            "sha256": [hashlib.sha256(name.encode()).hexdigest() for name in names],
            "flags": [[] for _ in names],
            "attributes": [list(attributes(int(group), image)) for image, group in enumerate(groups)],
            "width": (500 + 100 * widths * labels + 50 * rng.normal(size=images)).astype(int) if widths else 8,
            "height": 8,
        }
    )
    splits = ("train", "validation", "test")
    counts = {
        one: {
            name: int(((split == one) & (labels == value)).sum()) for value, name in enumerate(("normal", "abnormal"))
        }
        for one in splits
    }
    with artifacts.writing(path, "image-store", step="preprocess", settings={}) as (folder, content):
        np.save(folder / "images.npy", pixels.clip(0, 255).astype(np.uint8), allow_pickle=False)
        pq.write_table(pa.Table.from_pylist(manifest.to_dict("records"), schema=SCHEMA), folder / "manifest.parquet")
        (folder / "rejected.csv").write_text("file,reason\n")
        content.update(
            name="Toy",
            layout="class_folders",
            role="target",
            part="hand",
            images=images,
            size=8,
            classes={"0": "normal", "1": "abnormal"},
            positive_class="abnormal",
            synthetic=synthetic,
            grouping=grouping,
            counts=counts,
            groups={one: len(set(groups[split == one].tolist())) for one in splits},
            files_found=images,
            rejected=[],
            notes=[],
            **({} if label_fraction is None else {"label_fraction": label_fraction}),
        )
    return path


def make_classifiers(
    path: Path,
    store: Path,
    tl_source: str,
    *,
    skill: float,
    seed: int = 3,
    luck: int = 0,
    change: dict[str, Any] | None = None,
    left_out: Sequence[str] = (),
    scores: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table,
) -> Path:
    """Classifiers whose scores are ``skill`` times the label plus noise, half of it the same for all."""
    manifest = pd.read_parquet(store / "manifest.parquet")
    labels = manifest["label"].to_numpy(dtype=float)
    common = np.random.default_rng(1).normal(size=len(labels))
    rng = np.random.default_rng([2, luck, len(tl_source)])
    table = manifest[["image_id", "split", "group_id"]].copy()
    validation = manifest["split"].to_numpy() == "validation"
    for name in left_out:
        table[f"without/{name}"] = expit((skill - 0.5) * (labels - 0.5) + 0.8 * common)
    candidates = []
    for position, (features, classifier) in enumerate(CANDIDATES):
        own = skill + 0.15 * position
        raw = own * (labels - 0.5) + 0.8 * common + 0.6 * rng.normal(size=len(labels))
        probability = expit(raw)
        table[f"{features}/{classifier}"] = probability
        candidates.append(
            {
                "id": f"{features}/{classifier}",
                "features": features,
                "classifier": classifier,
                "params": {},
                "cv_auroc": None,
                "validation_auroc": float(roc_auc_score(labels[validation], probability[validation])),
                "calibration": {"slope": 1.0, "intercept": 0.0},
                "threshold": Rule()(probability[validation], labels[validation]),
                "file": None,
            }
        )

    def best(wanted: Callable[[dict[str, Any]], bool]) -> str:
        return str(max(filter(wanted, candidates), key=lambda one: one["validation_auroc"])["id"])

    with artifacts.writing(path, "classifiers", step="classify", settings={}) as (folder, content):
        scores(table).to_parquet(folder / "scores.parquet", index=False)
        content.update(
            tl_source=tl_source,
            seed=seed,
            store_digest=artifacts.read(store, "image-store").digest,
            fused_digest="0" * 64,
            calibration="platt",
            threshold_rule="youden",
            blocks=[
                {"backbone": name, "start": 4 * at, "stop": 4 * at + 4, "model_digest": "0" * 64}
                for at, name in enumerate(BACKBONES)
            ],
            candidates=candidates,
            choice={
                "fused": best(lambda one: one["features"] == "fused"),
                "single": best(lambda one: one["classifier"] == "head"),
                "overall": best(lambda one: True),
            },
        )
        without = [{"backbone": name, "column": f"without/{name}", "threshold": 0.5} for name in left_out]
        content["ablation"] = {"of": content["choice"]["fused"], "without": without}
        content.update(change or {})
    return path


def make_stress(path: Path, scores: pd.DataFrame | None = None) -> Path:
    """Scores of changed images; none where none are given."""
    table = pd.DataFrame({"corruption": [], "image_id": []}, dtype=str) if scores is None else scores
    with artifacts.writing(path, "stress", step="stress", settings={}) as (folder, content):
        table.to_parquet(folder / "scores.parquet", index=False)
        content["corruptions"] = {str(name): len(rows) for name, rows in table.groupby("corruption", sort=False)}
    return path


@dataclass
class Made:
    """An evaluation, read back."""

    path: Path
    metrics: dict[str, Any] = field(init=False)
    curves: dict[str, Any] = field(init=False)
    content: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = artifacts.read_json(self.path / "metrics.json")
        self.curves = artifacts.read_json(self.path / "curves.json")
        self.content = artifacts.read(self.path, "evaluation", verify=True).content

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["id"]: row for row in self.metrics["results"]}


SKILLS = {"scratch": 0.6, "imagenet": 1.4, "in_domain": 1.6}


def make(
    folder: Path,
    store: Path,
    skills: dict[str, float] = SKILLS,
    *,
    order: Sequence[str] | None = None,
    seed: int = 0,
    bootstrap: int = 200,
    stressed: pd.DataFrame | None = None,
    **keywords: Any,
) -> Made:
    classifiers = [
        make_classifiers(folder / f"classifiers-{name}", store, name, skill=skills[name], **keywords)
        for name in (order or skills)
    ]
    given = {"target_store": store, "classifiers": classifiers, "stress": make_stress(folder / "stress", stressed)}
    evaluate(**given, bootstrap=bootstrap, seed=seed, out=folder / "evaluation")
    return Made(folder / "evaluation")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("run")
    return make(folder, make_store(folder / "store", studies=True))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store")


def test_metrics_json_is_what_the_contract_says(made: Made) -> None:
    assert list(made.metrics) == ["schema", "target", "positive_class", "test", "results", "comparisons"]
    assert made.metrics["schema"] == 1 and made.metrics["positive_class"] == "abnormal"
    assert "Toy" in made.metrics["target"] and "hand" in made.metrics["target"]
    described = ["id", "tl_source", "features", "classifier", "seed", "label_fraction", "subgroup", "corruption"]
    for row in made.metrics["results"]:
        assert list(row) == [*described, "level", "pooling", "selected", "n", "positives", "rarer_groups", *METRICS]
        assert (row["seed"], row["label_fraction"], row["subgroup"], row["corruption"]) == (3, 1.0, "all", "none")
        for name in METRICS:
            assert list(row[name]) == ["value", "low", "high"]
            if row[name]["low"] is not None:
                assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]
        if row["tl_source"] != "shortcut" and row["level"] == "image":
            assert None not in [row[name][end] for name in METRICS for end in row[name]]
    for one in made.metrics["comparisons"]:
        numbers = ["difference", "low", "high", "p_value", "adjusted_p"]
        assert list(one) == ["a", "b", "metric", *numbers, "family", "test", "smallest_detectable", "beside"]
        assert 0 < one["smallest_detectable"] < 1
        beside = {"auroc": "clustered DeLong (Obuchowski 1997)", "accuracy": "clustered McNemar (Obuchowski 1998)"}
        assert (one["beside"] or {}).get("test") == beside.get(one["metric"])
        assert one["low"] <= one["difference"] <= one["high"] and one["p_value"] <= one["adjusted_p"]
    assert MetricsFile.model_validate(made.metrics).model_dump(mode="json") == made.metrics


def test_the_choices_are_measured_in_subgroups_of_the_test_images(tmp_path: Path) -> None:
    """By image (view) and by group (sex); what is the same for all, or of too few, gives no figures."""

    def known(group: int, image: int) -> tuple[str, ...]:
        own = [f"view={('frontal', 'lateral', 'oblique')[image % 3]}", f"sex={('female', 'male')[group % 2]}"]
        own += ["age=12-17" if group % 9 == 0 else "age=2-11"] if group % 2 else []
        return (*own, "hardware=no")

    store = make_store(tmp_path / "store", attributes=known)
    made = make(tmp_path, store)
    names = ["view=frontal", "view=lateral", "view=oblique", "age=2-11", "age=12-17", "sex=female", "sex=male"]
    choices = sorted({made.content["selected"], *(one["fused"] for one in made.content["choices"].values())})
    assert len(choices) == 3
    of_subgroups = {row["id"]: row for row in made.metrics["results"] if row["subgroup"] != "all"}
    assert sorted(of_subgroups) == sorted(f"{one}/{name}" for one in choices for name in names)
    assert list(dict.fromkeys(row["subgroup"] for row in of_subgroups.values())) == names
    assert not any(row["selected"] for row in of_subgroups.values())
    manifest = pd.read_parquet(store / "manifest.parquet").set_index("image_id")
    table = pd.read_parquet(made.path / "test_scores.parquet").set_index("image_id")
    for one in choices:
        for name in names:
            its = table[[name in own for own in manifest.loc[table.index, "attributes"]]]
            row, labels = of_subgroups[f"{one}/{name}"], its["label"] == 1
            assert (row["n"], row["positives"]) == (len(its), labels.sum())
            held = [its["group_id"][side].nunique() for side in (labels, ~labels)]
            assert row["rarer_groups"] == min(held)
            called = its[one] >= made.curves[one]["threshold"]
            assert (row["sensitivity"]["value"] is None) is (held[0] < 15)
            assert (row["specificity"]["value"] is None) is (held[1] < 15)
            if min(held) < 15:
                assert [row[metric]["low"] for metric in ("auroc", "accuracy", "ece", "ppv")] == [None] * 4
            else:
                assert row["auroc"]["value"] == pytest.approx(roc_auc_score(labels, its[one]))
                assert row["accuracy"]["value"] == pytest.approx((called == labels).mean())
                assert row["auroc"]["low"] < row["auroc"]["value"] < row["auroc"]["high"]
    few = {name for name in names if of_subgroups[f"{choices[0]}/{name}"]["auroc"]["value"] is None}
    assert "age=12-17" in few and not few & {"view=frontal", "view=lateral", "view=oblique"}
    assert not {side.rpartition("/")[2] for one in made.metrics["comparisons"] for side in (one["a"], one["b"])} & {
        *names
    }


def test_a_class_that_a_subgroup_lacks_takes_only_what_rests_on_it(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", test_labels=lambda labels: (np.arange(len(labels)) // 3 % 2).astype(np.int8))
    labels = pd.read_parquet(store / "manifest.parquet")["label"]
    store = make_store(
        tmp_path / "told",
        test_labels=lambda labels: (np.arange(len(labels)) // 3 % 2).astype(np.int8),
        attributes=lambda group, image: ("site=a",) if labels[image] or group % 4 == 0 else ("site=b",),
    )
    rows = {
        row["subgroup"]: row for row in make(tmp_path, store).metrics["results"] if row["id"].startswith("scratch/f")
    }
    b = rows["site=b"]
    assert (b["positives"], b["rarer_groups"]) == (0, 0) and b["n"] > 40
    assert b["specificity"]["low"] < b["specificity"]["value"] < b["specificity"]["high"]
    assert all(b[metric]["value"] is None for metric in METRICS if metric != "specificity")


def test_the_label_fraction_of_the_store_is_that_of_every_row(tmp_path: Path) -> None:
    made = make(tmp_path, make_store(tmp_path / "store", label_fraction=0.25))
    assert {row["label_fraction"] for row in made.metrics["results"]} == {0.25}
    assert made.content["learnt_from"].keys() == {"train", "validation"}
    for count in made.content["learnt_from"].values():
        assert 0 < count["positives"] < count["images"]


def test_every_candidate_and_shortcut_is_a_row_on_both_levels(made: Made) -> None:
    images = [f"{name}/{f}/{c}/seed3" for name in ("scratch", "imagenet", "in_domain") for f, c in CANDIDATES]
    images += ["shortcut/majority_class", "shortcut/grey_level_histogram", "shortcut/image_metadata"]
    assert list(made.rows) == [*images, *(f"{one}/{level}" for level in ("study", "study-max") for one in images)]
    assert {made.rows[one]["level"] for one in images} == {"image"}
    for level, pooling in (("study", "mean"), ("study-max", "max")):
        rows = [made.rows[f"{one}/{level}"] for one in images]
        assert {(row["level"], row["pooling"]) for row in rows} == {("study", pooling)}
    assert made.rows[images[0]]["n"] == made.metrics["test"]["images"] == 192
    assert made.rows[f"{images[0]}/study"]["n"] == made.metrics["test"]["groups"] == 64
    shortcut = made.rows["shortcut/grey_level_histogram"]
    assert (shortcut["tl_source"], shortcut["features"], shortcut["classifier"]) == (
        "shortcut",
        "grey_level_histogram",
        "logistic_regression",
    )
    assert made.rows["shortcut/majority_class"]["classifier"] == "majority"


def test_values_can_be_recomputed_from_the_scores(made: Made) -> None:
    table = pd.read_parquet(made.path / "test_scores.parquet")
    image_rows = [name for name, row in made.rows.items() if row["level"] == "image"]
    assert list(table) == ["image_id", "group_id", "label", *image_rows]
    assert made.metrics["test"]["positives"] == table["label"].sum()
    studies = table.groupby("group_id")[["label", *image_rows]].mean()  # here every group is one study
    for name in image_rows:
        assert made.rows[name]["auroc"]["value"] == pytest.approx(roc_auc_score(table["label"], table[name]))
        study = made.rows[f"{name}/study"]["auroc"]["value"]
        assert study == pytest.approx(roc_auc_score(studies["label"], studies[name]))
        highest = made.rows[f"{name}/study-max"]["auroc"]["value"]
        assert highest == pytest.approx(roc_auc_score(studies["label"], table.groupby("group_id")[name].max()))
        called, confusion = table[name] >= made.curves[name]["threshold"], made.curves[name]["confusion"]
        assert confusion["tp"] == (called & (table["label"] == 1)).sum()
        assert confusion["fp"] == (called & (table["label"] == 0)).sum()
        assert sum(confusion.values()) == len(table)
        assert made.rows[name]["accuracy"]["value"] == pytest.approx((called == table["label"]).mean())
        assert made.rows[name]["brier"]["value"] == pytest.approx(((table[name] - table["label"]) ** 2).mean())


def test_scores_are_matched_by_image_not_by_position(tmp_path: Path, store: Path) -> None:
    straight = make(tmp_path / "a", store)
    shuffled = make(tmp_path / "b", store, scores=lambda table: table.sample(frac=1, random_state=0))
    assert straight.metrics == shuffled.metrics


def test_curves_hold_every_row_and_finite_numbers(made: Made) -> None:
    assert list(made.curves) == list(made.rows)

    def numbers(value: Any) -> list[float]:
        if isinstance(value, dict):
            value = list(value.values())
        return [one for item in value for one in numbers(item)] if isinstance(value, list) else [value]

    assert all(math.isfinite(one) for one in numbers(made.curves))
    for name, curve in made.curves.items():
        assert sum(one["n"] for one in curve["reliability"]) == made.rows[name]["n"]
        assert curve["roc"]["fpr"][0] == curve["roc"]["tpr"][0] == 0


def test_one_row_is_selected_by_validation_alone(made: Made, tmp_path: Path) -> None:
    marked = [name for name, row in made.rows.items() if row["selected"]]
    assert marked == [made.content["selected"]]
    validation = {}
    for name in ("scratch", "imagenet", "in_domain"):
        content = artifacts.read(made.path.parent / f"classifiers-{name}", "classifiers").content
        validation |= {f"{name}/{one['id']}/seed3": one["validation_auroc"] for one in content["candidates"]}
        assert made.content["choices"][name] == {
            kind: f"{name}/{candidate}/seed3" for kind, candidate in content["choice"].items()
        }
    assert validation[marked[0]] == max(validation.values())


def test_test_labels_choose_nothing(tmp_path: Path) -> None:
    """With test labels turned round, everything chosen stays, and so do scores and thresholds."""
    runs = []
    for name, turned in (("a", lambda labels: labels), ("b", lambda labels: 1 - labels)):
        folder = tmp_path / name
        folder.mkdir()
        store = make_store(folder / "store", test_labels=turned)
        keep = pd.read_parquet(store / "manifest.parquet")["split"] != "test"

        def neutral(table: pd.DataFrame, keep: pd.Series = keep) -> pd.DataFrame:
            values = table.select_dtypes("number")
            return table.assign(**{one: values[one].where(keep, 0.5) for one in values})

        runs.append(make(folder, store, scores=neutral))
    first, second = runs
    assert first.content["selected"] == second.content["selected"]
    assert first.content["choices"] == second.content["choices"]
    table = [pd.read_parquet(one.path / "test_scores.parquet").drop(columns="label") for one in runs]
    pd.testing.assert_frame_equal(*table)
    assert all(first.curves[name]["threshold"] == second.curves[name]["threshold"] for name in first.curves)
    rows = [one.rows["shortcut/grey_level_histogram"]["auroc"]["value"] for one in runs]
    assert rows[0] == pytest.approx(1 - rows[1]) and rows[0] != 0.5


def test_comparisons_are_those_promised(made: Made) -> None:
    fused = {name: one["fused"] for name, one in made.content["choices"].items()}
    single = {name: one["single"] for name, one in made.content["choices"].items()}
    pairs = [("in_domain", "imagenet"), ("in_domain", "scratch"), ("imagenet", "scratch")]
    expected = [
        (fused[a], fused[b], metric, "tl_source") for a, b in pairs for metric in ("auroc", "accuracy", "kappa")
    ]
    expected += [(fused[one], single[one], "auroc", "fusion") for one in ("in_domain", "imagenet", "scratch")]
    learnt = ("shortcut/grey_level_histogram", "shortcut/image_metadata")
    expected += [(made.content["selected"], shortcut, "auroc", "shortcut") for shortcut in learnt]
    found = made.metrics["comparisons"]
    assert [(one["a"], one["b"], one["metric"], one["family"]) for one in found] == expected
    for one in found:
        values = [made.rows[one[side]][one["metric"]]["value"] for side in ("a", "b")]
        assert one["difference"] == pytest.approx(values[0] - values[1])


def test_each_backbone_left_out_is_a_row_and_a_comparison(tmp_path: Path, store: Path) -> None:
    made = make(tmp_path, store, left_out=BACKBONES)
    for source in SKILLS:
        for backbone in BACKBONES:
            row = made.rows[f"{source}/without/{backbone}/seed3"]
            assert (row["features"], row["tl_source"], row["selected"]) == (f"fused without {backbone}", source, False)
    found = [one for one in made.metrics["comparisons"] if one["family"] == "block"]
    fused = {source: one["fused"] for source, one in made.content["choices"].items()}
    expected = [(fused[source], f"{source}/without/{backbone}/seed3") for source in SKILLS for backbone in BACKBONES]
    assert sorted((one["a"], one["b"]) for one in found) == sorted(expected)


def test_hidden_lesions_are_rows_and_a_comparison(tmp_path: Path, store: Path) -> None:
    """Of half of the test images; hiding lesions takes away the skill that hiding as much elsewhere leaves."""
    first = make(tmp_path / "first", store)
    selected = first.content["selected"]
    table = pd.read_parquet(first.path / "test_scores.parquet").iloc[::2]
    columns = {name.rpartition("/seed")[0]: name for name in table.columns if name.endswith("/seed3")}
    shown = pd.DataFrame({column: table[name] for column, name in columns.items()})
    shown.insert(0, "image_id", table["image_id"])
    hidden = shown.assign(**dict.fromkeys(columns, 0.5))
    changes = {"lesion_masked": hidden, "lesion_control": shown}
    stressed = pd.concat([part.assign(corruption=name) for name, part in changes.items()])
    made = make(tmp_path / "second", store, stressed=stressed)
    assert set(made.rows) - set(first.rows) == {f"{row}/{name}" for name in changes for row in columns.values()}
    control, masked = made.rows[f"{selected}/lesion_control"], made.rows[f"{selected}/lesion_masked"]
    assert control["n"] == masked["n"] == len(table) and masked["auroc"]["value"] == 0.5
    assert (control["corruption"], control["selected"]) == ("lesion_control", False)
    assert control["auroc"]["value"] == pytest.approx(roc_auc_score(table["label"], table[selected]))
    (one,) = [one for one in made.metrics["comparisons"] if one["family"] == "lesion"]
    assert (one["a"], one["b"]) == (control["id"], masked["id"]) and one["adjusted_p"] < 0.05
    assert not [text for text in made.content["warnings"] if "lesions" in text]
    useless = pd.concat([shown.assign(corruption=name) for name in changes])
    blind = make(tmp_path / "third", store, stressed=useless)
    assert [text for text in blind.content["warnings"] if "Hiding the annotated lesions takes nothing" in text]
    with pytest.raises(RadtransferError, match="no test image of the store"):
        make(tmp_path / "fourth", store, stressed=stressed.assign(image_id="other"))


def test_same_inputs_and_seed_give_the_same_bytes(tmp_path: Path, store: Path) -> None:
    first = make(tmp_path / "a", store)
    again = make(tmp_path / "b", store, order=["in_domain", "scratch", "imagenet"])
    other = make(tmp_path / "c", store, seed=1)
    for name in ("metrics.json", "curves.json", "test_scores.parquet"):
        assert (first.path / name).read_bytes() == (again.path / name).read_bytes(), name
    digests = [artifacts.read(one.path, "evaluation").digest for one in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    values = [[row["auroc"]["value"] for row in one.metrics["results"]] for one in (first, other)]
    lows = [[row["auroc"]["low"] for row in one.metrics["results"]] for one in (first, other)]
    assert values[0][:-2] == values[1][:-2] and lows[0] != lows[1]  # the last are shortcuts, whose folds are seeded


@pytest.mark.parametrize(
    ("skills", "winner", "said"),
    [
        ({"scratch": 0.0, "imagenet": 0.8, "in_domain": 3.0}, "in_domain", "significantly better than ImageNet"),
        ({"scratch": 0.0, "imagenet": 3.0, "in_domain": 0.8}, "imagenet", "significantly worse than ImageNet"),
        ({"scratch": 0.0, "imagenet": 1.5, "in_domain": 1.5}, None, "No significant difference"),
        ({"scratch": 4.0, "imagenet": 0.2, "in_domain": 1.2}, None, "neither wins"),
        ({"scratch": 3.0, "imagenet": 0.8, "in_domain": 3.0}, "in_domain", "shows no significant gain"),
        ({"scratch": 1.0, "imagenet": 1.5}, None, "not given in-domain pre-training"),
    ],
)
def test_the_answer_is_no_stronger_than_the_evidence(
    tmp_path: Path, store: Path, skills: dict[str, float], winner: str | None, said: str
) -> None:
    found = make(tmp_path, store, skills, bootstrap=500)
    answer = found.content["answer"]
    assert (answer["winner"], said in answer["text"]) == (winner, True), answer["text"]
    if "in_domain" not in skills:
        assert answer["significant"] is False
        return
    main = found.metrics["comparisons"][0]
    assert answer["significant"] is (main["adjusted_p"] < 0.05) is ("That is of one training" in answer["text"])
    for figure in (f"{main['difference']:+.3f}", f"{main['low']:+.3f}", f"{main['high']:+.3f}", "after Holm"):
        assert figure in answer["text"]
    worse = "Negative transfer: in-domain pre-training is significantly worse than ImageNet transfer (AUROC"
    negative = any(one.startswith(worse) for one in found.content["warnings"])
    assert negative is (main["adjusted_p"] < 0.05 and main["difference"] < 0)


def test_a_shortcut_that_is_not_cleared_is_said(tmp_path: Path) -> None:
    clear = make(tmp_path / "clear", make_store(tmp_path / "dull"))
    assert not [one for one in clear.content["warnings"] if "shortcut" in one or "histogram" in one]
    dazzled = make(tmp_path / "dazzled", make_store(tmp_path / "bright", exposure=2.0))
    assert dazzled.rows["shortcut/grey_level_histogram"]["auroc"]["value"] > 0.9
    text = " ".join(dazzled.content["warnings"])
    assert "does not clear the shortcut" in text and "is reached by a grey-level histogram alone" in text


def test_the_histogram_shortcut_learns_and_calibrates(tmp_path: Path) -> None:
    bright = make(tmp_path / "run", make_store(tmp_path / "store", images=480, exposure=1.0))
    row, majority = (bright.rows[f"shortcut/{name}"] for name in ("grey_level_histogram", "majority_class"))
    assert row["auroc"]["value"] > 0.85 and row["kappa"]["value"] > 0.4 and row["ece"]["value"] < 0.2
    assert (majority["kappa"]["value"], majority["auroc"]["value"]) == (0, 0.5)
    labels = pd.read_parquet(tmp_path / "store" / "manifest.parquet").query("split == 'test'")["label"]
    assert majority["accuracy"]["value"] == pytest.approx(1 - labels.mean())


def test_sizes_that_tell_the_label_are_a_shortcut(tmp_path: Path) -> None:
    archived = make(tmp_path / "run", make_store(tmp_path / "store", widths=2.0))
    row = archived.rows["shortcut/image_metadata"]
    assert row["auroc"]["value"] > 0.9 and row["classifier"] == "logistic_regression"
    assert archived.rows["shortcut/grey_level_histogram"]["auroc"]["value"] < 0.75
    text = " ".join(archived.content["warnings"])
    assert "less that of the size and kind of the image files" in text and "device or archive" in text


def test_metadata_are_sizes_kinds_and_flags() -> None:
    manifest = pd.DataFrame(
        {
            "width": [1, 2, 4], "height": [1, 1, 8], "source_file": ["a/1.PNG", "a.b/2.dcm", "3.dcm"],
            "flags": [[], ["cropped", "inverted"], ["inverted"]],
        }
    )  # fmt: skip
    expected = [[0, 0, 0, 1, 0, 0], [np.log(2), 0, 1, 0, 1, 1], [np.log(4), np.log(8), 1, 0, 0, 1]]
    np.testing.assert_allclose(metadata(manifest), expected)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"synthetic": True}, "synthetic"),
        ({"grouping": "near_duplicate"}, "no patient ids"),
        ({"images": 210}, "lie in only 28 leakage groups (fewer than 30): intervals are a rough guide"),
    ],
)
def test_limits_of_the_data_are_warned_of(made: Made, tmp_path: Path, keywords: dict[str, Any], said: str) -> None:
    if "images" in keywords:
        keywords |= {"test_labels": lambda labels: (np.arange(len(labels)) % 2).astype(np.int8)}
    assert said in " ".join(make(tmp_path, make_store(tmp_path / "store", **keywords)).content["warnings"])
    assert said not in " ".join(made.content["warnings"])


def test_too_few_groups_give_no_verdict(tmp_path: Path) -> None:
    """Many images in few groups are no evidence, however far apart the scores are."""
    store = make_store(tmp_path / "store", images=90, test_labels=lambda labels: np.arange(len(labels)) // 3 % 2)
    found = make(tmp_path, store, {"in_domain": 3.0, "imagenet": 0.0, "scratch": 0.0})
    assert all(one["p_value"] is None and one["adjusted_p"] is None for one in found.metrics["comparisons"])
    assert found.content["answer"]["winner"] is None and not found.content["answer"]["significant"]
    assert (
        "no verdict" in found.content["answer"]["text"]
        and "in only 6 leakage groups" in found.content["answer"]["text"]
    )
    assert "intervals cannot be trusted" in " ".join(found.content["warnings"])


def test_too_few_replicates_are_warned_of(made: Made, tmp_path: Path) -> None:
    assert "Set bootstrap to 360 or more" in " ".join(made.content["warnings"])  # made with 200
    enough = make(tmp_path, make_store(tmp_path / "store"), bootstrap=400)
    assert "Set bootstrap" not in " ".join(enough.content["warnings"])


def _drop_one(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["image_id"] != "images/0479.png"]


def _poison(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(**{"beta/head": table["beta/head"].where(table["split"] != "test", np.nan)})


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"change": {"store_digest": "f" * 64}}, "another image store"),
        ({"change": {"tl_source": "imagenet"}}, "are both of imagenet; hand over one"),
        ({"change": {"tl_source": "magic"}}, "unknown TL source 'magic'"),
        ({"change": {"seed": 8}}, "another seed"),
        ({"change": {"blocks": []}}, "another backbones"),
        ({"change": {"choice": {"fused": "no/such", "single": "alpha/head", "overall": "alpha/head"}}}, "no/such"),
        ({"scores": _drop_one}, "images/0479.png"),
        ({"scores": lambda table: table.drop(columns="beta/head")}, "beta/head"),
        ({"scores": _poison}, "in_domain/beta/head/seed3"),
    ],
)
def test_inputs_that_do_not_belong_together_are_errors(
    tmp_path: Path, store: Path, keywords: dict[str, Any], said: str
) -> None:
    good = make_classifiers(tmp_path / "good", store, "imagenet", skill=1)
    bad = make_classifiers(tmp_path / "bad", store, "in_domain", skill=1, **keywords)
    with pytest.raises(RadtransferError, match=said):
        evaluate(
            target_store=store, classifiers=[good, bad], stress=make_stress(tmp_path / "s"), bootstrap=100, seed=0,
            out=tmp_path / "out",
        )  # fmt: skip
    assert not [one for one in tmp_path.iterdir() if "out" in one.name]


def test_predictive_values_are_those_of_the_stated_prevalence(tmp_path: Path, store: Path) -> None:
    classifiers = [make_classifiers(tmp_path / name, store, name, skill=skill) for name, skill in SKILLS.items()]
    rows, stress = [], make_stress(tmp_path / "stress")
    for prevalence in (0.0, 0.01):
        out = tmp_path / f"evaluation-{prevalence}"
        given = {"target_store": store, "classifiers": classifiers, "stress": stress}
        evaluate(**given, bootstrap=100, seed=0, out=out, prevalence=prevalence)
        assert artifacts.read(out, "evaluation").made["settings"]["prevalence"] == prevalence
        rows.append(Made(out).rows["in_domain/fused/svm_rbf/seed3"])
    own, rare = rows
    hit, cleared = rare["sensitivity"]["value"], rare["specificity"]["value"]
    assert rare["ppv"]["value"] == pytest.approx(0.01 * hit / (0.01 * hit + 0.99 * (1 - cleared)))
    assert rare["ppv"]["value"] < 0.1 < own["ppv"]["value"] and rare["npv"]["value"] > own["npv"]["value"]


def _set(value: Callable[[pd.DataFrame, pd.Series], Any]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Give the test images of every candidate other scores."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        test = table["split"] == "test"
        names = [f"{features}/{classifier}" for features, classifier in CANDIDATES]
        return table.assign(**{name: table[name].where(~test, value(table, test)) for name in names})

    return change


@pytest.mark.parametrize("degenerate", ["equal scores", "perfect separation", "all studies positive"])
def test_degenerate_scores_leave_no_nan(tmp_path: Path, degenerate: str) -> None:
    """All-equal scores, perfect separation, and studies of one class go through, with null where nothing is defined."""
    keywords: dict[str, Any] = {}
    if degenerate == "all studies positive":  # each holds both classes
        keywords = {"studies": True, "test_labels": lambda labels: (np.arange(len(labels)) % 3 == 0).astype(np.int8)}
    store = make_store(tmp_path / "store", **keywords)
    labels = pd.read_parquet(store / "manifest.parquet")["label"]
    changes: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
        "equal scores": _set(lambda table, test: 0.5),
        "perfect separation": _set(lambda table, test: 0.1 + 0.8 * labels),
    }
    made = make(tmp_path, store, **({"scores": changes[degenerate]} if degenerate in changes else {}))
    for name in ("metrics.json", "curves.json"):
        json.loads((made.path / name).read_text(), parse_constant=lambda found: pytest.fail(f"holds {found}"))
    selected = made.rows[made.content["selected"]]
    main = made.metrics["comparisons"][0]
    assert "nan" not in (made.content["answer"]["text"] + str(made.content["warnings"])).lower()
    if degenerate == "equal scores":
        assert selected["auroc"] == {"value": 0.5, "low": 0.5, "high": 0.5}
        assert selected["calibration_slope"]["value"] is None
        assert (main["difference"], main["p_value"], made.content["answer"]["winner"]) == (0, 1, None)
    elif degenerate == "perfect separation":
        assert selected["auroc"]["value"] == selected["auroc"]["high"] == 1 and 0.9 < selected["auroc"]["low"] < 1
        assert selected["calibration_slope"]["value"] is None and main["difference"] == 0
    else:
        study = made.rows[f"{selected['id']}/study"]
        undefined = {name for name in METRICS if study[name]["value"] is None}
        assert undefined == {"auroc", "specificity", "calibration_slope"}
        assert made.curves[study["id"]]["roc"] is None


def test_classifiers_of_another_store_are_an_error(tmp_path: Path, store: Path) -> None:
    other = make_store(tmp_path / "other", exposure=1)
    with pytest.raises(RadtransferError, match="another image store"):
        make(tmp_path, store, change={"store_digest": artifacts.read(other, "image-store").digest})
    with pytest.raises(RadtransferError, match="no classifiers"):
        stress = make_stress(tmp_path / "none")
        evaluate(target_store=store, classifiers=[], stress=stress, bootstrap=100, seed=0, out=tmp_path / "out")


def test_a_test_split_of_one_class_is_an_error(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", test_labels=np.zeros_like)
    with pytest.raises(RadtransferError, match="all of class 0"):
        make(tmp_path, store)


@pytest.mark.parametrize("name", ["metrics.json", "curves.json"])
def test_files_are_plain_json(made: Made, name: str) -> None:
    json.loads((made.path / name).read_text(), parse_constant=lambda constant: pytest.fail(f"holds {constant}"))


def test_a_part_named_like_its_folder_is_said_once() -> None:
    def called(name: str, part: str) -> str:
        return _target(SimpleNamespace(content={"name": name, "part": part}))  # type: ignore[arg-type]

    assert [called("hospital", "hospital"), called("own", "hand"), called("own", "")] == ["hospital", "own hand", "own"]
