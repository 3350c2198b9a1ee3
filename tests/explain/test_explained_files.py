"""Image files explained by a bundle, through all of the code."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from safetensors.torch import save_file

from radtransfer import artifacts
from radtransfer.errors import RadtransferError
from radtransfer.explain import superpixels
from radtransfer.explain.files import explain_files
from radtransfer.fusion import HEAD, predictor
from radtransfer.fusion.scoring import load_classifier, save_classifier
from radtransfer.preprocess.letterbox import letterbox
from radtransfer.registry import judge
from radtransfer.registry.predict import predict
from radtransfer.training.network import Network

FEW: dict[str, Any] = {"lime_samples": 20, "threads": 1}
RNG = np.random.default_rng(5)


def noise(path: Path, *size: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, size, dtype=np.uint8)).save(path)
    return path


def index(out: Path) -> list[dict[str, str]]:
    with (out / "index.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert not any(value in ("nan", "inf", "None") for row in rows for value in row.values())
    return rows


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@contextmanager
def changed(bundle: Path, out: Path, **told: Any) -> Iterator[Path]:
    """A bundle like another, with other entries and what is changed in the folder meanwhile."""
    with artifacts.writing(out, "bundle", step="register", settings={}) as (folder, said):
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        (folder / "bundle.json").unlink()
        said.update(artifacts.read(bundle, "bundle").content, **told)
        yield folder


@pytest.fixture(scope="module")
def explained(mini_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    root = tmp_path_factory.mktemp("files")
    sizes = {"x y&z.png": mini_run.original, "a/x y&z.png": (50, 200), '"><script>a()</script>.png': (64, 64)}
    files = [noise(root / name.replace("/script", "_"), *size) for name, size in sizes.items()]
    explain_files(bundle=mini_run.bundle, images=files, out=root / "out", **FEW)
    return files, root / "out"


def test_overlays_have_the_size_of_the_image_and_the_index_what_predict_says(
    mini_run: Any, explained: tuple[list[Path], Path]
) -> None:
    files, out = explained
    rows = index(out)
    assert [row["image"] for row in rows] == [str(file) for file in files]
    for row, file, said in zip(rows, files, predict(bundle=mini_run.bundle, images=files, threads=1), strict=True):
        assert float(row["score"]) == pytest.approx(said.score, abs=1e-6)
        assert (row["label"], row["unfit"], row["distance"]) == (said.label, "", "")
        original = picture(file)
        for method in ("gradcam", "lime"):
            assert row[method].replace("-", "").replace("_", "").replace(".png", "").isalnum()
            overlay = picture(out / row[method])
            assert overlay.shape == (*original.shape, 3)
            untouched = (overlay == original[..., None]).all(axis=2)
            assert 0 < untouched.mean() < 1 or method == "gradcam"
        assert (row["gradcam_empty"], float(row["gradcam_fidelity"])) == ("no", 1)
    named = {row[method] for row in rows for method in ("gradcam", "lime")}
    assert len(named) == 6
    assert {path.name for path in out.iterdir()} == named | {"index.csv", "index.html", "explanations.json"}


def test_lime_is_held_against_another_seed(mini_run: Any, explained: tuple[list[Path], Path]) -> None:
    files, out = explained
    row = index(out)[1]
    whole = predictor.of_bundle(mini_run.bundle)
    stored, frame = letterbox(picture(files[1]), 64)
    own, other = (superpixels.lime(whole, stored, frame.box(0, 0, 200, 50), samples=20, seed=seed) for seed in (0, 1))
    assert float(row["lime_r2"]) == pytest.approx(own.fidelity, abs=1e-4)
    steady = superpixels.steadiness(own, other)
    assert float(row["lime_spearman"]) == pytest.approx(steady.spearman, abs=1e-3)
    assert float(row["lime_top5"]) == steady.top
    assert 0 <= float(row["lime_top5"]) <= 1 and -1 <= float(row["lime_spearman"]) < 1


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_else_and_takes_no_file_name_for_markup(explained: tuple[list[Path], Path]) -> None:
    files, out = explained
    page = (out / "index.html").read_text("utf-8")
    tags = _Tags(page).found
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe")]
    pictures = [told for tag, told in tags if tag == "img"]
    assert len(pictures) == 9
    assert all(str(told["src"]).startswith("data:image/webp;base64,") and told["alt"] for told in pictures)
    assert {told["href"] for tag, told in tags if tag == "a"} == {
        "index.csv", *(row[method] for row in index(out) for method in ("gradcam", "lime")),
    }  # fmt: skip
    assert sum(str(files[2]) in str(told["alt"]) for told in pictures) == 3
    policy = next(str(told["content"]) for _, told in tags if told.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script" not in policy


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_real_browser(chromium: Any, explained: tuple[list[Path], Path], scheme: str) -> None:
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 360, "height": 800})
    page = context.new_page()
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.goto((explained[1] / "index.html").as_uri())
    pictures = page.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth > 0)")
    assert len(pictures) == 9 and all(pictures) and not told
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert "gradient" in page.evaluate("getComputedStyle(document.querySelector('.bar')).backgroundImage")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    context.close()


def test_an_image_without_anything_for_the_positive_class_is_shown_plain(mini_run: Any, tmp_path: Path) -> None:
    with changed(mini_run.bundle, tmp_path / "indifferent") as folder:
        estimator = load_classifier(folder / "classifier.skops")
        estimator[-1].coef_ = np.zeros_like(estimator[-1].coef_)
        save_classifier(estimator, folder / "classifier.skops")
    file = noise(tmp_path / "x.png", 40, 60)
    explain_files(bundle=tmp_path / "indifferent", images=[file], out=tmp_path / "out", **FEW)
    (row,) = index(tmp_path / "out")
    assert (row["gradcam_empty"], row["lime_spearman"], row["lime_top5"]) == ("yes", "", "")
    for method in ("gradcam", "lime"):
        assert (picture(tmp_path / "out" / row[method]) == picture(file)[..., None]).all()
    assert "The map is empty" in (tmp_path / "out/index.html").read_text("utf-8")


def test_a_blank_image_has_its_row_and_no_overlay(mini_run: Any, tmp_path: Path) -> None:
    nearly = np.full((80, 70), 130, np.uint8)
    nearly[3, 3:9] = 250
    for name, pixels in (("black", np.zeros((80, 70), np.uint8)), ("nearly", nearly)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    files = [tmp_path / "black.png", noise(tmp_path / "x.png", 40, 60), tmp_path / "nearly.png"]
    explain_files(bundle=mini_run.bundle, images=files, out=tmp_path / "out", **FEW)
    blank, fit, nearly_blank = index(tmp_path / "out")
    for row in (blank, nearly_blank):
        assert row.pop("unfit") == "blank" and row.pop("image") and not any(row.values())
    assert fit["label"] and fit["lime"] == "0002-x-lime.png"
    page = (tmp_path / "out/index.html").read_text("utf-8")
    assert page.count("No network saw this image") == 2 and page.count("Unfit for this model: blank") == 2


@pytest.mark.parametrize("size", [(2, 1), (1, 700), (700, 3)])
def test_a_tiny_or_narrow_image_is_explained(mini_run: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    file = tmp_path / "x.png"
    Image.fromarray(np.linspace(0, 255, size[0] * size[1]).astype(np.uint8).reshape(size)).save(file)
    explain_files(bundle=mini_run.bundle, images=[file], out=tmp_path / "out", **FEW)
    (row,) = index(tmp_path / "out")
    assert 0 < float(row["score"]) < 1
    assert all(picture(tmp_path / "out" / row[method]).shape == (*size, 3) for method in ("gradcam", "lime"))


def test_a_backbone_that_gradcam_does_not_know_is_explained_by_lime_alone(tmp_path: Path) -> None:
    backbone = "gmlp_ti16_224"  # its blocks have no norm1
    network = Network(backbone, 224)
    with artifacts.writing(tmp_path / "bundle", "bundle", step="register", settings={}) as (folder, said):
        with artifacts.writing(folder / "models" / backbone, "model", step="finetune", settings={}) as (own, content):
            weights = {key: value.contiguous() for key, value in network.state_dict().items()}
            save_file(weights, own / "weights.safetensors")
            content.update(backbone=backbone, input_size=224, mirror=False)
        block = {"backbone": backbone, "start": 0, "stop": network.feature_dim}
        block["model_digest"] = artifacts.read(folder / "models" / backbone, "model").digest
        said.update(features=backbone, classifier=HEAD, blocks=[block], store_size=64)
        said.update(calibration={"slope": 1.0, "intercept": 0.0}, threshold=0.5)
    call: dict[str, Any] = {"bundle": tmp_path / "bundle", "images": [noise(tmp_path / "x.png", 50, 60)]}
    call |= {"out": tmp_path / "out", "lime_samples": 10, "threads": 1}
    with pytest.raises(RadtransferError, match=rf"Grad-CAM.*{backbone}.*`radtransfer explain --no-gradcam`"):
        explain_files(**call)
    assert not call["out"].exists()
    explain_files(**call, with_gradcam=False)
    (row,) = index(call["out"])
    assert row["lime"] and not (row["gradcam"] or row["gradcam_empty"] or row["gradcam_fidelity"])
    assert set(artifacts.read(call["out"], "explanations").content["methods"]) == {"lime"}
    assert "Grad-CAM" not in (call["out"] / "index.html").read_text("utf-8")


def _missing(folder: Path) -> list[Path]:
    return [noise(folder / "x.png", 40, 40), folder / "gone.png"]


def _folder(folder: Path) -> list[Path]:
    return [folder]


def _twice(folder: Path) -> list[Path]:
    return [noise(folder / "x.png", 40, 40), folder / ".." / folder.name / "x.png"]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (_missing, r"gone\.png: no such file \(1 of 2 are missing\)"),
        (_folder, "is a folder; name the image files in it"),
        (_twice, "is named 2 times; name each image file once"),
    ],
)
def test_a_file_that_cannot_be_is_named_before_the_models_are_loaded(
    mini_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Callable[[Path], list[Path]], said: str
) -> None:
    def loaded(_: Path) -> None:
        raise AssertionError("the models were loaded")

    monkeypatch.setattr(judge, "of_bundle", loaded)
    files = images(tmp_path)
    with pytest.raises(RadtransferError, match=said):
        explain_files(bundle=mini_run.bundle, images=files, out=tmp_path / "out", **FEW)
    with pytest.raises(RadtransferError, match=said):
        next(predict(bundle=mini_run.bundle, images=files, threads=1, explain_dir=tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    fine = [noise(tmp_path / "y.png", 40, 40)]
    with pytest.raises(RadtransferError, match="already exists"):
        explain_files(bundle=mini_run.bundle, images=fine, out=tmp_path / "out", **FEW)


def test_an_unreadable_file_is_named_before_any_network_saw_an_image(
    mini_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [noise(tmp_path / "x.png", 40, 60), tmp_path / "broken.png"]
    files[1].write_bytes(b"no image")
    monkeypatch.setattr(predictor.Predictor, "passed", None)
    with pytest.raises(RadtransferError, match=r"broken\.png: not a PNG.*; leave it out to explain the others"):
        explain_files(bundle=mini_run.bundle, images=files, out=tmp_path / "out", **FEW)
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", "broken.png"}


def test_predict_explains_all_that_can_be_read(mini_run: Any, tmp_path: Path) -> None:
    files = [tmp_path / "broken.png", tmp_path / "black.png", noise(tmp_path / "x.png", 40, 60)]
    files[0].write_bytes(b"no image")
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(files[1])
    found = list(predict(bundle=mini_run.bundle, images=files, threads=1, explain_dir=tmp_path / "out"))
    rows = index(tmp_path / "out")
    assert [(row["image"], row["unfit"], row["label"]) for row in rows] == [
        (str(one.image), one.unfit, one.label or "") for one in found[1:]
    ]
    assert float(rows[1]["score"]) == pytest.approx(found[2].score, abs=1e-6) and rows[1]["gradcam"]


def test_nothing_is_drawn_on_a_border_that_was_cut_away(mini_run: Any, tmp_path: Path) -> None:
    """Within it, the overlays are those of the image without its border."""
    content = np.random.default_rng(5).integers(0, 256, (64, 96), dtype=np.uint8)
    framed = np.pad(content, ((30, 10), (5, 20)), constant_values=200)
    for name, pixels in (("framed", framed), ("content", content)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    with changed(mini_run.bundle, tmp_path / "bundle", crop_border=True):
        pass
    files = [tmp_path / "framed.png", tmp_path / "content.png"]
    explain_files(bundle=tmp_path / "bundle", images=files, out=tmp_path / "out", **FEW)
    rows = index(tmp_path / "out")
    assert float(rows[0]["score"]) == pytest.approx(float(rows[1]["score"]), rel=1e-6)
    for method in ("gradcam", "lime"):
        own, plain = (picture(tmp_path / "out" / row[method]) for row in rows)
        np.testing.assert_array_equal(own[31:93, 6:100], plain[1:-1, 1:-1])  # superpixels have an outline towards it
        assert (np.delete(own, np.s_[30:94], axis=0) == 200).all()
        assert (np.delete(own, np.s_[5:101], axis=1) == 200).all()


def test_a_tampered_bundle_is_refused(mini_run: Any, tmp_path: Path) -> None:
    shutil.copytree(mini_run.bundle, tmp_path / "bundle")
    weights = tmp_path / "bundle/models/test_vit/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RadtransferError, match="the file was changed"):
        explain_files(bundle=tmp_path / "bundle", images=[], out=tmp_path / "out", **FEW)
