"""A finished run on images that it has not seen: the same scores as predict's, no leak, the same schema."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from radtransfer import artifacts
from radtransfer.cli import app
from radtransfer.config import TL_SOURCES, ExternalSet
from radtransfer.datasets.phantoms import make_phantoms
from radtransfer.errors import RadtransferError
from radtransfer.evaluation import verdict
from radtransfer.evaluation.external import external
from radtransfer.evaluation.schema import ExternalFile
from radtransfer.evaluation.tuned import tune
from radtransfer.evaluation.unseen import PATIENTS_ELSEWHERE, Run, _warnings
from radtransfer.fusion.predictor import of_source
from radtransfer.preprocess.external import Learnt, external_store
from radtransfer.preprocess.store import Store
from radtransfer.registry.predict import predict
from tests.conftest import TINY, Chain

SEEN = 6


@pytest.fixture(scope="module")
def run(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain's artifacts where `radtransfer run` leaves them, and beside its data a set of another site."""
    out = tmp_path_factory.mktemp("external") / "run"
    where = {"layout": "phantoms", "path": "phantoms"}
    config: dict[str, Any] = {f"{side}_{key}": value for side in ("target", "source") for key, value in where.items()}
    config |= {"name": "tiny", "target_part": "hand", "image_size": 64, "crop_border": True, "backbones": list(TINY)}
    shutil.copytree(chain.evaluation, out / "evaluation")
    shutil.copyfile(chain.target_store / "splits.csv", out / "splits.csv")
    for source, fitted in zip(TL_SOURCES, chain.classifiers, strict=True):
        shutil.copytree(fitted, out / "classifiers" / source)
    for model in chain.models:
        made = artifacts.read(model, "model").content
        shutil.copytree(model, out / "models" / made["tl_source"] / made["backbone"])
    (out / "run.json").write_text(json.dumps({"config": config}))

    drawn = out.parent / "drawn"
    make_phantoms(drawn, images_per_part=60, parts=["hand"], difficulty=0.2, size=80, seed=9)
    with (drawn / "phantoms.csv").open() as stream:
        rows = [(drawn / row["file"], row["label"]) for row in csv.DictReader(stream)]
    seen = Store.open(chain.target_store).manifest.groupby("split").head(SEEN // 3)
    rows += [(chain.data_root / one.image_id, one.label_name) for one in seen.itertuples()]
    for number, (file, label) in enumerate(rows):
        place = chain.data_root / "other" / {"fractured": "abnormal"}.get(label, label) / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        if number % 2:  # nothing of its bytes and pixels is left, so that only a look at it tells a near duplicate
            Image.open(file).point(lambda value: 20 + value * 3 // 4).save(place)
        else:
            shutil.copyfile(file, place)
    return out


def call(chain: Chain, run: Path, out: Path, *more: str) -> Any:
    arguments = ["--run", run, "--data-root", chain.data_root, "--layout", "class_folders", "--path", "other"]
    arguments += ["--part", "other", "--out", out, "--bootstrap", "100", "--threads", "1", *more]
    return CliRunner().invoke(app, ["external", *map(str, arguments)])


@pytest.fixture(scope="module")
def made(chain: Chain, run: Path) -> Path:
    out = run.parent / "out"
    result = call(chain, run, out)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(out / "external.html")
    return out


def test_what_the_run_has_seen_is_left_out(chain: Chain, made: Path) -> None:
    """Copies of images of all three splits, some processed anew, under other names and in another data set."""
    store = artifacts.read(made, "external", verify=True).content["store"]
    assert [one["problem"] for one in store["rejected"]] == ["leak"] * SEEN
    assert {one["file"] for one in store["rejected"]} == {
        path.relative_to(chain.data_root).as_posix()
        for path in (chain.data_root / "other").rglob("*.png")
        if int(path.stem) >= 60
    }
    assert list(store["counts"]) == ["test"] and store["images"] == 60
    assert (store["size"], store["crop_border"]) == (Store.open(chain.target_store).size, True)
    read = json.loads((made / "metrics.json").read_text())
    assert read["left_out"] == {"leak": SEEN}
    assert sorted(path.name for path in made.iterdir()) == [
        "external.html", "external.json", "metrics.json", "scores.parquet",
    ]  # fmt: skip


def test_patients_of_two_data_sets_are_not_one_for_having_the_same_id(chain: Chain, run: Path, tmp_path: Path) -> None:
    make_phantoms(chain.data_root / "elsewhere", images_per_part=60, parts=["hand"], difficulty=0.2, size=80, seed=9)
    with (
        (chain.data_root / "elsewhere" / "phantoms.csv").open() as one,
        (chain.data_root / "phantoms" / "phantoms.csv").open() as two,
    ):
        ids, seen = ({row["patient"] for row in csv.DictReader(stream)} for stream in (one, two))
    assert ids & seen
    asked = ExternalSet(layout="phantoms", path="elsewhere", part="hand")
    external_store(data_root=chain.data_root, learnt=Run.open(run).learnt, asked=asked, out=tmp_path / "store")
    manifest = Store.open(tmp_path / "store").manifest
    assert len(manifest) == 60 and manifest["group_id"].nunique() == len(ids)
    assert set(manifest["patient_id"]) == ids


def test_rows_are_those_of_the_scores_at_the_thresholds_of_the_run(chain: Chain, run: Path, made: Path) -> None:
    read = json.loads((made / "metrics.json").read_text())
    assert ExternalFile.model_validate(read).model_dump(mode="json") == read
    table = pd.read_parquet(made / "scores.parquet")
    labels = table["label"].to_numpy() == 1
    home = {row["id"]: row for row in json.loads((run / "evaluation" / "metrics.json").read_text())["results"]}
    choices = artifacts.read(run / "evaluation", "evaluation").content["choices"]
    ids = {one for choice in choices.values() for one in choice.values()}
    assert {row["id"].removesuffix("/external=other-other") for row in read["results"]} == ids
    curves = json.loads((run / "evaluation" / "curves.json").read_text())
    for row, own in zip(read["results"], read["home"], strict=True):
        choice = row["id"].removesuffix("/external=other-other")
        assert own == home[choice] and row["subgroup"] == "external=other-other"
        assert (row["n"], row["positives"]) == (60, labels.sum())
        assert row["auroc"]["value"] == pytest.approx(roc_auc_score(labels, table[choice]))
        called = table[choice].to_numpy() >= curves[choice]["threshold"]
        assert row["accuracy"]["value"] == pytest.approx((called == labels).mean())
    (selected,) = (row for row in read["results"] if row["selected"])
    content = artifacts.read(chain.bundle, "bundle").content
    assert selected["id"] == f"{content['row_id']}/external=other-other"
    images = [chain.data_root / name for name in table["image_id"]]
    predicted = [one.score for one in predict(bundle=chain.bundle, images=images, threads=1)]
    np.testing.assert_allclose(table[content["row_id"]], predicted, atol=1e-4)
    pairs = [(one["a"].split("/")[0], one["b"].split("/")[0]) for one in read["comparisons"]]
    assert pairs == [("in_domain", "imagenet"), ("in_domain", "scratch"), ("imagenet", "scratch")]
    assert {(one["family"], one["metric"]) for one in read["comparisons"]} == {("shift", "auroc")}


def test_the_page_says_what_the_file_says(made: Path) -> None:
    page = (made / "external.html").read_text(encoding="utf-8")
    read = json.loads((made / "metrics.json").read_text())
    for row in read["results"]:
        assert f'data-id="{row["id"]}"' in page
    assert "On 60 images that the run has not seen (other other)" in page and "Left out: 6 leak" in page
    assert "The model is for hand; these images show other." in page
    assert "Positive means &#39;abnormal&#39; here and &#39;fractured&#39; in the run" in page
    assert "src=" not in page and "<script" not in page


@pytest.fixture(scope="module")
def tuned(chain: Chain, run: Path, made: Path) -> Path:
    out = run.parent / "tuned"
    result = call(chain, run, out, "--tune-images", "20")
    assert result.exit_code == 0, result.output
    return out


def test_fine_tuning_on_some_is_measured_on_the_others(run: Path, made: Path, tuned: Path) -> None:
    plain, read = (json.loads((folder / "metrics.json").read_text()) for folder in (made, tuned))
    assert ExternalFile.model_validate(read).model_dump(mode="json") == read
    assert plain["tuned"] is None and read["results"] == plain["results"]
    assert read["comparisons"] == plain["comparisons"]
    its = read["tuned"]
    assert 15 <= its["images"] <= 20
    assert [row["tl_source"] for row in its["before"]] == [row["tl_source"] for row in its["after"]] == [*TL_SOURCES]
    for row, when in [(row, when) for when, rows in (("rest", its["before"]), ("tuned", its["after"])) for row in rows]:
        assert row["id"] == f"{row['tl_source']}/fused/head/seed0/external=other-other, {when}"
        assert row["subgroup"] == f"external=other-other, {when}"
        assert row["n"] == 60 - its["images"] and 0 < row["positives"] < row["n"]
    compared = its["comparisons"]
    assert {one["family"] for one in compared} == {"tuned"}
    ids = {row["id"] for row in (*its["before"], *its["after"])}
    assert len(compared) == 6 and {name for one in compared for name in (one["a"], one["b"])} == ids
    assert [one["b"].rpartition(" ")[2] for one in compared] == ["rest"] * 3 + ["tuned"] * 3
    page = (tuned / "external.html").read_text(encoding="utf-8")
    assert f"Fine-tuned on {its['images']} of the images, tested on the {60 - its['images']} others" in page
    assert all(f'data-id="{row["id"]}"' in page for row in its["after"])


def test_fine_tuning_goes_on_from_the_networks_of_the_run(chain: Chain, run: Path, tuned: Path) -> None:
    """The others are scored by the run's heads before; a network that was tuned differs from them, and learnt."""
    opened = Run.open(run)
    with TemporaryDirectory() as folder:
        asked = ExternalSet(layout="class_folders", path="other", part="other")
        external_store(data_root=chain.data_root, learnt=opened.learnt, asked=asked, out=Path(folder) / "store")
        images = Store.open(Path(folder) / "store")
        made, again = (tune(opened.sources, images, 20, 0, 1) for _ in range(2))
        labels = images.manifest["label"].to_numpy() == 1
        source = opened.sources["in_domain"]
        as_it_was = of_source(source, "in_domain/fused/head/seed0")(images.images[made.rest])
        assert not set(images.manifest["group_id"].iloc[made.rest]) & set(
            np.delete(images.manifest["group_id"].to_numpy(), made.rest)
        )
    np.testing.assert_allclose(made.before["in_domain"], as_it_was, atol=1e-6)
    read = json.loads((tuned / "metrics.json").read_text())["tuned"]
    for number, name in enumerate(TL_SOURCES):
        np.testing.assert_array_equal(made.after[name], again.after[name])
        assert np.abs(made.after[name] - made.before[name]).max() > 1e-4
        for scores, rows in ((made.before, read["before"]), (made.after, read["after"])):
            assert rows[number]["auroc"]["value"] == pytest.approx(roc_auc_score(labels[made.rest], scores[name]))


def test_a_number_to_fine_tune_on_must_leave_both_classes_on_both_sides(
    chain: Chain, run: Path, tmp_path: Path
) -> None:
    for number in ("1", "60"):
        result = call(chain, run, tmp_path / "out", "--tune-images", number)
        assert isinstance(result.exception, RadtransferError)
        assert f"tune_images: {number} of 60 images leave a class out of" in str(result.exception)
        assert not (tmp_path / "out").exists()
    asked = {"layout": "class_folders", "path": "other", "part": "other"}
    assert ExternalSet.of(asked | {"tune_images": 20.0}, "external").tune_images == 20  # as KFP hands it on
    with pytest.raises(RadtransferError, match="tune_images"):
        ExternalSet.of(asked | {"tune_images": -1}, "external")


@pytest.mark.parametrize(
    ("name", "patients", "said"),
    [
        ("FracAtlas", [None, "p"], [verdict.NO_PATIENTS]),
        ("MURA", [None, None], [verdict.NO_PATIENTS]),
        ("MURA", ["p", "q"], []),
        ("another", [None, "p"], [PATIENTS_ELSEWHERE]),
        ("another", [None, None], []),
    ],
)
def test_warnings_tell_what_is_not_known_of_patients(name: str, patients: list[str | None], said: list[str]) -> None:
    both = {"target": SimpleNamespace(path="FracAtlas/"), "source": SimpleNamespace(path="sets/MURA")}
    run = SimpleNamespace(learnt=SimpleNamespace(part="hand", **both), metrics={"positive_class": "fractured"})
    grouping = "patient" if all(patients) else "near_duplicate"
    content = {"synthetic": False, "part": "hand", "positive_class": "fractured", "name": name, "grouping": grouping}
    manifest = pd.DataFrame({"label": [0, 1] * 50, "patient_id": patients * 50, "group_id": range(100)})
    assert _warnings(cast("Run", run), cast("Store", SimpleNamespace(content=content, manifest=manifest))) == said


def test_the_step_of_a_run_gives_what_the_command_gives(chain: Chain, made: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"target_store": chain.target_store, "evaluation": chain.evaluation, "name": "tiny"}
    given |= {"classifiers": chain.classifiers[::-1], "models": chain.models, "bootstrap": 100, "seed": 0, "threads": 1}
    asked = {"layout": "class_folders", "path": "other", "part": "other"}
    external(external=asked, data_root=str(chain.data_root), out=tmp_path / "asked", **given)
    command, step = (json.loads((path / "metrics.json").read_text()) for path in (made, tmp_path / "asked"))
    assert (command["run"], step["run"]) == ("run", "tiny")
    assert command | {"run": "tiny"} == step
    external(external={}, data_root="/nowhere", out=tmp_path / "none", **given)
    assert artifacts.read(tmp_path / "none", "external").content == {"name": ""}
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["external.json"]


def test_parts_that_the_run_pre_trained_on_are_refused(chain: Chain, run: Path, tmp_path: Path) -> None:
    learnt = Run.open(run).learnt
    assert replace(learnt, splits=chain.target_store / "splits.csv") == Learnt.of_store(chain.target_store)

    def store_of(layout: str, path: str, part: str, learnt: Learnt = learnt) -> None:
        asked = ExternalSet(layout=layout, path=path, part=part)
        external_store(data_root=chain.data_root, learnt=learnt, asked=asked, out=tmp_path / "store")

    with pytest.raises(RadtransferError, match=r"no image of class 'normal' is left that the run has not seen \(60 im"):
        store_of("phantoms", "phantoms", "knee")
    with pytest.raises(RadtransferError, match="external part 'foot' is not in phantoms"):
        store_of("phantoms", "phantoms", "foot")
    table = (run / "splits.csv").read_text().splitlines()
    changed = [*table, table[1].replace(table[1].split(",")[2], "0" * 64)]
    (tmp_path / "splits.csv").write_text("\n".join(changed))
    with pytest.raises(RadtransferError, match=r"1 of the \d+ images of the run are not under the data root"):
        store_of("class_folders", "other", "other", replace(learnt, splits=tmp_path / "splits.csv"))
    assert not (tmp_path / "store").exists()


def test_runs_that_are_not_whole_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RadtransferError, match=r"no finished run \(no run\.json\)"):
        Run.open(tmp_path)
    shutil.copytree(run, tmp_path / "changed")
    weights = next((tmp_path / "changed" / "models" / "imagenet").glob("*/weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(RadtransferError, match=r"weights\.safetensors: its sha256 is not the recorded one"):
        Run.open(tmp_path / "changed")
    (tmp_path / "changed" / "splits.csv").unlink()
    with pytest.raises(RadtransferError, match=r"has no splits\.csv, which names the images"):
        Run.open(tmp_path / "changed")
    shutil.rmtree(tmp_path / "changed" / "models")
    with pytest.raises(RadtransferError, match="has no folders models and classifiers"):
        Run.open(tmp_path / "changed")
