from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.robustness import CONTROL, MASKED
from radtransfer.robustness import stress as step
from radtransfer.robustness.corruptions import corrupted
from radtransfer.robustness.kinds import GRADES, graded
from radtransfer.robustness.stress import stress


def stressed(mini_run: Any, out: Path, **settings: Any) -> pd.DataFrame:
    names = ("target_store", "classifiers", "models")
    given = (
        {name: mini_run.arguments()[name] for name in names} | {"seed": 3, "threads": 1, "corruptions": []} | settings
    )
    stress(**given, out=out)
    return pd.read_parquet(out / "scores.parquet")


def test_every_choice_scores_every_changed_image(mini_run: Any, tmp_path: Path) -> None:
    table = stressed(mini_run, tmp_path / "a")
    content = artifacts.read(tmp_path / "a", "stress", verify=True).content
    test = mini_run.scores["image_id"].tolist()
    assert content["corruptions"] == {MASKED: len(test), CONTROL: len(test)}
    assert table["image_id"].tolist() == test * 2
    assert set(table.columns[2:]) == {
        f"{source}/{candidate}/logistic_regression"
        for source in mini_run.sources
        for candidate in ("fused", "test_resnet")
    }
    assert np.isfinite(table[table.columns[2:]]).all(axis=None)
    pd.testing.assert_frame_equal(table, stressed(mini_run, tmp_path / "b"))
    other = stressed(mini_run, tmp_path / "c", seed=4)
    assert not table.equals(other)
    assert [path.name for path in tmp_path.iterdir() if path.name not in "abc"] == []


def test_what_is_not_changed_scores_as_it_was_evaluated(
    mini_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "hidden", lambda image, boxes: image)
    monkeypatch.setattr(step, "corrupted", lambda image, region, kind, grade, **_: image)
    monkeypatch.setattr(step, "BATCH", 5)
    table = stressed(mini_run, tmp_path / "a", corruptions=["noise", "blur"])
    assert len(table) == (2 + 2 * GRADES) * len(mini_run.scores)
    for column in table.columns[2:]:
        evaluated = mini_run.scores[f"{column}/seed3"].to_numpy()
        np.testing.assert_allclose(table[column], np.tile(evaluated, 2 + 2 * GRADES), atol=1e-5)


def test_graded_corruptions_are_scored_whatever_the_batch(
    mini_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is corrupted once for all sources, by the digest of its file and not by its place in the store."""
    made: dict[str, list[bytes]] = {"a": [], "b": []}
    tables = {}
    for out, batch in (("a", 32), ("b", 7)):

        def noted(*given: Any, _into: list[bytes] = made[out], **more: Any) -> np.ndarray:
            _into.append(corrupted(*given, **more).tobytes())
            return corrupted(*given, **more)

        monkeypatch.setattr(step, "corrupted", noted)
        monkeypatch.setattr(step, "BATCH", batch)
        tables[out] = stressed(mini_run, tmp_path / out, corruptions=["jpeg", "occlusion"])
    names = [graded(kind, grade) for kind in ("jpeg", "occlusion") for grade in range(1, GRADES + 1)]
    test = mini_run.scores["image_id"].tolist()
    assert tables["a"]["corruption"].unique().tolist() == [MASKED, CONTROL, *names]
    assert tables["a"]["image_id"].tolist() == test * (2 + len(names))
    assert made["a"] == made["b"] and len(made["a"]) == len(names) * len(test)
    pd.testing.assert_frame_equal(tables["a"], tables["b"], atol=1e-5)
    store = step.Store.open(mini_run.store)
    row = store.rows("test")[1]
    image = corrupted(store.images[row], (8, 0, 56, 64), "jpeg", 1, seed=3, name=f"{row:064x}")
    assert made["a"][1] == image.tobytes()
    said = artifacts.read(tmp_path / "a", "stress")
    assert said.content["corruptions"] == dict.fromkeys([MASKED, CONTROL, *names], len(test))
    assert said.made["settings"]["corruptions"] == ["jpeg", "occlusion"]
    with pytest.raises(RadtransferError, match="unknown corruption 'jpg'; did you mean jpeg"):
        stressed(mini_run, tmp_path / "c", corruptions=["jpg"])


def test_lesions_hidden_are_those_of_the_image(mini_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bright spot of the positive images is gone from the masked ones, and stays in the control."""
    seen = []
    monkeypatch.setattr(step, "scored", lambda chosen, images, changes: seen.append(changes) or {})
    stressed(mini_run, tmp_path / "a")
    masked, control = seen[0].values()
    store = step.Store.open(mini_run.store)
    labels = store.manifest["label"].to_numpy()
    for row in masked.rows:
        spot = np.s_[30:38, 20:28]
        image = store.images[row]
        if labels[row]:
            assert image[spot].min() == 240 and masked.made(image, row)[spot].max() < 100
            assert (control.made(image, row)[spot] == 240).all()
        else:
            assert (masked.made(image, row) != image)[spot].any()
            assert (control.made(image, row) != image).any()


def test_a_target_without_boxes_has_no_changes(mini_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = step.Store.open

    def bare(path: Path) -> Any:
        store = opened(path)
        store.manifest["boxes"] = [[] for _ in range(len(store.manifest))]
        return store

    monkeypatch.setattr(step.Store, "open", bare)
    table = stressed(mini_run, tmp_path / "a")
    assert table.empty and {"corruption", "image_id"} <= set(table.columns)
    assert artifacts.read(tmp_path / "a", "stress").content["corruptions"] == {}


def test_a_missing_model_is_named(mini_run: Any, tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match="the model of test_vit imagenet is missing"):
        stressed(mini_run, tmp_path / "a", models=mini_run.models[:1] + mini_run.models[2:])
    assert not list(tmp_path.iterdir())
