"""Phantoms: synthetic radiographs of bones with and without fractures, for the demonstration and the tests.

They are drawings, not simulations: bones are bent tubes with a bright cortex and a darker medulla, soft tissue lies
around them, and attenuation adds up along the beam. Exposure, noise, collimation, markers and orientation are drawn
independently of the label, so that only the fracture tells the classes apart.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, zoom

from radtransfer.artifacts import staged
from radtransfer.attributes import Attributes
from radtransfer.datasets.records import Box, Dataset, Folder, Record
from radtransfer.errors import RadtransferError
from radtransfer.progress import track

Map = npt.NDArray[np.float32]
PARTS = ("forearm", "hand", "humerus", "knee")
TABLE = "phantoms.csv"
COLUMNS = ("file", "part", "patient", "study", "sex", "age", "label", "boxes")
CLASSES = ("normal", "fractured")
PREVALENCE = 0.45
_Case = tuple[str, str, int, bool, tuple[int, ...]]


def read(folder: Folder, part: str | None) -> Dataset:
    """Read a folder that :func:`make_phantoms` made. Patient ids are made up, so they serve as they are.

    Raises:
        RadtransferError: the table is missing, is not as written, or names a file that is not there.
    """
    del part
    path = folder.need(TABLE, "phantoms")
    there = {image.relative_to(folder.path).as_posix(): image for image in folder.images()}
    records, attributes = [], Attributes(str(folder.path))
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise RadtransferError(f"{path}: expected the columns {', '.join(COLUMNS)}; make the phantoms again")
        for number, row in enumerate(reader, start=2):
            image = there.pop(row["file"], None)
            if image is None:
                raise RadtransferError(f"{path}, line {number}: file {row['file']!r} is not there, or named twice")
            try:
                label = CLASSES.index(row["label"])
                boxes = tuple(_box(text) for text in row["boxes"].split(";") if text)
            except ValueError:
                raise RadtransferError(f"{path}, line {number}: not a row of make_phantoms; make them again") from None
            known = attributes.of({name: row[name] for name in ("sex", "age")})
            file = folder.file(image)
            records.append(
                Record(file, label, (row["part"],), row["patient"], row["study"], boxes=boxes, attributes=known)
            )
    records.sort(key=lambda record: record.file)
    rejected = [(folder.file(image), f"not in {TABLE}") for image in there.values()]
    notes = ["synthetic images: results say nothing about patients"]
    return Dataset("phantoms", folder.path.name, CLASSES, records, rejected, notes, synthetic=True)


def make_phantoms(
    out: Path,
    images_per_part: int = 200,
    parts: Sequence[str] = PARTS,
    difficulty: float = 0.2,
    size: int = 160,
    seed: int = 0,
) -> None:
    """Draw a data set: ``<part>/<patient>_<k>.png`` and the table ``phantoms.csv``.

    A patient has one to three images of one part, all with the same bones, in different poses, and all fractured or
    none (45 % of patients are); sex and age are made up, and nothing depends on them. The same arguments give the
    same bytes.

    Args:
        out: folder to make; it must not exist or be empty.
        images_per_part: number of images of each part.
        parts: which of :data:`PARTS`.
        difficulty: 0 (wide gaps, large steps) to 1 (faint hairlines).
        size: longer side of the images, px, at least 64.
        seed: seed of everything.

    Raises:
        RadtransferError: an argument is out of range or the folder holds something.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown or not parts:
        raise RadtransferError(f"phantoms: unknown part {unknown[:1]}; known: {', '.join(PARTS)}")
    if not 0 <= difficulty <= 1 or size < 64 or images_per_part < 1:
        raise RadtransferError("phantoms: difficulty is 0..1, size at least 64, images_per_part at least 1")
    out = Path(out)
    work = [case for part in parts for case in _cases(part, images_per_part, seed)]
    with staged(out) as staging:
        _draw_all(staging, parts, work, difficulty, size)


