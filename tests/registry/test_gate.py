"""The gate through real bundles on phantoms: two trained ones, and others made of them that differ as told.

The data have moved on: the test images are those of a second revision, which keeps the splits of the first.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from radtransfer import artifacts, cli
from radtransfer.errors import RadtransferError
from radtransfer.evaluation.evaluate import evaluate
from radtransfer.fusion.classify import classify
from radtransfer.fusion.extract import extract
from radtransfer.fusion.fuse import fuse
from radtransfer.preprocess.inherit import FILE
from radtransfer.preprocess.run import preprocess
from radtransfer.preprocess.store import Store
from radtransfer.registry import gate as gate_module
from radtransfer.registry import ledger
from radtransfer.registry.bundle import register
from radtransfer.registry.champion import promote, rollback
from radtransfer.registry.decision import Decided
from radtransfer.registry.entry import enter
from radtransfer.registry.gate import gate
from radtransfer.registry.predict import predict
from radtransfer.registry.versions import Registry
from radtransfer.registry.weigh import Rules
from radtransfer.robustness.stress import stress
from radtransfer.training.steps import finetune
from tests.registry.stripes import striped

pytestmark = pytest.mark.slow
FIRST, SECOND = 120, 330
BACKBONE = "test_resnet"


class Made:
    """Two revisions of the data, a store of the second, and bundles."""

    def __init__(self, root: Path) -> None:
        self.root = root
        first = self.stored(self.drawn("first", FIRST), "first")
        self.data = self.drawn("second", SECOND)
        shutil.copy(first / FILE, self.data / FILE)
        self.store = self.stored(self.data, "second", previous_splits=FILE)
        self.good, self.other = (trained(root / f"seed{seed}", first, seed) for seed in (0, 1))
        platt = artifacts.read(self.good, "bundle").content["calibration"]
        self.inverted = self.varied("inverted", calibration={name: -its for name, its in platt.items()})
        self.too_high = self.varied("too-high", calibration=platt | {"intercept": platt["intercept"] + 3})

    def drawn(self, name: str, images: int) -> Path:
        return striped(self.root / name / "phantoms", images).parent

    def stored(self, data_root: Path, name: str, **settings: Any) -> Path:
        given: dict[str, Any] = {
            "target_part": "hand", "image_size": 64, "max_images": 0, "seed": 0,
            "target_out": self.root / "stores" / name / "target", "source_out": self.root / "stores" / name / "source",
        }  # fmt: skip
        preprocess(
            data_root=data_root, target_layout="phantoms", target_path="phantoms", source_layout="phantoms",
            source_path="phantoms", source_parts=[], test_fraction=0.3, validation_fraction=0.2, **(given | settings),
        )  # fmt: skip
        return Path(given["target_out"])

    def varied(self, name: str, change: Callable[[Path], object] = str, **content: object) -> Path:
        """The good bundle with something else in it, sealed anew."""
        with artifacts.writing(self.root / name, "bundle", step="register", settings={}) as (folder, said):
            shutil.copytree(self.good, folder, dirs_exist_ok=True)
            (folder / "bundle.json").unlink()
            change(folder)
            said.update(artifacts.read(self.good, "bundle").content | content)
        return self.root / name


def trained(root: Path, store: Path, seed: int) -> Path:
    """A bundle of one network, by the library's own steps."""
    model, (features, fused, classifiers, changed, evaluation, bundle) = (
        root / "model",
        (root / name for name in ("features", "fused", "classifiers", "stress", "evaluation", "bundle")),
    )
    finetune(
        target_store=store, backbone=BACKBONE, tl_source="scratch", pretrained=None, refit=False, epochs=12,
        batch_size=8, learning_rate=3e-3, weight_decay=0.01, input_size=64, layer_decay=1.0, freeze_epochs=0,
        patience=0, weights_mirror="", seed=seed, threads=1, checkpoints="", checkpoint_minutes=5, out=model,
    )  # fmt: skip
    extract(store=store, models=[model], threads=1, out=features)
    fuse(features=features, out=fused)
    classify(fused=fused, cv_folds=2, seed=seed, out=classifiers)
    of_all: dict[str, Any] = {"target_store": store, "classifiers": [classifiers]}
    stress(**of_all, models=[model], corruptions=[], seed=seed, threads=1, out=changed)
    evaluate(**of_all, stress=changed, bootstrap=100, seed=seed, out=evaluation)
    register(
        name="tiny", **of_all, evaluation=evaluation, models=[model], pretrained=[], config={"seed": seed}, registry="",
        out=bundle,
    )  # fmt: skip
    return bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("gate"))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry.open(tmp_path / "registry", write=True)


