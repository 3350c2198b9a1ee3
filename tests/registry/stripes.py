"""Phantoms whose class stripes tell: a task that a tiny network learns within a minute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from radtransfer.datasets.phantoms import TABLE, make_phantoms


def striped(folder: Path, images: int) -> Path:
    """Draw ``images`` phantoms of each of two parts; more images are the same and others.

    Stripes that stand or lie tell the class, in nine images of ten; to a grey-level histogram they are the same.
    """
    make_phantoms(folder, images, ["hand", "knee"], size=80, seed=1)
    for row in pd.read_csv(folder / TABLE).itertuples():
        draw = np.random.default_rng(list(str(row.file).encode()))
        pixels = np.asarray(Image.open(folder / str(row.file))).copy()
        stripes = np.tile(np.repeat([40, 200], 4), (24, 3)).astype(np.uint8)
        standing = (row.label == "fractured") ^ (draw.random() < 0.1)
        y, x = (int(draw.integers(10, side - 34)) for side in pixels.shape)
        pixels[y : y + 24, x : x + 24] = stripes if standing else stripes.T
        Image.fromarray(pixels).save(folder / str(row.file))
    return folder