def _draw_all(out: Path, parts: Sequence[str], work: list[_Case], difficulty: float, size: int) -> None:
    for part in parts:
        (out / part).mkdir(parents=True)
    rows = []
    for part, patient, k, fractured, case_seed in track(work, "draw phantoms", len(work)):
        pixels, boxes = draw(part, fractured, difficulty, size, anatomy_seed=case_seed, view_seed=(*case_seed, k))
        file = f"{part}/{patient}_{k}.png"
        Image.fromarray(pixels).save(out / file, compress_level=1)
        text = ";".join(" ".join(f"{edge:.5f}" for edge in box) for box in boxes)
        made_up = np.random.default_rng((*case_seed, 4))
        sex, age = str(made_up.choice(["F", "M"])), int(made_up.integers(18, 90))
        rows.append((file, part, patient, f"{patient}-s1", sex, age, CLASSES[fractured], text))
    with (out / TABLE).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def _cases(part: str, count: int, seed: int) -> list[_Case]:
    """(part, patient, number of the view, fractured, seed of the anatomy) of each image of a part."""
    origin = (seed, PARTS.index(part))
    rng = np.random.default_rng(origin)
    cases: list[_Case] = []
    patient, wanted = 0, PREVALENCE
    while len(cases) < count:
        # Error diffusion keeps the share of fractured patients at its value in every stretch of patients.
        fractured = rng.random() < min(max(wanted, 0.0), 1.0)
        wanted += PREVALENCE - float(fractured)
        for k in range(min(int(rng.integers(1, 4)), count - len(cases))):
            cases.append((part, f"{part}{patient:04d}", k, fractured, (*origin, patient)))
        patient += 1
    return cases


def _box(text: str) -> Box:
    x0, y0, x1, y1 = (float(word) for word in text.split())
    return x0, y0, x1, y1


