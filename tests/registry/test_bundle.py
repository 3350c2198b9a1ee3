"""Bundles: they say what the run said, and nothing that was changed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.fusion.predictor import of_bundle
from radtransfer.fusion.unfit import Detector
from radtransfer.preprocess.store import Store
from radtransfer.provenance import code_version
from radtransfer.registry import bundle as bundle_module
from radtransfer.registry.bundle import register
from radtransfer.registry.predict import predict
from radtransfer.registry.references import located
from radtransfer.registry.versions import Registry
from radtransfer.training.steps import pretrain
from tests.conftest import SEED, TINY, Chain
from tests.preprocess.test_dicom import dicom


@pytest.mark.parametrize("threads", [1, 3])
def test_predictions_are_the_scores_of_the_report(chain: Chain, threads: int) -> None:
    store = Store.open(chain.target_store)
    content = artifacts.read(chain.bundle, "bundle").content
    reported = pd.read_parquet(chain.evaluation / "test_scores.parquet").set_index("image_id")[content["row_id"]]
    names = store.manifest["image_id"].iloc[store.rows("test")].tolist()[::-1]
    found = list(predict(bundle=chain.bundle, images=[chain.data_root / name for name in names], threads=threads))
    assert [prediction.image for prediction in found] == [chain.data_root / name for name in names]
    for name, prediction in zip(names, found, strict=True):
        assert prediction.score == pytest.approx(reported[name], abs=1e-4)
        label = "abnormal" if reported[name] >= content["threshold"] else "normal"
        assert prediction.label == (None if prediction.unfit else label)
    alarms = content["unfit"]["false_alarms"]
    assert (alarms["images"], alarms["unfit"]) == (len(names), sum(bool(one.unfit) for one in found))
    assert alarms["unfit"] < len(names) / 4


def test_beyond_the_limit_there_is_no_label_and_the_score_is_the_same(chain: Chain, tmp_path: Path) -> None:
    """The limit moved among the test images, whose distances are those of the run."""
    store = Store.open(chain.target_store)
    content = artifacts.read(chain.bundle, "bundle").content
    classifiers = next(one for one in chain.classifiers if one.name.endswith(content["tl_source"]))
    made = pd.read_parquet(classifiers / "distances.parquet").set_index("image_id")[content["features"]]
    names = store.manifest["image_id"].iloc[store.rows("test")].tolist()
    images = [chain.data_root / name for name in names]
    plain = {one.image: one for one in predict(bundle=chain.bundle, images=images, threads=1)}
    limit = float(np.median(made[names]))
    assert limit > 1
    strict = described(chain, tmp_path / "strict", unfit=content["unfit"] | {"limit": limit})
    found = list(predict(bundle=strict, images=images, threads=1, explain_dir=tmp_path / "shown"))
    assert 0 < sum(bool(one.unfit) for one in found) < len(found)
    for name, one in zip(names, found, strict=True):
        assert one.distance == pytest.approx(made[name], rel=1e-3)
        why = f"unlike the training images (distance {made[name]:.2f}, limit {limit:.2f})"
        assert one.unfit == (why if made[name] > limit else "")
        assert one.score == plain[one.image].score
        if one.unfit:
            assert one.label is None
        elif not plain[one.image].unfit:
            assert one.label == plain[one.image].label
    told = pd.read_csv(tmp_path / "shown" / "index.csv", keep_default_na=False)
    assert told["unfit"].tolist() == [one.unfit for one in found]
    assert told["label"].tolist() == [one.label or "" for one in found]
    assert (told["gradcam"] != "").all(), "what has a score is explained, unlike the training images or not"


def test_what_no_network_need_see_is_told_by_name(chain: Chain, tmp_path: Path) -> None:
    grey = np.asarray(Image.open(chain.data_root / Store.open(chain.target_store).manifest["image_id"].iloc[0]))
    draw = np.random.default_rng(0)
    drawn = {
        "blank": np.full((90, 70), 130, np.uint8),
        "nearly blank": np.clip(draw.normal(130, 1.5, (90, 70)), 0, 255).astype(np.uint8),
        "colour": np.stack([grey, grey // 2, grey // 4], axis=2),
        "grey in three channels": np.stack([grey] * 3, axis=2),
    }
    files = [tmp_path / f"{name}.png" for name in drawn]
    for image, path in zip(drawn.values(), files, strict=True):
        Image.fromarray(image).save(path)
    files += [dicom(tmp_path / f"{code}.dcm", grey, Modality=code) for code in ("CT", "US", "DX", "OT", "RADIOGRAPH")]
    expected = {
        "blank": "blank", "nearly blank": "blank", "colour": "colour",
        "CT": "modality CT, the training images are X-ray", "US": "modality US, the training images are X-ray",
    }  # fmt: skip
    for one in predict(bundle=chain.bundle, images=files, threads=1):
        if one.image.stem in expected:
            assert (one.unfit, one.score, one.label, one.distance) == (expected[one.image.stem], None, None, None)
        else:
            assert one.distance is not None and not one.reason
    entry = artifacts.read(chain.bundle, "bundle").content["unfit"]
    of_ct = described(chain, tmp_path / "ct", unfit=entry | {"modality": "CT", "coloured": True})
    found = {one.image.stem: one.unfit.partition(",")[0] for one in predict(bundle=of_ct, images=files, threads=1)}
    assert found["DX"] == "modality DX" and "modality" not in found["CT"] and found["colour"] != "colour"
    of_us = described(chain, tmp_path / "us", unfit=entry | {"dicom_modalities": ["US"]})
    found = {one.image.stem: one.unfit.partition(",")[0] for one in predict(bundle=of_us, images=files, threads=1)}
    assert found["CT"] == "modality CT" and not any("modality" in found[code] for code in ("US", "DX"))


def test_a_bundle_from_before_there_were_distances_still_predicts(chain: Chain, tmp_path: Path) -> None:
    blank, image = tmp_path / "blank.png", chain.data_root / Store.open(chain.target_store).manifest["image_id"].iloc[0]
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(blank)
    with artifacts.writing(tmp_path / "old", "bundle", step="register", settings={}) as (folder, content):
        shutil.copytree(chain.bundle, folder, dirs_exist_ok=True)
        for name in ("bundle.json", "unfit.safetensors"):
            (folder / name).unlink()
        content.update(artifacts.read(chain.bundle, "bundle").content)
        del content["unfit"]
    new = next(predict(bundle=chain.bundle, images=[image], threads=1))
    old = list(predict(bundle=tmp_path / "old", images=[image, blank], threads=1))
    assert (old[0].score, old[0].unfit, old[0].distance) == (new.score, "", None)
    assert (old[1].score, old[1].unfit) == (None, "blank")


def test_a_detector_of_other_networks_is_refused(chain: Chain, tmp_path: Path) -> None:
    with artifacts.writing(tmp_path / "odd", "bundle", step="register", settings={}) as (folder, content):
        shutil.copytree(chain.bundle, folder, dirs_exist_ok=True)
        (folder / "bundle.json").unlink()
        Detector.fit([np.eye(5)]).save(folder / "unfit.safetensors")
        content.update(artifacts.read(chain.bundle, "bundle").content)
    with pytest.raises(RadtransferError, match=r"unfit\.safetensors: is for 5 columns, the networks give"):
        next(predict(bundle=tmp_path / "odd", images=[], threads=1), None)


def test_borders_are_cut_in_prediction_as_they_were_in_training(chain: Chain, tmp_path: Path) -> None:
    """The run crops: its images score what they scored only if prediction crops too, and a frame changes nothing."""
    store = Store.open(chain.target_store)
    assert store.content["crop_border"] is artifacts.read(chain.bundle, "bundle").content["crop_border"] is True
    cropped = store.manifest["flags"].map(lambda flags: "cropped" in flags)
    assert 0.3 < cropped.mean() < 1 and store.content["flags"]["cropped"] == cropped.sum()
    names = store.manifest.loc[cropped, "image_id"].tolist()[:6]
    framed = [tmp_path / f"{number}.png" for number in range(len(names))]
    for name, path in zip(names, framed, strict=True):
        ImageOps.expand(Image.open(chain.data_root / name), (9, 0, 4, 12), fill=255).save(path)
    scores = of_bundle(chain.bundle)(np.stack([store.images[i] for i in np.flatnonzero(cropped)[:6]]))
    plain = described(chain, tmp_path / "plain", crop_border=False)
    for bundle, same in ((chain.bundle, True), (plain, False)):
        for images in ([chain.data_root / name for name in names], framed):
            found = [one.score for one in predict(bundle=bundle, images=images, threads=1)]
            assert (found == pytest.approx(scores, abs=1e-5)) is same


def test_an_unreadable_image_is_named_and_the_others_are_scored(chain: Chain, tmp_path: Path) -> None:
    good = chain.data_root / Store.open(chain.target_store).manifest["image_id"].iloc[0]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    found = list(predict(bundle=chain.bundle, images=[bad, good], threads=1))
    assert (found[0].score, found[0].label) == (None, None)
    assert found[0].reason.startswith("not a PNG, JPEG or DICOM file")  # the command line names the file before it
    assert found[1].score is not None and found[1].reason == ""
    with pytest.raises(RadtransferError, match=r"absent\.png: no such file"):
        next(predict(bundle=chain.bundle, images=[good, tmp_path / "absent.png"], threads=1))
    with pytest.raises(RadtransferError, match="is a folder; name the image files in it"):
        next(predict(bundle=chain.bundle, images=[good, tmp_path], threads=1))


def test_overlays_that_have_no_place_are_refused_before_images_are_scored(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("x")
    image = chain.data_root / Store.open(chain.target_store).manifest["image_id"].iloc[0]
    with pytest.raises(RadtransferError, match="already exists"):
        next(predict(bundle=chain.bundle, images=[image], threads=1, explain_dir=tmp_path))


def test_a_bundle_in_which_any_file_was_changed_is_refused(chain: Chain, tmp_path: Path) -> None:
    files = [path.relative_to(chain.bundle) for path in chain.bundle.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for number, file in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(chain.bundle, copy)
        data = bytearray((copy / file).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / file).write_bytes(bytes(data))
        with pytest.raises(RadtransferError, match="bundle" if file.name == "bundle.json" else re.escape(file.name)):
            next(predict(bundle=copy, images=[], threads=1), None)


def test_added_and_missing_files_are_refused(chain: Chain, tmp_path: Path) -> None:
    for number, change in enumerate((lambda path: (path / "extra.txt").write_text("x"), _remove_card)):
        copy = tmp_path / str(number)
        shutil.copytree(chain.bundle, copy)
        change(copy)
        with pytest.raises(RadtransferError, match=r"was added|is missing"):
            next(predict(bundle=copy, images=[], threads=1), None)


def _remove_card(path: Path) -> None:
    (path / "MODEL_CARD.md").unlink()


def described(chain: Chain, out: Path, **changes: object) -> Path:
    """The bundle with other content, sealed anew: its digests are all right."""
    with artifacts.writing(out, "bundle", step="register", settings={}) as (folder, content):
        shutil.copytree(chain.bundle, folder, dirs_exist_ok=True)
        (folder / "bundle.json").unlink()
        content.update(artifacts.read(chain.bundle, "bundle").content | changes)
    return out


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": "high"},
        {"calibration": {"slope": 1.0}},
        {"calibration": None},
        {"calibration": {"slope": 1.0, "intercept": 0.0, "steps": [[0.2, 0.5], [0.4, 0.1]]}},
        {"calibration": {"slope": 1.0, "intercept": 0.0, "steps": [[0.2, 1.5]]}},
        {"classifier": None},
        {"blocks": []},
        {"blocks": [{"backbone": "test_resnet./../../aside", "start": 0, "model_digest": ""}]},
        {"store_size": -5},
        {"store_size": True},
        {"store_size": 10**6},
        {"crop_border": "yes"},
        {"unfit": {"limit": 0.5, "modality": "X-ray", "dicom_modalities": [], "coloured": False}},
        {"unfit": {"limit": 2.0}},
        {"unfit": {"limit": 2.0, "modality": "X-ray", "dicom_modalities": ["a\nb"], "coloured": False}},
    ],
)
def test_a_bundle_with_an_unsound_description_is_refused(
    chain: Chain, tmp_path: Path, changes: dict[str, object]
) -> None:
    bundle = described(chain, tmp_path / "bundle", **changes)
    with pytest.raises(RadtransferError, match=rf"bundle: bundle\.json: {next(iter(changes))}.*make the bundle again"):
        next(predict(bundle=bundle, images=[], threads=1), None)


def test_a_bundle_predicts_with_its_own_models_only(chain: Chain, tmp_path: Path) -> None:
    """A model beside the bundle, or one put in the place of another and sealed, is not what the bundle was made of."""
    shutil.copytree(chain.models[0], tmp_path / "aside")
    bundle = described(chain, tmp_path / "outside", features="../../aside")
    with pytest.raises(RadtransferError, match=r"features '\.\./\.\./aside' are of none of its models"):
        next(predict(bundle=bundle, images=[], threads=1), None)
    content = artifacts.read(chain.bundle, "bundle").content
    blocks = [block | {"model_digest": "0" * 64} for block in content["blocks"]]
    bundle = described(chain, tmp_path / "swapped", blocks=blocks)
    with pytest.raises(RadtransferError, match="not the model that the bundle was made with"):
        next(predict(bundle=bundle, images=[], threads=1), None)


def test_ct_is_predicted_in_the_window_that_it_was_trained_in(chain: Chain, tmp_path: Path) -> None:
    radiograph = chain.data_root / Store.open(chain.target_store).manifest["image_id"].iloc[0]
    hounsfield = np.asarray(Image.open(radiograph)).astype(np.int16) * 5 - 1000
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 80}
    scan = dicom(tmp_path / "scan.dcm", (hounsfield + 1024).astype(np.int16), **tags)
    shown = np.rint(np.clip((hounsfield + 1350) / 1500, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(shown).save(tmp_path / "shown.png")
    scores = {}
    entry = {"limit": 1e9, "modality": "CT", "dicom_modalities": [], "coloured": False}
    for name, window in (("trained", [-600.0, 1500.0]), ("files", [])):
        bundle = described(chain, tmp_path / name, ct_window=window, unfit=entry)
        found = predict(bundle=bundle, images=[scan, tmp_path / "shown.png"], threads=1)
        scores[name] = [one.score for one in found]
    assert scores["trained"][0] == pytest.approx(scores["trained"][1], rel=1e-6)
    assert scores["files"][0] != pytest.approx(scores["files"][1], rel=0.05)
    with pytest.raises(RadtransferError, match="CT window: 1 numbers"):
        next(predict(bundle=described(chain, tmp_path / "odd", ct_window=[40.0]), images=[scan], threads=1))


def test_the_card_says_what_a_reader_must_know(chain: Chain) -> None:
    card = (chain.bundle / "MODEL_CARD.md").read_text()
    assert "trained again on training and validation images together" in card
    for needed in (
        "calibrated (platt)",
        "(youden)",
        "annotated lesions hidden: ",
        "as much hidden elsewhere: ",
        "blur, mean over grades 0 to 5: ",
        "mean over all kinds and grades 0 to 5: ",
    ):
        assert needed in card
    alarms = artifacts.read(chain.bundle, "bundle").content["unfit"]["false_alarms"]
    assert f"false alarms on the test images: {alarms['unfit']} of {alarms['images']}, " in card
    for needed in ("Not a medical device", "synthetic images", "AUROC", "shortcut/grey_level_histogram", "## Limits"):
        assert needed in card
    store = Store.open(chain.target_store)
    test = store.manifest.iloc[store.rows("test")]
    for sex in ("female", "male"):
        its = test[[f"sex={sex}" in own for own in test["attributes"]]]
        assert f"\n| sex: {sex} | {len(its)} | {its['label'].sum()} | " in card
        assert f"sex {sex} {store.content['attributes'][f'sex={sex}']}" in card


def test_what_was_changed_since_it_was_evaluated_is_not_registered(chain: Chain, tmp_path: Path) -> None:
    """Packed unseen, it would get a sha256 of its own, and the bundle would be found sound."""
    inputs = {
        "evaluation": chain.evaluation / "metrics.json",
        "classifiers": next(chain.classifiers[0].glob("*.skops")),
        "models": chain.models[0] / "weights.safetensors",
    }
    for key, file in inputs.items():
        copy = tmp_path / key
        shutil.copytree(file.parent, copy)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        (copy / file.name).write_bytes(bytes(data))
        arguments: dict[str, Any] = {
            "evaluation": chain.evaluation,
            "classifiers": chain.classifiers,
            "models": chain.models,
        }
        arguments |= {key: copy if key == "evaluation" else [copy, *arguments[key][1:]]}
        with pytest.raises(RadtransferError, match=f"{file.name}: its sha256 is not the recorded one"):
            register(
                name="tiny", target_store=chain.target_store, pretrained=chain.pretrained, config={}, registry="",
                out=tmp_path / "out", **arguments,
            )  # fmt: skip
        assert not (tmp_path / "out").exists()


BAD_NAMES = ["..", "../aside", "/tmp/aside", "a/b", "", "A", "-a", "a\n", "a" * 42, ".partial-x"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_folder_name_is_not_registered(tmp_path: Path, name: str) -> None:
    """Nothing is read or written before: none of the other inputs is there."""
    absent = tmp_path / "absent"
    with pytest.raises(RadtransferError, match="register: the name"):
        register(
            name=name, target_store=absent, evaluation=absent, classifiers=[], models=[],
            pretrained=[], config={}, registry=str(tmp_path / "registry"), out=tmp_path / "bundle",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_bundle_tells_what_it_was_made_of(chain: Chain, tmp_path: Path) -> None:
    content = artifacts.read(chain.bundle, "bundle").content
    store = Store.open(chain.target_store)
    assert content["configuration"] == {"name": "tiny", "backbones": list(TINY), "seed": SEED}
    counted = store.manifest.groupby(["split", "label_name"]).size()
    told = {(split, label): n for split, classes in content["data"]["counts"].items() for label, n in classes.items()}
    assert told == counted.to_dict() and content["data"]["images"] == len(store.manifest)
    assert content["data"]["store_digest"] == store.artifact.digest and content["data"]["origin"] == {"kind": "folder"}
    splits = pd.read_csv(chain.bundle / "splits.csv").query("role == 'target'").set_index("image_id")
    for row in store.manifest.itertuples():
        assert tuple(splits.loc[row.image_id, ["sha256", "split"]]) == (row.sha256, row.split)
    before = {artifacts.read(path, "model").content["backbone"]: path for path in chain.pretrained}
    digests = {name: artifacts.read(path, "model").digest for name, path in before.items()}
    parents = {each["backbone"]: each["digest"] for each in content["parents"]}
    in_domain = [block["backbone"] for block in content["blocks"]] if content["tl_source"] == "in_domain" else []
    assert parents == {name: digests[name] for name in in_domain}
    assert content["code_versions"] == [code_version()]


def test_in_domain_networks_need_what_they_were_fine_tuned_from(chain: Chain) -> None:
    models = [artifacts.read(path, "model") for path in chain.models]
    in_domain = [model for model in models if model.content["tl_source"] == "in_domain"]
    digests = [artifacts.read(path, "model").digest for path in chain.pretrained]
    assert [each["digest"] for each in bundle_module._parents(models, chain.pretrained)] == digests
    with pytest.raises(RadtransferError, match=r"the pre-trained model behind .* is missing; hand it over"):
        bundle_module._parents(in_domain, chain.pretrained[:1])


def test_what_was_registered_predicts_and_is_pre_trained_from(chain: Chain, tmp_path: Path) -> None:
    """From the registry alone: the scores of the bundle, and its pre-trained models as they were."""
    where = str(tmp_path / "registry")
    register(
        name="tiny", target_store=chain.target_store, evaluation=chain.evaluation, classifiers=chain.classifiers,
        models=chain.models, pretrained=chain.pretrained, config={"seed": SEED}, registry=where,
        out=tmp_path / "bundle",
    )  # fmt: skip
    registry = Registry.open(where)
    version, parent = (registry.version(name, 1) for name in ("tiny", "tiny-pretrained"))
    assert version.digest == artifacts.read(tmp_path / "bundle", "bundle").digest
    assert version.data == artifacts.read(chain.bundle, "bundle").content["data"]
    row = next(row for row in artifacts.read_json(chain.evaluation / "metrics.json")["results"] if row["selected"])
    assert version.metrics == row and version.configuration == {"seed": SEED}
    digests = {(model := artifacts.read(path, "model")).content["backbone"]: model.digest for path in chain.pretrained}
    assert parent.models == digests
    if version.model["tl_source"] == "in_domain":
        assert [(each.name, each.number) for each in version.parents] == [("tiny-pretrained", 1)]
    store = Store.open(chain.target_store)
    images = [chain.data_root / name for name in store.manifest["image_id"].iloc[:3]]
    with located(f"{where}#tiny@newest", "bundle") as folder:
        found = list(predict(bundle=folder, images=images, threads=1))
    assert found == list(predict(bundle=chain.bundle, images=images, threads=1))
    model = artifacts.read(chain.pretrained[1], "model").content
    pretrain(
        source_store=chain.source_store, backbone=TINY[1], init="scratch", epochs=1, batch_size=8, learning_rate=1e-3,
        weight_decay=0.01, input_size=model["input_size"], weights_mirror="", seed=SEED, threads=1, checkpoints="",
        checkpoint_minutes=5, layer_decay=1.0, freeze_epochs=0, patience=0, out=tmp_path / "model",
        pretrained_models=f"{where}#tiny-pretrained@1",
    )  # fmt: skip
    assert artifacts.read(tmp_path / "model", "model", verify=True).digest == digests[TINY[1]]
