from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from radtransfer import datasets
from radtransfer.datasets import phantoms
from radtransfer.datasets.phantoms import draw, make_phantoms
from radtransfer.errors import RadtransferError


def pair(part: str, case: int, difficulty: float = 0.3, size: int = 160) -> tuple[np.ndarray, np.ndarray, list]:
    """The same view without and with the break."""
    seeds = {"anatomy_seed": (1, case), "view_seed": (1, case, 0)}
    whole, none = draw(part, False, difficulty, size, **seeds)
    broken, boxes = draw(part, True, difficulty, size, **seeds)
    assert none == []
    return whole.astype(float), broken.astype(float), boxes


@pytest.mark.parametrize("part", phantoms.PARTS)
def test_the_break_is_where_the_box_says_and_changes_nothing_else_by_much(part: str) -> None:
    inside, outside = [], []
    for case in range(25):
        whole, broken, boxes = pair(part, case)
        high, wide = whole.shape
        x0, y0, x1, y1 = boxes[0]
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        mask = np.zeros(whole.shape, dtype=bool)
        mask[int(y0 * high) : int(np.ceil(y1 * high)), int(x0 * wide) : int(np.ceil(x1 * wide))] = True
        assert mask.mean() < 0.2
        change = np.abs(whole - broken)
        inside.append(np.percentile(change[mask], 90))
        outside.append(np.median(change[~mask]))
    assert np.median(inside) > 8  # grey levels
    assert np.median(outside) < 2


def test_difficulty_makes_breaks_fainter() -> None:
    strength = []
    for difficulty in (0.0, 0.5, 1.0):
        changes = [np.abs(np.subtract(*pair("humerus", case, difficulty)[:2])).sum() for case in range(20)]
        strength.append(np.median(changes))
    assert strength[0] > 1.3 * strength[1] > 1.6 * strength[2] > 0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    make_phantoms(root / "ph", 200, ("forearm", "humerus"), size=96, seed=7)
    return root


def test_the_reader_gives_back_what_was_drawn(root: Path) -> None:
    read = datasets.read("phantoms", root, "ph")
    assert read.synthetic and read.classes == ("normal", "fractured") and read.parts == ["forearm", "humerus"]
    assert len(read.records) == 400 and read.rejected == []
    patients: dict[str, list] = {}
    for record in read.records:
        patients.setdefault(record.patient_id or "", []).append(record)
        assert len(record.boxes) == record.label
    assert {len(views) for views in patients.values()} == {1, 2, 3}
    for views in patients.values():
        assert len({(view.label, view.parts, view.attributes) for view in views}) == 1
    known = {one for record in read.records for one in record.attributes}
    assert known == {"sex=female", "sex=male", "age=18-39", "age=40-64", "age=65+"}
    assert 0.38 < np.mean([record.label for record in read.records]) < 0.52
    sizes = {Image.open(root / record.file).size for record in read.records[:60]}
    assert {max(size) for size in sizes} == {96} and len(sizes) > 10


def test_exposure_and_orientation_tell_nothing_of_the_label(root: Path) -> None:
    """Grey-level histogram, mean, deviation and shape: no better than chance.

    n = 200 per part; with 45 % positives in about 100 groups the AUROC of chance has a deviation of about 0.055
    (clustered), so 0.68 is beyond three; the data are fixed by their seed.
    """
    read = datasets.read("phantoms", root, "ph")
    for part in read.parts:
        mine = [record for record in read.records if record.parts == (part,)]
        features = []
        for record in mine:
            pixels = np.asarray(Image.open(root / record.file))
            histogram = np.histogram(pixels, 32, (0, 256))[0] / pixels.size
            features.append([*np.sqrt(histogram), pixels.mean() / 255, pixels.std() / 255, pixels.shape[1] / 96])
        labels = [record.label for record in mine]
        groups = [record.patient_id for record in mine]
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        model = LogisticRegression(max_iter=2000)
        scores = cross_val_predict(model, features, labels, groups=groups, cv=folds, method="predict_proba")[:, 1]
        assert roc_auc_score(labels, scores) < 0.68


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_phantoms(tmp_path / name, 6, ("hand",), size=64, seed=seed)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 7
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    assert (tmp_path / "a/phantoms.csv").read_bytes() != (tmp_path / "c/phantoms.csv").read_bytes()


def test_one_part_is_drawn_alike_whatever_the_others(tmp_path: Path) -> None:
    make_phantoms(tmp_path / "a", 3, ("knee",), size=64)
    make_phantoms(tmp_path / "b", 3, ("hand", "knee"), size=64)
    for path in (tmp_path / "a" / "knee").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "knee" / path.name).read_bytes()


def test_drawing_is_quick() -> None:
    """At least 50 images a second on a free core (process time; a quarter of that is let pass)."""
    started = time.process_time()
    for case in range(40):
        pair(phantoms.PARTS[case % 4], case)
    assert 80 / (time.process_time() - started) > 12


def test_bad_requests_leave_nothing(tmp_path: Path) -> None:
    for settings in ({"parts": ("wing",)}, {"difficulty": 1.5}, {"size": 8}, {"images_per_part": 0}):
        with pytest.raises(RadtransferError, match="phantoms: "):
            make_phantoms(tmp_path / "x", **settings)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("keep")
    with pytest.raises(RadtransferError, match="already exists"):
        make_phantoms(tmp_path / "x", 1)


def test_a_changed_folder_is_noticed(tmp_path: Path) -> None:
    make_phantoms(tmp_path / "ph", 3, ("hand",), size=64)
    first = min((tmp_path / "ph" / "hand").iterdir())
    (tmp_path / "ph" / "hand" / "extra.png").write_bytes(first.read_bytes())
    assert datasets.read("phantoms", tmp_path, "ph").rejected == [("ph/hand/extra.png", "not in phantoms.csv")]
    first.unlink()
    with pytest.raises(RadtransferError, match=r"phantoms\.csv, line 2: file 'hand/hand0000_0\.png' is not there"):
        datasets.read("phantoms", tmp_path, "ph")