def entered(registry: Registry, *bundles: Path) -> None:
    """The bundles as versions 1, 2, ..."""
    for bundle in bundles:
        assert enter(registry, bundle, [])[1]


def gated(registry: Registry, store: Path, which: str = "tiny", out: Path | None = None, **rules: Any) -> Decided:
    return gate(
        registry=registry.place.name, challenger=which, test_store=store, rules=Rules(**rules), threads=1, out=out
    )


def book(registry: Registry) -> ledger.Ledger:
    return ledger.read(registry.place, "tiny")[0]


def history(registry: Registry) -> list[tuple[str, int, int | None]]:
    return [(each.action, each.version, each.champion) for each in book(registry).history]


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_a_first_model_is_promoted_once_by_the_scores_that_predict_gives(
    made: Made, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    where = str(tmp_path / "registry") if place == "folder" else str(request.getfixturevalue("bucket"))
    registry = Registry.open(where, write=True)
    entered(registry, made.good)
    found = gated(registry, made.store, str(made.good), tmp_path / "out")
    assert (found.outcome, found.rule, found.champion) == ("promoted", "first", None)
    assert history(registry) == [("promote", 1, 1)]
    assert found.why == book(registry).history[0].why.removeprefix("gate: ")
    store = Store.open(made.store)
    test = store.manifest.iloc[store.rows("test")]
    images = [made.data / name for name in test["image_id"]]
    scores = [one.score for one in predict(bundle=made.good, images=images, threads=1)]
    for metric, value in (
        ("auroc", roc_auc_score(test["label"], scores)),
        ("brier", brier_score_loss(test["label"], scores)),
    ):
        assert found.challenger.metrics[metric].value == pytest.approx(value, abs=1e-4)
    assert (found.test.images, found.test.positives) == (len(test), test["label"].sum())
    assert found.test.groups == test["group_id"].nunique() and found.test.store_digest == store.artifact.digest
    assert [one.less for one in found.differences] == list(found.shortcuts)
    assert all(one.low is not None and one.low > 0 for one in found.differences)
    content = artifacts.read(tmp_path / "out", "decision", verify=True).content
    assert Decided.model_validate_json(json.dumps(content)) == found
    assert book(registry).history[0].figures == content
    again = gated(registry, made.store, "tiny@1", tmp_path / "again")
    assert again == found and len(book(registry).history) == 1, "a task that is tried again"


def test_a_first_model_that_is_below_the_floor_is_declined(made: Made, registry: Registry) -> None:
    entered(registry, made.inverted)
    found = gated(registry, made.store)
    assert (found.outcome, found.rule) == ("declined", "not shown") and "to clear the floor 0.6" in found.why
    assert history(registry) == [("decline", 1, None)] and book(registry).champion is None


def test_better_is_promoted_and_once_taken_back_stays_back(made: Made, registry: Registry) -> None:
    entered(registry, made.inverted, made.good)
    promote(registry, "tiny", 1, why="by hand")
    found = gated(registry, made.store)
    assert (found.outcome, found.rule) == ("promoted", "better") and found.champion is not None
    (auroc, brier) = found.differences
    assert auroc.low is not None and auroc.low > 0 and (auroc.less, brier.metric) == ("champion", "brier")
    for side, number in ((found.challenger, 2), (found.champion, 1)):
        version = registry.version("tiny", number)
        assert (side.version, side.digest, side.code) == (number, version.digest, version.code)
        assert side.overlap is not None and side.overlap.images == side.overlap.unplaced == 0 < side.overlap.learnt
    assert rollback(registry, "tiny", why="alarm").champion == 1
    found = gated(registry, made.store)
    assert found.outcome == "declined" and "it was champion and was taken back" in found.why and "alarm" in found.why
    assert history(registry) == [("promote", 1, 1), ("promote", 2, 2), ("rollback", 1, 1), ("decline", 2, 1)]


def test_worse_is_declined(made: Made, registry: Registry) -> None:
    entered(registry, made.good, made.inverted)
    promote(registry, "tiny", 1, why="by hand")
    found = gated(registry, made.store)
    assert (found.outcome, found.rule) == ("declined", "not shown") and found.why.startswith("worse: AUROC 0.")
    assert book(registry).champion == 1


def test_equal_within_noise_is_declined_and_as_good_but_better_calibrated_promoted(
    made: Made, registry: Registry
) -> None:
    """The other bundle was trained with another seed; the champion's figures of its own test set decide nothing."""
    boasting = made.varied("boasting", metrics={"auroc": {"value": 0.1, "low": 0.0, "high": 0.2}})
    entered(registry, boasting, made.other, made.too_high, made.good)
    promote(registry, "tiny", 1, why="by hand")
    found = gated(registry, made.store, "tiny@2")
    assert (found.outcome, found.rule) == ("declined", "not shown") and found.champion is not None
    low, high = found.differences[0].low, found.differences[0].high
    assert low is not None and high is not None and low < 0 < high
    auroc = found.champion.metrics["auroc"].value
    assert auroc is not None and auroc > 0.8
    promote(registry, "tiny", 3, why="by hand")
    found = gated(registry, made.store, "tiny@4")
    assert (found.outcome, found.rule) == ("promoted", "as good, better calibrated")
    assert found.differences[0].value == 0 and book(registry).champion == 4


def _learnt(made: Made) -> Callable[[Path], None]:
    """Puts one test image of the second revision among those that a bundle has learnt from."""
    store = Store.open(made.store)
    image = store.manifest.iloc[store.rows("test")[-1]]

    def change(folder: Path) -> None:
        with (folder / FILE).open("a") as table:
            table.write(f"target,{image.image_id},{image.sha256},train,train,{image.group_id}\n")

    return change


def test_what_was_trained_on_a_test_image_is_not_compared(made: Made, registry: Registry) -> None:
    leaky = made.varied("leaky", _learnt(made))
    entered(registry, leaky, made.good, made.varied("silent", lambda folder: (folder / FILE).unlink()))
    promote(registry, "tiny", 1, why="by hand")
    test = Store.open(made.store).manifest.query("split == 'test'")
    group = test["group_id"].iloc[-1]
    whole = int((test["group_id"] == group).sum())
    found = gated(registry, made.store, "tiny@2")
    assert (found.outcome, found.rule) == ("declined", "not comparable")
    assert f"tiny@1 has learnt from the leakage groups of {whole} test images (1 groups; " in found.why
    assert found.champion is not None and found.champion.overlap is not None
    assert (found.champion.overlap.images, found.champion.overlap.groups) == (whole, 1)
    assert not found.differences and not found.champion.metrics
    found = gated(registry, made.store, "tiny@3")
    assert "tiny@3 does not name the images that it has learnt from (splits.csv)" in found.why
    promote(registry, "tiny", 2, why="by hand")
    found = gated(registry, made.store, "tiny@1")
    assert "tiny@1 has learnt from" in found.why and found.champion is None, "not even looked at"
    assert [each[0] for each in history(registry)] == ["promote", "decline", "decline", "promote", "decline"]


def test_a_champion_that_cannot_be_used_stays(made: Made, registry: Registry) -> None:
    wider = made.varied("wider", store_size=96)
    entered(registry, made.inverted, made.good, wider)
    promote(registry, "tiny", 3, why="by hand")
    assert "is for another side of stored images: 96, and" in gated(registry, made.store, "tiny@2").why
    promote(registry, "tiny", 1, why="by hand")
    card = f"{registry.version('tiny', 1).folder}MODEL_CARD.md"
    registry.place.delete(card)
    found = gated(registry, made.store, "tiny@2")
    assert (found.outcome, found.rule) == ("declined", "not comparable")
    assert "the champion tiny@1 cannot score the test images: tiny@1: " in found.why and "is missing" in found.why
    registry.place.delete("versions/tiny/000001.json")
    found = gated(registry, made.store, "tiny@2")
    assert "the champion of tiny is version 1, which is not there" in found.why
    assert found.champion is not None and found.champion.version == 1 and book(registry).champion == 1
    assert [each[0] for each in history(registry)] == ["promote", "decline", "promote", "decline", "decline"]


def test_few_test_images_decide_nothing(made: Made, registry: Registry) -> None:
    entered(registry, made.good)
    few = made.stored(made.data, "few", previous_splits=FILE, max_images=100)
    found = gated(registry, few)
    assert found.outcome == "declined" and found.test.rarer_groups < 15
    assert f"lie in only {found.test.rarer_groups} leakage groups, and below 15 no interval can be" in found.why
    assert history(registry) == [("decline", 1, None)]


def test_what_cannot_be_asked_is_refused_and_nothing_recorded(made: Made, registry: Registry, tmp_path: Path) -> None:
    entered(registry, made.good, made.other, made.inverted)
    promote(registry, "tiny", 1, why="by hand")
    registry.place.delete(f"{registry.version('tiny', 3).folder}MODEL_CARD.md")
    knee = made.stored(made.data, "knee", target_part="knee")
    damaged = tmp_path / "damaged"
    shutil.copytree(made.store, damaged)
    pixels = np.load(damaged / "images.npy", mmap_mode="r+")
    pixels[0, 0, 0] ^= 1
    pixels.flush()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for which, store, out, message in (
        ("tiny@1", made.store, None, "tiny@1 is the champion already"),
        ("tiny@3", made.store, None, r"tiny@3: .*MODEL_CARD\.md is missing"),
        ("tiny@7", made.store, None, "there is no tiny@7"),
        (str(made.too_high), made.store, None, "is no version of .*; enter it first"),
        ("tiny@2", tmp_path / "absent", None, "absent: expected an artifact of kind 'image-store'"),
        ("tiny@2", damaged, None, r"images\.npy: its sha256 is not the recorded one"),
        ("tiny@2", knee, None, "is for another body part: 'hand', and .* has 'knee'"),
        ("tiny@2", made.store, tmp_path / "full", "full: already exists"),
    ):
        with pytest.raises(RadtransferError, match=message):
            gated(registry, store, which, out)
    assert history(registry) == [("promote", 1, 1)]


def test_another_champion_meanwhile_is_compared_with_instead(
    made: Made, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered(registry, made.inverted, made.other, made.good)
    promote(registry, "tiny", 1, why="by hand")
    weigh, meanwhile = gate_module.weigh, [2]

    def slow(*given: Any) -> Any:
        if meanwhile:
            promote(registry, "tiny", meanwhile.pop(), why="meanwhile")
        return weigh(*given)

    monkeypatch.setattr(gate_module, "weigh", slow)
    found = gated(registry, made.store)
    assert found.champion is not None and found.champion.version == 2 and found.outcome == "declined"
    assert history(registry) == [("promote", 1, 1), ("promote", 2, 2), ("decline", 3, 2)]
    meanwhile += [2, 1, 2, 1][: 2 * gate_module.ATTEMPTS]
    with pytest.raises(RadtransferError, match=r"became champion 3 times while tiny@3 was compared; nothing was"):
        gated(registry, made.store)
    assert "decline" not in [each[0] for each in history(registry)[3:]]


def test_the_command_says_what_was_decided_with_exit_code_1_for_declined(
    made: Made, registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    entered(registry, made.good, made.inverted)
    codes = []
    for which in ("tiny@1", "tiny"):
        asked = ["models", "gate", which, "--registry", registry.place.name, "--test-store", str(made.store)]
        monkeypatch.setattr(sys, "argv", ["radtransfer", *asked, "--out", str(tmp_path / which)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        codes.append(stop.value.code or 0)
    said = capsys.readouterr().out.splitlines()
    assert codes == [0, 1]
    assert said[0].startswith("tiny@1 promoted: the first model, above the floor 0.6 and its shortcuts: AUROC 0.")
    assert said[1].startswith("tiny@2 declined: worse: AUROC 0.") and len(said) == 2
    assert artifacts.read(tmp_path / "tiny", "decision").content["rules"] == Rules().model_dump(mode="json")