@dataclass(frozen=True)
class _Bone:
    """A bent tube; lengths in units of the longer image side.

    Attributes:
        start, end: ends of its axis (x, y).
        radius: outer radius of the shaft.
        flare: how much wider the two ends are, shares of the radius.
        bend: sideways excursion of the axis at mid-length.
        density: attenuation per length, 1 for compact bone.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    radius: float
    flare: tuple[float, float] = (0.5, 0.5)
    bend: float = 0.0
    density: float = 1.0

    @property
    def length(self) -> float:
        return float(np.hypot(self.end[0] - self.start[0], self.end[1] - self.start[1]))


@dataclass(frozen=True)
class _Fracture:
    """A break across a bone: where along it (0..1), its slope, and how the far end is moved."""

    bone: int
    at: float
    slope: float
    gap: float
    depth: float
    step: float
    angle: float
    jag: tuple[float, float, float]


def draw(
    part: str,
    fractured: bool,
    difficulty: float,
    size: int,
    *,
    anatomy_seed: Sequence[int],
    view_seed: Sequence[int],
) -> tuple[npt.NDArray[np.uint8], list[Box]]:
    """Draw one phantom.

    Args:
        part: one of :data:`PARTS`.
        fractured: whether a bone is broken.
        difficulty: 0 to 1.
        size: longer side, px.
        anatomy_seed: seed of bones and break: the patient.
        view_seed: seed of pose, exposure, noise, collimation and markers: the image. None of them depends on
            ``fractured``.

    Returns:
        uint8 [height, width] and the boxes of the breaks, shares of width and height.
    """
    anatomy, view = np.random.default_rng((*anatomy_seed, 1)), np.random.default_rng((*view_seed, 2))
    bones = [_posed(bone, view_pose) for view_pose in [_pose(view)] for bone in _anatomy(part, anatomy, view)]
    fracture = _fracture(bones, part, difficulty, size, np.random.default_rng((*anatomy_seed, 3)))
    aspect = float(view.uniform(0.72, 1.0))
    height, width = size, max(48, round(size * aspect))
    grid = _grid(height, width, size)
    hard, soft = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    boxes: list[Box] = []
    for number, bone in enumerate(bones):
        broken = fracture if fractured and number == fracture.bone else None
        _add_bone(hard, grid, bone, broken, size)
        _add_tissue(soft, grid, bone, part)
    texture = 1 + 0.07 * _cloud(view, (height, width), size // 5) + 0.09 * _cloud(view, (height, width), size // 2)
    tissue = np.sqrt(soft) * (1 + 0.15 * _cloud(view, (height, width), 6))
    attenuation = gaussian_filter(hard * texture, 0.45 * size / 160) + float(view.uniform(0.25, 0.5)) * tissue
    image = _exposed(attenuation, view, size)
    if fractured:
        boxes.append(_fracture_box(bones[fracture.bone], fracture, height, width, size))
    image = _collimated_and_marked(image, view, size)
    return _turned(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), boxes, view)


def _anatomy(part: str, rng: np.random.Generator, view: np.random.Generator) -> list[_Bone]:
    """Bones around the origin, along y. ``view`` moves joints: the same patient is not posed alike twice."""
    u = rng.uniform
    scale = u(0.9, 1.1)
    if part == "humerus":
        wide = 0.052 * scale * u(0.85, 1.15)
        shaft = _Bone((0, -0.42), (0.02, 0.44), wide, (0.9, 0.75), u(-0.03, 0.03))
        head = _Bone((-0.045 * scale, -0.42), (-0.005, -0.40), wide * 1.25, (0.0, 0.0), density=0.35)
        elbow = _Bone((-0.03, 0.55), (-0.02 + view.uniform(-0.1, 0.1), 0.85), wide * 0.8, (0.6, 0.2))
        return [shaft, head, elbow]
    if part == "forearm":
        gap = 0.095 * scale
        radius = _Bone((-gap, -0.42), (-gap * 0.9, 0.40), 0.042 * scale * u(0.9, 1.1), (0.25, 0.9), u(-0.05, -0.01))
        ulna = _Bone((gap * 0.9, -0.48), (gap * 0.7, 0.38), 0.037 * scale * u(0.9, 1.1), (0.9, 0.2), u(0.0, 0.03))
        carpus = [
            _Bone((x, 0.47 + 0.02 * abs(x)), (x + 0.02, 0.49), 0.035 * scale, (0.0, 0.0), density=0.5)
            for x in (-0.1, -0.03, 0.045)
        ]
        return [radius, ulna, *carpus]
    if part == "hand":
        bones: list[_Bone] = []
        rays = 5
        spread = 0.13 * scale * view.uniform(0.75, 1.15)
        for ray in range(rays):
            side = ray - (rays - 1) / 2
            angle = 0.13 * side * view.uniform(0.6, 1.3) + (0.35 if ray == 0 else 0.0) * -1
            x, y = side * spread * 0.62, 0.28 + 0.02 * abs(side)
            thick = 0.024 * scale * (1.15 if ray == 0 else 1.0)
            reach = (0.78 if ray in (0, 4) else 1.0) * scale
            for length in (0.25 * reach, 0.155 * reach, 0.10 * reach, 0.065 * reach)[: 3 if ray == 0 else 4]:
                end = (x + np.sin(angle) * length, y - np.cos(angle) * length)
                bones.append(_Bone((x, y), end, thick, (0.45, 0.35), u(-0.004, 0.004)))
                angle += view.uniform(-0.06, 0.06)
                x, y = end[0] + np.sin(angle) * 0.018, end[1] - np.cos(angle) * 0.018
                thick *= 0.86
        for x in (-0.11, -0.04, 0.03, 0.10):
            bones.append(_Bone((x, 0.345 + 0.03 * abs(x)), (x + 0.02, 0.36), 0.036 * scale, (0.0, 0.0), density=0.5))
        bones.append(_Bone((-0.07, 0.45), (-0.06, 0.85), 0.042 * scale, (0.5, 0.0)))
        bones.append(_Bone((0.07, 0.46), (0.06, 0.85), 0.034 * scale, (0.3, 0.0)))
        return bones
    wide = 0.066 * scale * u(0.9, 1.1)
    tilt = view.uniform(-0.12, 0.12)
    femur = _Bone((tilt, -0.62), (0.0, -0.055), wide, (0.1, 0.95), u(-0.02, 0.02))
    tibia = _Bone((0.0, 0.055), (-0.02 - tilt / 2, 0.62), wide * 0.85, (1.05, 0.1), u(-0.02, 0.02))
    fibula = _Bone((0.125 * scale, 0.12), (0.10 * scale - tilt / 2, 0.62), 0.027 * scale, (0.5, 0.1), u(0.0, 0.02))
    patella = _Bone((-0.012, -0.13), (0.012, -0.11), 0.062 * scale, (0.0, 0.0), density=0.3)
    return [femur, tibia, fibula, patella]


BREAKABLE = {"humerus": (0,), "forearm": (0, 1), "hand": (0, 1, 3, 4, 7, 8, 11, 12, 15, 16), "knee": (0, 1, 2)}


def _pose(view: np.random.Generator) -> tuple[float, float, float, float]:
    """Angle, scale and shift of the whole limb."""
    angle = float(view.normal(0, 0.18))
    return angle, float(view.uniform(0.9, 1.08)), float(view.uniform(-0.05, 0.05)), float(view.uniform(-0.05, 0.05))


def _posed(bone: _Bone, pose: tuple[float, float, float, float]) -> _Bone:
    angle, scale, shift_x, shift_y = pose
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)

    def moved(point: tuple[float, float]) -> tuple[float, float]:
        return point[0] * cos - point[1] * sin + shift_x, point[0] * sin + point[1] * cos + shift_y

    return replace(
        bone, start=moved(bone.start), end=moved(bone.end), radius=bone.radius * scale, bend=bone.bend * scale
    )


def _fracture(bones: list[_Bone], part: str, difficulty: float, size: int, rng: np.random.Generator) -> _Fracture:
    ease = 1 - difficulty
    bone = int(rng.choice(BREAKABLE[part]))
    inside = [t for t in np.linspace(0.15, 0.85, 29) if np.abs(_point(bones[bone], float(t), 0.0)).max() < 0.36]
    displaced = rng.random() < 0.65
    pixel = 1 / size
    return _Fracture(
        bone=bone,
        at=float(rng.choice(inside)) if inside else 0.5,
        slope=float(rng.choice((-1, 1)) * rng.uniform(0.0, 1.1)),
        gap=float((0.9 + 2.6 * ease * rng.uniform(0.5, 1.0)) * max(pixel, 1 / 256)),
        depth=float(min(0.4 + 0.6 * ease + rng.uniform(-0.05, 0.1), 1.0)),
        step=float(displaced * rng.choice((-1, 1)) * (0.12 + 1.05 * ease * rng.uniform(0.4, 1.0))),
        angle=float(displaced * rng.choice((-1, 1)) * rng.uniform(0.0, 0.05 + 0.22 * ease)),
        jag=(float(rng.uniform(0, 6.3)), float(rng.uniform(0, 6.3)), float(rng.uniform(0.15, 0.4))),
    )


def _point(bone: _Bone, along: float, across: float) -> npt.NDArray[np.float64]:
    """Position at ``along`` (0..1) the bone and ``across`` its bent axis."""
    axis = np.subtract(bone.end, bone.start) / bone.length
    normal = np.array([-axis[1], axis[0]])
    sideways = across + 4 * bone.bend * along * (1 - along)
    return np.asarray(bone.start) + axis * along * bone.length + normal * sideways


def _grid(height: int, width: int, size: int) -> tuple[Map, Map]:
    """x [1, width] and y [height, 1] of the pixel centres; the origin is the image's centre."""
    x, y = (((np.arange(side) + 0.5 - side / 2) / size).astype(np.float32) for side in (width, height))
    return x[None, :], y[:, None]


