"""Boxes in YOLO's annotation files."""

from __future__ import annotations

import math
from pathlib import Path

from radtransfer.datasets.records import Box
from radtransfer.errors import RadtransferError


def yolo_boxes(path: Path, wanted: int | None = None) -> tuple[Box, ...]:
    """Boxes of a YOLO annotation file (lines ``class cx cy w h``, shares of the upright image), clipped to the image.

    Args:
        path: the file.
        wanted: number of the class whose boxes to take; None: all.

    Raises:
        RadtransferError: a line is not of that form, or the file is not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise RadtransferError(f"{path}: not a text file; get it again") from None
    boxes = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            words = [float(word) for word in line.split()]
        except ValueError:
            words = []
        if len(words) != 5 or not all(map(math.isfinite, words)):
            raise RadtransferError(f"{path}, line {number}: expected 'class cx cy w h', got {line[:80]!r}")
        kind, centre_x, centre_y, width, height = words
        if wanted is not None and kind != wanted:
            continue
        x0, x1 = (min(max(centre_x + side * width / 2, 0.0), 1.0) for side in (-1, 1))
        y0, y1 = (min(max(centre_y + side * height / 2, 0.0), 1.0) for side in (-1, 1))
        boxes.append((x0, y0, x1, y1))
    return tuple(boxes)
