"""Extract, fuse and classify: traceable columns, no test labels, choices made on validation."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from radtransfer import artifacts
from radtransfer.config import TL_SOURCES
from radtransfer.errors import RadtransferError
from radtransfer.fusion.calibration import Calibration
from radtransfer.fusion.classify import classify
from radtransfer.fusion.extract import extract
from radtransfer.fusion.fuse import fuse
from radtransfer.fusion.grid import CLASSIFIERS
from radtransfer.fusion.predictor import of_candidate
from radtransfer.fusion.scoring import load_classifier, raw_score
from radtransfer.preprocess.store import SCHEMA, Store
from radtransfer.training.inference import infer
from radtransfer.training.network import load_network
from radtransfer.training.steps import finetune
from tests.conftest import TINY, Chain
from tests.training.test_steps import RECIPE, write_store


def test_features_carry_no_test_labels(chain: Chain) -> None:
    manifest = Store.open(chain.target_store).manifest
    for path in (chain.features["imagenet"], chain.fused["imagenet"]):
        index = pd.read_parquet(path / "index.parquet")
        assert index["image_id"].tolist() == manifest["image_id"].tolist()
        test = index["split"] == "test"
        assert test.any() and index.loc[test, "label"].isna().all()
        assert (index.loc[~test, "label"] == manifest.loc[~test.to_numpy(), "label"].to_numpy()).all()


def test_every_fused_column_traces_back_to_its_model(chain: Chain, tmp_path: Path) -> None:
    fused = artifacts.read(chain.fused["scratch"], "fused")
    matrix = np.load(fused.path / "fused.npy")
    assert [block["backbone"] for block in fused.content["blocks"]] == sorted(TINY)
    images = Store.open(chain.target_store).images
    for block in fused.content["blocks"]:
        (path,) = (path for path in chain.models[: len(TINY)] if path.name == f"scratch-{block['backbone']}")
        assert block["model_digest"] == artifacts.read(path, "model").digest
        for fit in artifacts.fits(fused.content):
            features, logits = infer(load_network(path, fit), images)
            place = sorted(TINY).index(block["backbone"])
            np.testing.assert_array_equal(
                np.load(fused.path / f"{fit}fused.npy")[:, block["start"] : block["stop"]], features
            )
            np.testing.assert_array_equal(np.load(fused.path / f"{fit}logits.npy")[:, place], logits)
    assert matrix.shape[1] == fused.content["blocks"][-1]["stop"]


def test_the_order_of_the_models_does_not_matter(chain: Chain, tmp_path: Path) -> None:
    reversed_ = chain.models[: len(TINY)][::-1]
    extract(store=chain.target_store, models=reversed_, threads=1, out=tmp_path / "reversed")
    assert (
        artifacts.read(tmp_path / "reversed", "features").digest
        == artifacts.read(chain.features["scratch"], "features").digest
    )


def test_what_does_not_belong_together_is_not_extracted(chain: Chain, tmp_path: Path) -> None:
    def refused(models: list[Path], message: str) -> None:
        with pytest.raises(RadtransferError, match=message):
            extract(store=chain.target_store, models=models, threads=1, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused([chain.models[0], chain.models[len(TINY) + 1]], "tl_source is")
    refused([chain.models[0]] * 2, "comes twice")
    refused([], "no models given")


def test_a_model_of_another_store_is_not_extracted_from(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match="was not fine-tuned on"):
        extract(store=chain.source_store, models=[chain.models[0]], threads=1, out=tmp_path / "out")
    with pytest.raises(RadtransferError, match="expected a fine-tuned model"):
        extract(store=chain.target_store, models=[chain.pretrained[0]], threads=1, out=tmp_path / "out")


def test_classifiers_are_complete_chosen_on_validation_and_repeatable(chain: Chain, tmp_path: Path) -> None:
    path = chain.classifiers[1]
    content = artifacts.read(path, "classifiers").content
    ids = [candidate["id"] for candidate in content["candidates"]]
    assert {f"fused/{name}" for name in ("head", "stacking", *CLASSIFIERS)} <= set(ids)
    assert {f"{backbone}/head" for backbone in TINY} <= set(ids)
    by_id = {candidate["id"]: candidate for candidate in content["candidates"]}
    best = max(candidate["validation_auroc"] for candidate in content["candidates"])
    assert by_id[content["choice"]["overall"]]["validation_auroc"] == best
    scores = pd.read_parquet(path / "scores.parquet")
    assert set(ids) <= set(scores.columns) and scores[ids].to_numpy().min() >= 0 and scores[ids].to_numpy().max() <= 1
    classify(fused=chain.fused["imagenet"], cv_folds=2, seed=0, out=tmp_path / "again")
    assert artifacts.read(tmp_path / "again", "classifiers").digest == artifacts.read(path, "classifiers").digest


def test_refitted_classifiers_predict_and_the_first_fit_chooses(chain: Chain) -> None:
    fused = chain.fused["in_domain"]
    index = pd.read_parquet(fused / "index.parquet")
    split, label = index["split"].to_numpy(), index["label"].to_numpy(dtype=float, na_value=np.nan)
    path = chain.classifiers[TL_SOURCES.index("in_domain")]
    content = artifacts.read(path, "classifiers").content
    scores = pd.read_parquet(path / "scores.parquet")
    columns = {block["backbone"]: slice(block["start"], block["stop"]) for block in content["blocks"]}
    columns["fused"] = slice(None)
    validation, test = split == "validation", split == "test"
    for candidate in content["candidates"]:
        found = scores[candidate["id"]].to_numpy()
        auroc = roc_auc_score(label[validation], found[validation])
        assert candidate["validation_auroc"] == pytest.approx(auroc, abs=1e-12)
        whose = [candidate["features"]] if candidate["features"] in TINY else sorted(TINY)
        heads = [sorted(TINY).index(backbone) for backbone in whose]
        outputs = {
            fit: np.load(fused / f"{fit}logits.npy").astype(np.float64)[:, heads].mean(axis=1)
            for fit in artifacts.fits(content)
        }
        if candidate["classifier"] == "head":
            raw, first = outputs[""], outputs[artifacts.SELECTION]
            slope, intercept = candidate["calibration"]["slope"], candidate["calibration"]["intercept"]
            train = split == "train"
            scale, shift = np.polyfit(first[validation], logit(found[validation]), 1)
            np.testing.assert_allclose(logit(found[validation]), scale * first[validation] + shift, rtol=1e-6)
            for moment in (np.mean, np.std):  # on images that both fits have learnt they say the same
                learnt = moment(slope * raw[train] + intercept), moment(scale * first[train] + shift)
                assert learnt[0] == pytest.approx(learnt[1], rel=1e-6)
        else:
            estimator = load_classifier(path / candidate["file"])
            if candidate["classifier"] == "stacking":
                read = np.load(fused / "logits.npy")
            else:
                assert estimator["scale"].n_samples_seen_ == (~test).sum()
                read = np.load(fused / "fused.npy")[:, columns[candidate["features"]]]
            raw = raw_score(estimator, read)
        np.testing.assert_allclose(found[test], Calibration.of(candidate["calibration"])(raw)[test])


def test_late_fusion_is_the_mean_of_the_heads_and_no_single_network(chain: Chain) -> None:
    content = artifacts.read(chain.classifiers[0], "classifiers").content
    assert "fused/head" in {candidate["id"] for candidate in content["candidates"]}
    assert content["choice"]["single"] in {f"{backbone}/head" for backbone in TINY}


def test_every_candidate_predicts_what_its_table_says(chain: Chain) -> None:
    store = Store.open(chain.target_store)
    rows = store.rows("test")
    path = chain.classifiers[0]
    content = artifacts.read(path, "classifiers").content
    scores = pd.read_parquet(path / "scores.parquet")
    trained = zip(sorted(TINY), sorted(chain.models[: len(TINY)], key=lambda one: one.name), strict=True)
    networks = {backbone: load_network(model) for backbone, model in trained}
    for candidate in content["candidates"]:
        found = of_candidate(candidate, content["blocks"], networks, path)(np.asarray(store.images[rows]))
        np.testing.assert_allclose(found, scores[candidate["id"]].to_numpy()[rows], atol=5e-7, err_msg=candidate["id"])


def test_what_every_block_gives_is_on_record_and_no_candidate(chain: Chain) -> None:
    for path in chain.classifiers:
        content = artifacts.read(path, "classifiers").content
        ablation = content["ablation"]
        assert ablation["of"] == content["choice"]["fused"]
        scores = pd.read_parquet(path / "scores.parquet")
        assert [one["backbone"] for one in ablation["without"]] == sorted(TINY)
        for one in ablation["without"]:
            assert one["loss"] == pytest.approx(ablation["validation_auroc"] - one["validation_auroc"])
            assert one["column"] not in {candidate["id"] for candidate in content["candidates"]}
            assert scores[one["column"]].between(0, 1).all() and 0 < one["threshold"] < 1


def _made(folder: Path, split: list[str], labels: list[int], groups: list[int], values: Any, widths: list[int]) -> Path:
    """Fused features of networks whose logits are the sums of their blocks."""
    index = pd.DataFrame({"image_id": [f"i{row}" for row in range(len(split))], "group_id": groups, "split": split})
    index["label"] = pd.array(labels, "Int8")
    index["label"] = index["label"].mask(index["split"] == "test")
    edges = np.cumsum([0, *widths]).tolist()
    with artifacts.writing(folder, "fused", step="fuse", settings={}) as (staging, content):
        blocks = [
            {"backbone": f"net{place}", "start": start, "stop": stop, "model_digest": "none"}
            for place, (start, stop) in enumerate(itertools.pairwise(edges))
        ]
        np.save(staging / "fused.npy", np.asarray(values, np.float32))
        logits = [values[:, one["start"] : one["stop"]].sum(axis=1) for one in blocks]
        np.save(staging / "logits.npy", np.column_stack(logits).astype(np.float32))
        index.to_parquet(staging / "index.parquet", index=False)
        content.update(tl_source="imagenet", blocks=blocks, images=len(index), refit=False, seed=0, store_digest="s")
    return folder


SPLIT = ["train"] * 24 + ["validation"] * 12 + ["test"] * 6
LABELS = [row % 2 for row in range(42)]
QUICK: dict[str, Any] = {"cv_folds": 3, "seed": 0, "classifiers": ["logistic_regression", "lda"]}


def test_each_block_is_left_out_in_turn(tmp_path: Path) -> None:
    """One block knows the label, the other one nothing."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(42, 8))
    values[:, :3] += 2 * np.array(LABELS)[:, None]
    fused = _made(tmp_path / "fused", SPLIT, LABELS, list(range(42)), values, [3, 5])
    classify(fused=fused, out=tmp_path / "out", **QUICK)
    content = artifacts.read(tmp_path / "out", "classifiers").content
    knowing, other = content["ablation"]["without"]
    assert knowing["loss"] > 0.2 > other["loss"]
    assert [one["id"] for one in content["candidates"]] == [
        "net0/head", "net1/head", "net0/logistic_regression", "net1/logistic_regression", "fused/head",
        "fused/stacking", "fused/logistic_regression", "fused/lda",
    ]  # fmt: skip
    # Without the other block the classifier is that of a run that never had it.
    alone = _made(tmp_path / "alone", SPLIT, LABELS, list(range(42)), values[:, :3], [3])
    name, params = content["ablation"]["of"].removeprefix("fused/"), {}
    chosen = next(one for one in content["candidates"] if one["id"] == content["ablation"]["of"])
    if name not in ("head", "stacking"):
        params = {f"{name}.{key}": [value] for key, value in chosen["params"].items()}
    classify(fused=alone, out=tmp_path / "single", classifier_grid=params, **QUICK)
    table, single = (pd.read_parquet(tmp_path / run / "scores.parquet") for run in ("out", "single"))
    np.testing.assert_allclose(table["without/net1"], single[f"fused/{name}"], atol=1e-6)
    assert artifacts.read(tmp_path / "single", "classifiers").content["ablation"]["without"] == []


