"""Leakage groups: images that must stay on one side of a split.

Images of one patient belong together. Where a data set has no patient ids, so do exact duplicates and near duplicates:
the same exposure with and without markers, cut off, or processed anew, and neighbouring slices of one CT scan.

Every image is seen at 144 x 144 px, its aspect ignored (:mod:`~radtransfer.preprocess.fingerprint`). Two descriptors
say how alike two images are:

* likeness: correlation of the 48 x 48 reduction after local standardisation (local mean taken out, divided by the local
  deviation), so that exposure, window and overall shading do not count;
* agreement: median over 15 px tiles of the correlation of fine detail (a Gaussian of 1.5 px taken out), over the tiles
  that hold structure in both images; a marker or a lost strip spoils few tiles, and the detector's fixed pattern and
  the film's edges are left out.

Measured on the 3,039 readable of 3,066 FracAtlas files: of 4.6 million pairs 869 have a likeness above 0.6. Agreement
parts them: 105 pairs, by eye the same exposure, have 0.80 to 1; two more (one exposure processed twice, one pair in
doubt) 0.62 and 0.49; two views with neighbouring file numbers 0.45; all others less than 0.40. Exposures that were
processed anew or turned are among those, but they carry neighbouring file numbers, so there likeness alone decides (81
of 6,595 such pairs; this also joins some views of one patient). One more exposure, there in two crops, has a likeness
of 0.55 and an agreement of 0.75; of the other pairs with a likeness of 0.5 to 0.6 the highest agreement is 0.57.
`benchmarks/pairs.csv` lists what was looked at, `benchmarks/duplicates.py` prints it. Together 186 pairs in 156 groups
of two or three.

Measured on IQ-OTH/NCCD (793 slices, no case ids): slices of the classes normal and malignant, which are never of one
case, have a likeness of at most 0.43. With the limits below a 5-nearest-neighbour classifier on 64 x 64 pixels tells
normal from benign (5-fold, 3 seeds) at AUROC 0.46, where it reaches 0.98 with slices split at random. 69 groups are
found: 24 with normal, 18 with benign, 29 with malignant slices, two of them with two classes (the full set: 110 cases).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from radtransfer.preprocess.fingerprint import COARSE
from radtransfer.preprocess.pixels import Grey

_TILES = 8
_MARGIN = 12
_NEIGHBOURS = 3
_PROJECTED = 256
_CANDIDATES = 32
_BLOCK = 4096


class Thumbnails(Protocol):
    """Thumbnails by position, held anywhere."""

    def __getitem__(self, position: int, /) -> Grey: ...


@dataclass(frozen=True)
class Limits:
    """What counts as a near duplicate.

    Attributes:
        agreement: least agreement of two images above this likeness, the highest likeness first; None: it suffices.
        numbered: least likeness where the file numbers differ by at most three; there likeness suffices, whichever
            way up the images are.
    """

    agreement: tuple[tuple[float, float | None], ...]
    numbered: float

    @property
    def likeness(self) -> float:
        """Least likeness of any two images whose numbers say nothing."""
        return self.agreement[-1][0]

    def least_agreement(self, likeness: float) -> float | None:
        """What two images of this likeness, which is above the least, need; None: nothing more."""
        return next(least for above, least in self.agreement if likeness > above)


RADIOGRAPHS = Limits(agreement=((0.6, 0.4), (0.5, 0.7)), numbered=0.5)
SLICES = Limits(agreement=((0.5, None),), numbered=0.25)


def near_duplicates(
    descriptors: npt.NDArray[np.int8],
    files: Sequence[str],
    thumbnails: Thumbnails,
    limits: Limits,
    series: Sequence[str] | None = None,
) -> list[tuple[int, int]]:
    """Pairs of near duplicates.

    Not all pairs are compared: time grows about like N log N and memory by 3.5 KiB an image.

    Args:
        descriptors: int8 [N, 2304] of :func:`descriptor`.
        files: their names, POSIX.
        thumbnails: their thumbnails, by position.
        limits: what counts.
        series: the data set in which each was numbered: only within one do file numbers say anything; empty: its number
            says nothing. None: all are of one.
    """
    pairs = [
        pair
        for pair in _numbered(files, series or ["all"] * len(files))
        if _turned_likeness(descriptors, *pair) > limits.numbered
    ]
    for i, j, likeness in _alike(descriptors, limits.likeness):
        least = limits.least_agreement(likeness)
        if least is None or _agreement(thumbnails[i], thumbnails[j]) > least:
            pairs.append((i, j))
    return sorted(set(pairs))


def groups(count: int, joined: Iterable[tuple[int, int]], keys: Sequence[Iterable[str]]) -> npt.NDArray[np.int64]:
    """Connected components of images that share a key (patient, digest) or are joined by a pair.

    Args:
        count: number of images.
        joined: pairs of positions.
        keys: of each image.

    Returns:
        int64 [count], equal where images belong together; numbered by first appearance.
    """
    pairs = list(joined)
    first: dict[str, int] = {}
    for position, its in enumerate(keys):
        pairs += [(first.setdefault(key, position), position) for key in its]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs), dtype=bool), (rows, columns)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    _, first_seen, inverse = np.unique(labels, return_index=True, return_inverse=True)
    result: npt.NDArray[np.int64] = np.argsort(np.argsort(first_seen))[inverse].astype(np.int64)
    return result


def _alike(descriptors: npt.NDArray[np.int8], limit: float) -> Iterator[tuple[int, int, float]]:
    """Pairs with a likeness above ``limit``, and that: candidates compared in full."""
    candidates = _candidates(descriptors)
    for block in (candidates[start : start + _BLOCK] for start in range(0, len(candidates), _BLOCK)):
        one, other = (_unit(descriptors[block[:, side]]) for side in (0, 1))
        likeness = np.einsum("pd,pd->p", one, other)
        for (i, j), value in zip(block[likeness > limit], likeness[likeness > limit], strict=True):
            yield int(i), int(j), float(value)


def _candidates(descriptors: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    """Each image and the 32 that are likely its nearest, int64 [pairs, 2], the lower position first.

    Neighbours in a graph of small worlds (HNSW; Malkov and Yashunin, IEEE TPAMI 42, 2020; faiss has it) over a random
    projection, which keeps distances (Johnson and Lindenstrauss). Of an image with more than 32 duplicates some are
    not found, but those are found among themselves.
    """
    import faiss  # takes a while, and only this needs it: not the processes that decode

    count = len(descriptors)
    projection = np.random.default_rng(0).standard_normal((COARSE**2, _PROJECTED)).astype(np.float32)
    projection /= np.float32(np.sqrt(_PROJECTED))
    blocks = (descriptors[start : start + _BLOCK] for start in range(0, count, _BLOCK))
    points = np.concatenate([np.empty((0, _PROJECTED), np.float32), *(_unit(block) @ projection for block in blocks)])
    index = faiss.IndexHNSWFlat(_PROJECTED, 16)
    index.hnsw.efConstruction, index.hnsw.efSearch = 80, 64
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # with more the graph, and what is found by it, depends on chance
    try:
        index.add(points)
        _, nearest = index.search(points, min(_CANDIDATES + 1, max(count, 1)))
    finally:
        faiss.omp_set_num_threads(threads)
    here = np.repeat(np.arange(count), nearest.shape[1] if count else 0)
    pairs = np.stack([here, nearest.ravel().astype(np.int64)], axis=1)
    pairs = pairs[(pairs[:, 1] >= 0) & (pairs[:, 0] != pairs[:, 1])]
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _unit(descriptors: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    values = descriptors.astype(np.float32)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    result: npt.NDArray[np.float32] = values / np.maximum(length, 1)
    return result


def _numbered(files: Sequence[str], series: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of a series whose names differ in their last number only, by at most three; at most three an image."""

    def place(position: int) -> tuple[str, str, int, str]:
        stem = PurePosixPath(files[position]).stem
        numbers = re.findall(r"\d{1,12}", stem)
        return series[position], re.sub(r"\d+", "#", stem), int(numbers[-1]) if numbers else -1, files[position]

    ordered = sorted((*place(position), position) for position in range(len(files)) if series[position])
    for here, (*name, number, _, position) in enumerate(ordered):
        for *other_name, other_number, _, other in ordered[here + 1 : here + 1 + _NEIGHBOURS]:
            if number >= 0 and name == other_name and other_number - number <= _NEIGHBOURS:
                yield min(position, other), max(position, other)