def _window(grid: tuple[Map, Map], bone: _Bone, margin: float) -> tuple[slice, slice]:
    """Rows and columns that a bone can touch."""
    x, y = grid
    reach = margin + abs(bone.bend)
    spans = []
    for values, one, other in ((y.ravel(), bone.start[1], bone.end[1]), (x.ravel(), bone.start[0], bone.end[0])):
        low, high = np.searchsorted(values, (min(one, other) - reach, max(one, other) + reach))
        spans.append(slice(int(low), int(high)))
    return spans[0], spans[1]


def _along_across(grid: tuple[Map, Map], window: tuple[slice, slice], bone: _Bone) -> tuple[Map, Map]:
    """Coordinates in a bone's own frame: along its axis (0..length) and across it, the bend taken out."""
    x, y = grid[0][:, window[1]] - bone.start[0], grid[1][window[0]] - bone.start[1]
    axis = np.subtract(bone.end, bone.start) / bone.length
    along = (x * np.float32(axis[0]) + y * np.float32(axis[1])).astype(np.float32)
    across = (y * np.float32(axis[0]) - x * np.float32(axis[1])).astype(np.float32)
    share = np.clip(along / np.float32(bone.length), 0, 1)
    return along, across - np.float32(4 * bone.bend) * share * (1 - share)