def test_odd_input_to_classify_is_refused_or_has_a_stated_result(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(42, 8))
    groups = list(range(42))

    def run(name: str, values: Any, labels: list[int] = LABELS, groups: list[int] = groups, **more: Any) -> Any:
        fused = _made(tmp_path / name, SPLIT, labels, groups, values, [3, 5])
        classify(fused=fused, out=tmp_path / f"{name}-out", **(QUICK | more))
        return artifacts.read(tmp_path / f"{name}-out", "classifiers").content

    for odd in (np.nan, np.inf):
        spoilt = values.copy()
        spoilt[30, 4] = odd
        with pytest.raises(RadtransferError, match=r"row 30, column 4 \(of net1\) is (nan|inf), the first of 1"):
            run(f"spoilt-{odd}", spoilt)
    with pytest.raises(RadtransferError, match="'train' has 0 positive and 24 negative"):
        run("one class", values, labels=[0] * 24 + LABELS[24:])
    with pytest.raises(RadtransferError, match="cannot be cross-validated by group"):
        run("one group a class", values, groups=[row % 2 for row in range(24)] + groups[24:])
    with pytest.raises(RadtransferError, match="did you mean lda"):
        run("name", values, classifiers=["ldaa"])

    few = run("few groups", values, groups=[row % 4 for row in range(24)] + groups[24:], cv_folds=5)
    assert few["cv"] | {"settings": 0} == {"folds_asked": 5, "folds_used": 2, "repeats": 3, "settings": 0}
    lonely = run("validation in one group a class", values, groups=groups[:24] + [90 + row % 2 for row in range(18)])
    assert "fused/stacking" not in [one["id"] for one in lonely["candidates"]]
    same = run("constant", np.ones((42, 8)))
    for one in same["candidates"]:  # scores that cannot tell, of the share of the positive class
        assert one["validation_auroc"] == 0.5 and one["threshold"] == 0.5
    scores = pd.read_parquet(tmp_path / "constant-out" / "scores.parquet")
    assert scores.filter(like="/").to_numpy() == pytest.approx(0.5, abs=1e-6)
    split = run("separable", values + 50.0 * np.array(LABELS)[:, None])
    assert all(one["validation_auroc"] == 1.0 for one in split["candidates"])
    assert split["choice"]["overall"] == "net0/head"  # the simplest of equals
    scores = pd.read_parquet(tmp_path / "separable-out" / "scores.parquet")
    assert scores.filter(like="/").to_numpy().min() > 0 and scores.filter(like="/").to_numpy().max() < 1