def _turned_likeness(descriptors: npt.NDArray[np.int8], i: int, j: int) -> float:
    """Highest likeness over the eight ways to turn and mirror the second image."""
    one, other = _unit(descriptors[[i]])[0], _unit(descriptors[[j]])[0].reshape(COARSE, COARSE)
    sides = (other, other.T)
    return max(float(one @ np.rot90(side, turns).ravel()) for side in sides for turns in range(4))


def _agreement(one: Grey, other: Grey) -> float:
    (a, spread_a), (b, spread_b) = _tiles(one), _tiles(other)
    structured = (spread_a > 2) & (spread_b > 2)
    return float(np.median((a * b).sum(axis=1)[structured])) if structured.sum() >= 3 else -1.0


def _tiles(small: Grey) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
    values = small.astype(np.float32)
    inner = (values - cv2.GaussianBlur(values, (13, 13), 1.5, borderType=cv2.BORDER_REFLECT))[
        _MARGIN:-_MARGIN, _MARGIN:-_MARGIN
    ]
    side = inner.shape[0] // _TILES
    tiles = inner.reshape(_TILES, side, _TILES, side).swapaxes(1, 2).reshape(_TILES**2, side * side)
    tiles = tiles - tiles.mean(axis=1, keepdims=True)
    return tiles / np.maximum(np.linalg.norm(tiles, axis=1, keepdims=True), 1e-6), tiles.std(axis=1)
