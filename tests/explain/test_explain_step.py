from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.explain.run import explain

OVERALL = {
    "scratch": "scratch/test_resnet/logistic_regression/seed3",
    "imagenet": "imagenet/fused/logistic_regression/seed3",
}
SETTINGS: dict[str, Any] = {"images_per_outcome": 1, "lime_samples": 20, "quality_images": 4, "seed": 3, "threads": 1}
NONE = {"images_per_outcome": 0, "quality_images": 0}


@pytest.fixture(scope="module")
def explained(mini_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explained") / "explanations"
    explain(**mini_run.arguments(), **SETTINGS, out=out)
    return out


def shown(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_gallery_holds_every_source_and_method(mini_run: Any, explained: Path) -> None:
    artifact = artifacts.read(explained, "explanations", verify=True)
    gallery = json.loads((explained / "gallery.json").read_text())
    scores = mini_run.scores.set_index("image_id")
    selected = scores["imagenet/fused/logistic_regression/seed3"]
    assert artifact.content["images"] == len(gallery) == len({case["image_id"] for case in gallery}) > 1
    assert artifact.content["explained"] == OVERALL
    assert all(case["size"] == [48, 64] for case in gallery)
    assert {tuple(box) for case in gallery for box in case["boxes"]} == {(12.0, 30.0, 20.0, 38.0)}, "in the picture"
    named = {"explanations.json", "gallery.json", "quality.csv", "quality_sources.csv", "lesions.csv"}
    for case in gallery:
        label, called = scores.at[case["image_id"], "label"], selected[case["image_id"]] >= mini_run.threshold
        assert case["outcome"] == ("T" if bool(label) == called else "F") + ("P" if called else "N")
        assert case["label_name"] == ("fractured" if label else "normal")
        assert bool(case["boxes"]) == bool(label) == bool(case["boxed"])
        assert set(case["maps"]) == set(case["scores"]) == set(mini_run.sources)
        for source in mini_run.sources:
            expected = scores.at[case["image_id"], OVERALL[source]]
            assert case["scores"][source] == pytest.approx(expected, abs=1e-5)
            called = expected >= mini_run.threshold
            assert case["outcomes"][source] == ("T" if bool(label) == called else "F") + ("P" if called else "N")
            named |= set(case["maps"][source].values())
            assert set(case["maps"][source]) == set(case["fidelity"][source]) == {"gradcam", "lime"}
            plain = [
                method
                for method, file in case["maps"][source].items()
                if np.array_equal(shown(explained / file), shown(explained / case["image"]))
            ]
            assert case["fidelity"][source]["gradcam"] == 1 and case["empty"][source] == plain
        named |= {case["image"]} | ({case["boxed"]} if case["boxed"] else set())
    assert named == {path.name for path in explained.iterdir()}
    for path in explained.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.size == (192, 256) and picture.mode == "RGB"  # without the padding, four times


def test_sources_differ_and_only_one_picture_has_boxes(mini_run: Any, explained: Path) -> None:
    case = next(case for case in json.loads((explained / "gallery.json").read_text()) if case["boxes"])
    pictures = {name: np.asarray(Image.open(explained / name)) for name in (case["image"], case["boxed"])}
    pictures |= {
        source: np.asarray(Image.open(explained / case["maps"][source]["gradcam"])) for source in mini_run.sources
    }
    assert not np.array_equal(pictures[mini_run.sources[0]], pictures[mini_run.sources[1]])
    changed = np.argwhere((pictures[case["image"]] != pictures[case["boxed"]]).any(axis=2))
    assert changed.min(axis=0).tolist() == pytest.approx([120, 48], abs=3)  # the box (12, 30, 20, 38), four times
    assert changed.max(axis=0).tolist() == pytest.approx([152, 80], abs=3)


def test_both_methods_are_measured_on_a_sample(explained: Path) -> None:
    quality = artifacts.read(explained, "explanations").content["quality"]
    assert (quality["images"], quality["groups"]) == (4, 4)
    assert [(row["tl_source"], row["method"]) for row in quality["rows"]] == [
        (source, method) for source in ("scratch", "imagenet") for method in ("gradcam", "lime", "random")
    ]
    images = pd.read_csv(explained / "quality.csv")
    assert len(images) == 2 * 3 * 4 and images["image_id"].nunique() == 4
    for row in quality["rows"]:
        for name in ("deletion", "insertion"):
            assert 0 < row[name]["low"] <= row[name]["value"] <= row[name]["high"] < 1
        assert row["gain"]["value"] == pytest.approx(row["insertion"]["value"] - row["deletion"]["value"])
        if row["method"] == "random":
            assert row["energy"]["value"] is row["border"]["value"] is row["chance"] is None
        else:
            assert 0 <= row["energy"]["value"] <= 1 and row["chance"] == pytest.approx(64 / (48 * 64))
            fidelity = row["fidelity"]["value"]
            assert fidelity == 1 if row["method"] == "gradcam" else 0 < fidelity < 1
    assert [(one["a"], one["b"], one["n"]) for one in quality["between"]] == [("imagenet", "scratch", 4)]
    assert len(pd.read_csv(explained / "quality_sources.csv")) == 4
    assert {(one["metric"], one["p_value"]) for one in quality["comparisons"]} == {("gain", None), ("energy", None)}


def test_every_test_image_with_a_box_is_held_against_it(mini_run: Any, explained: Path) -> None:
    content = artifacts.read(explained, "explanations").content
    boxed = int(mini_run.scores["label"].sum())
    assert [row["tl_source"] for row in content["lesions"]] == ["scratch", "imagenet", "centre"]
    for row in content["lesions"]:
        assert (row["n"], row["groups"]) == (boxed, boxed) and row["chance"] == pytest.approx(64 / (48 * 64))
        assert row["fidelity"] == (None if row["tl_source"] == "centre" else 1)
        for what in ("energy", "pointing"):
            assert 0 <= row[what]["low"] <= row[what]["value"] <= row[what]["high"] <= 1
    pairs = [(one["a"], one["b"], one["metric"]) for one in content["lesion_comparisons"]]
    assert pairs == [
        (a, b, metric)
        for a, b in (("imagenet", "scratch"), ("imagenet", "centre"), ("scratch", "centre"))
        for metric in ("energy", "pointing")
    ]
    table = pd.read_csv(explained / "lesions.csv")
    assert len(table) == 3 * boxed and not table[["energy", "pointing"]].isna().any(axis=None)


def test_same_seed_same_explanations(mini_run: Any, explained: Path, tmp_path: Path) -> None:
    explain(**mini_run.arguments(), **SETTINGS, out=tmp_path / "again")
    first, again = (artifacts.read(path, "explanations") for path in (explained, tmp_path / "again"))
    assert first.digest == again.digest


def test_no_images_wanted(mini_run: Any, tmp_path: Path) -> None:
    explain(**mini_run.arguments(), **(SETTINGS | NONE), out=tmp_path / "none")
    assert json.loads((tmp_path / "none/gallery.json").read_text()) == []
    content = artifacts.read(tmp_path / "none", "explanations").content
    assert content["quality"] == {} and content["lesions"] == content["lesion_comparisons"] == []


def test_a_sample_is_measured_though_no_picture_is_wanted(mini_run: Any, tmp_path: Path) -> None:
    wanted = SETTINGS | {"images_per_outcome": 0, "quality_images": 1, "lime_samples": 10}
    explain(**mini_run.arguments(), **wanted, out=tmp_path / "measured")
    quality = artifacts.read(tmp_path / "measured", "explanations").content["quality"]
    assert quality["images"] == 1 and quality["rows"][0]["gain"]["low"] is None
    assert not list((tmp_path / "measured").glob("*.png"))


def test_scarce_outcomes_are_said(mini_run: Any, tmp_path: Path) -> None:
    wanted = SETTINGS | {"images_per_outcome": 50, "lime_samples": 2, "quality_images": 0}
    explain(**mini_run.arguments(), **wanted, out=tmp_path / "all")
    content = artifacts.read(tmp_path / "all", "explanations").content
    assert content["images"] == 12
    assert sum("of 50 wanted" in note for note in content["notes"]) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: {"models": run.models[:-1]}, "test_vit scratch is missing"),
        (lambda run: {"models": [*run.models, run.models[0]]}, "both of"),
        (lambda run: {"classifiers": run.classifiers[:1]}, "'scratch' are missing"),
        (lambda run: {"evaluation": run.store}, "expected an artifact of kind 'evaluation'"),
    ],
)
def test_incomplete_inputs(mini_run: Any, tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(RadtransferError, match=said):
        explain(**(mini_run.arguments() | change(mini_run)), **SETTINGS, out=tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_model_of_another_run_is_refused(mini_run: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    with artifacts.writing(wrong, "model", step="finetune", settings={}) as (folder, content):
        shutil.copy(mini_run.models[0] / "weights.safetensors", folder)
        content.update(artifacts.read(mini_run.models[0], "model").content, seed=99)
    with pytest.raises(RadtransferError, match=r"wrong: not the model that .* was fitted on"):
        explain(**(mini_run.arguments() | {"models": [wrong, *mini_run.models[1:]]}), **SETTINGS, out=tmp_path / "out")