def test_labels_of_test_images_are_refused_where_none_may_be(chain: Chain, tmp_path: Path) -> None:
    source = artifacts.read(chain.fused["imagenet"], "fused")
    with artifacts.writing(tmp_path / "leaky", "fused", step="fuse", settings={}) as (folder, content):
        for file in source.path.glob("*.npy"):
            shutil.copyfile(file, folder / file.name)
        index = pd.read_parquet(source.path / "index.parquet")
        index["label"] = Store.open(chain.target_store).manifest["label"].astype("Int8")
        index.to_parquet(folder / "index.parquet")
        content.update(source.content)
    with pytest.raises(RadtransferError, match="test images carry labels"):
        classify(fused=tmp_path / "leaky", cv_folds=2, seed=0, out=tmp_path / "out")


def test_labels_of_test_images_choose_nothing(tmp_path: Path) -> None:
    """The whole way from a store to chosen classifiers, with the true labels and with every test label turned over."""
    write_store(tmp_path / "true", "target")
    _turn_test_labels(tmp_path / "true", tmp_path / "turned")
    true, turned = (_chosen(tmp_path / name) for name in ("true", "turned"))
    assert (pd.read_parquet(true / "fused/index.parquet")["split"] == "test").sum() > 20
    for name in ("features/0-features.npy", "features/0-logits.npy", "fused/fused.npy", "fused/logits.npy"):
        np.testing.assert_array_equal(np.load(true / name), np.load(turned / name))
    for name in ("features/index.parquet", "fused/index.parquet", "classifiers/scores.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(true / name), pd.read_parquet(turned / name))
    first, second = (artifacts.read(path / "classifiers", "classifiers").content for path in (true, turned))
    for key in ("candidates", "choice", "cv", "ablation"):
        assert first[key] == second[key]
    files = [str(candidate["file"]) for candidate in first["candidates"] if candidate["file"]]
    assert len(files) == len(CLASSIFIERS) + 2
    for file in files:
        assert (true / "classifiers" / file).read_bytes() == (turned / "classifiers" / file).read_bytes()


def _turn_test_labels(store: Path, out: Path) -> None:
    source = Store.open(store)
    with artifacts.writing(out, "image-store", step="preprocess", settings={}) as (folder, content):
        for name in ("images.npy", "rejected.csv"):
            shutil.copyfile(store / name, folder / name)
        table = pq.read_table(store / "manifest.parquet")
        rows: list[dict[str, Any]] = table.to_pylist()
        for row in rows:
            row["label"] = 1 - row["label"] if row["split"] == "test" else row["label"]
        pq.write_table(table.from_pylist(rows, schema=SCHEMA), folder / "manifest.parquet")
        content.update(source.content)


def _chosen(store: Path) -> Path:
    """Fine-tune on a store, then extract, fuse and classify; returns the folder of the results."""
    out = store.with_name(f"{store.name}-run")
    finetune(
        target_store=store, backbone="test_resnet", tl_source="scratch", pretrained=None, out=out / "model",
        refit=True, **(RECIPE | {"epochs": 1}),
    )  # fmt: skip
    extract(store=store, models=[out / "model"], threads=1, out=out / "features")
    fuse(features=out / "features", out=out / "fused")
    classify(fused=out / "fused", cv_folds=2, seed=0, out=out / "classifiers")
    return out