def _half_chord(along: Map, across: Map, radius: Map | float, length: float) -> Map:
    """Half the way of a ray through a tube with round ends, at each pixel."""
    beyond = np.maximum(np.maximum(-along, along - np.float32(length)), 0)
    squared = np.square(radius) - across * across - beyond * beyond
    return np.asarray(np.sqrt(np.maximum(squared, 0)), dtype=np.float32)


def _add_bone(total: Map, grid: tuple[Map, Map], bone: _Bone, broken: _Fracture | None, size: int) -> None:
    widest = bone.radius * (1 + max(bone.flare))
    window = _window(grid, bone, widest * (2.2 if broken else 1.1))
    if window[0].start >= window[0].stop or window[1].start >= window[1].stop:
        return
    along, across = _along_across(grid, window, bone)
    keep: Map | None = None
    if broken is not None:
        line = _break_line(broken, bone, across)
        far = along > line
        swing = np.float32(broken.step * bone.radius) + np.float32(broken.angle) * (along - line)
        across = np.where(far, across - swing, across)
        off = np.abs(along - line)
        keep = 1 - np.float32(broken.depth) * np.clip(1.5 - off / np.float32(broken.gap), 0, 1)
        lip = np.exp(-np.square((off - np.float32(2.2 * broken.gap)) / np.float32(1.2 * broken.gap)))
        keep = keep + np.float32(0.10 * broken.depth) * lip
    share = along / np.float32(bone.length)
    ends = bone.flare[0] * np.exp(-np.square(share / 0.14)) + bone.flare[1] * np.exp(-np.square((share - 1) / 0.14))
    outer = np.float32(bone.radius) * (1 + ends.astype(np.float32))
    cortex = np.float32(0.70) - 0.12 * np.minimum(ends, 1)
    inner = outer * (cortex + np.float32(0.28) * np.minimum(ends, 1))
    body = _half_chord(along, across, outer, bone.length) - np.float32(0.80) * _half_chord(
        along, across, inner, bone.length
    )
    chord = 2 * body if keep is None else 2 * body * keep
    total[window] += chord * np.float32(9.0 * bone.density)


def _break_line(broken: _Fracture, bone: _Bone, across: Map) -> Map:
    """Where along the bone the break lies, as a function of the position across it."""
    v = across / np.float32(bone.radius)
    one, two, strength = broken.jag
    wobble = strength * (0.5 * np.sin(3.1 * v + one) + 0.3 * np.sin(7.3 * v + two))
    result: Map = (broken.at * bone.length + bone.radius * (broken.slope * v + 0.6 * wobble)).astype(np.float32)
    return result


def _add_tissue(total: Map, grid: tuple[Map, Map], bone: _Bone, part: str) -> None:
    """Soft tissue around a bone; squared chords, of which the largest counts (limbs merge, they do not add up)."""
    radius = bone.radius * (1.9 if part == "hand" else 2.9) + 0.012
    window = _window(grid, bone, radius)
    if window[0].start >= window[0].stop or window[1].start >= window[1].stop:
        return
    along, across = _along_across(grid, window, bone)
    chord = 2 * _half_chord(along, across, radius, bone.length)
    total[window] = np.maximum(total[window], np.square(chord * np.float32(4.0)))


def _cloud(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Map:
    """Smooth noise of unit deviation with about ``cells`` cells along the longer side."""
    longest = max(shape)
    coarse = rng.standard_normal([max(2, round(cells * side / longest)) for side in shape]).astype(np.float32)
    fine = zoom(coarse, [side / own for side, own in zip(shape, coarse.shape, strict=True)], order=1)
    return np.asarray(fine[: shape[0], : shape[1]] / max(float(fine.std()), 1e-6), dtype=np.float32)


def _exposed(attenuation: Map, view: np.random.Generator, size: int) -> Map:
    """Exposure, scatter, film curve and noise; none of it depends on the label."""
    height, width = attenuation.shape
    drift = 0.06 * view.standard_normal(2)
    shade = drift[0] * np.linspace(-1, 1, width)[None, :] + drift[1] * np.linspace(-1, 1, height)[:, None]
    scatter = gaussian_filter(attenuation, size / 14)
    mixed = attenuation + float(view.uniform(0.1, 0.4)) * scatter
    scaled = mixed / max(float(np.percentile(mixed, 99.5)), 1e-6)
    gain, gamma, fog = float(view.uniform(0.6, 1.15)), float(view.uniform(0.65, 1.4)), float(view.uniform(0.0, 0.16))
    image = fog + gain * np.power(np.maximum(scaled, 0), gamma) + shade * 0.5
    grain = float(view.uniform(0.008, 0.035))
    noise = view.standard_normal(image.shape).astype(np.float32)
    blurred = gaussian_filter(view.standard_normal(image.shape).astype(np.float32), 0.8) * 1.8
    return np.asarray(image + grain * (0.6 + 0.6 * image) * (0.6 * noise + 0.6 * blurred), dtype=np.float32)


def _collimated_and_marked(image: Map, view: np.random.Generator, size: int) -> Map:
    height, width = image.shape
    if view.random() < 0.5:
        edges = (view.uniform(0, 0.09, 4) * np.array([height, height, width, width])).astype(int)
        dark = float(view.uniform(0.0, 0.06))
        image[: edges[0]] = image[height - edges[1] :] = dark
        image[:, : edges[2]] = image[:, width - edges[3] :] = dark
    if view.random() < 0.65:
        letter, corner = str(view.choice(["L", "R"])), view.integers(0, 4)
        drawn = Image.new("L", (width, height))
        high = max(8, round(size * float(view.uniform(0.06, 0.09))))
        x = round(width * (0.05 if corner % 2 == 0 else 0.86))
        y = round(height * (0.05 if corner < 2 else 0.85))
        ImageDraw.Draw(drawn).text((x, y), letter, fill=255, font=ImageFont.load_default(high))
        mark = np.asarray(drawn, dtype=np.float32) / 255
        image = np.maximum(image, mark * np.float32(view.uniform(0.8, 1.0)))
    return image


def _fracture_box(bone: _Bone, broken: _Fracture, height: int, width: int, size: int) -> Box:
    """Bounding box of the break across the bone, with a margin, clipped to the image; shares of width and height."""
    across = np.linspace(-1.15, 1.15, 21).astype(np.float32) * np.float32(bone.radius)
    along = _break_line(broken, bone, across) / bone.length
    points = np.array([_point(bone, float(t), float(d)) for t, d in zip(along, across, strict=True)])
    moved = points + (points[-1] - points[0]) * 0.5 * broken.step
    points = np.concatenate([points, moved]) if broken.step else points
    margin = 2.5 * broken.gap + 0.01
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    extent = np.array([width, height]) / size
    x0, y0 = np.clip(low / extent + 0.5, 0, 1)
    x1, y1 = np.clip(high / extent + 0.5, 0, 1)
    return float(x0), float(y0), float(x1), float(y1)


def _turned(
    pixels: npt.NDArray[np.uint8], boxes: list[Box], view: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], list[Box]]:
    """Mirror the image, or lay it on its side, now and then; the boxes go along."""
    array: npt.NDArray[Any] = pixels
    if view.random() < 0.5:
        array, boxes = array[:, ::-1], [(1 - x1, y0, 1 - x0, y1) for x0, y0, x1, y1 in boxes]
    if view.random() < 0.15:
        array, boxes = np.rot90(array), [(y0, 1 - x1, y1, 1 - x0) for x0, y0, x1, y1 in boxes]
    return np.ascontiguousarray(array), boxes
