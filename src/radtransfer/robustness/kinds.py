"""The graded corruptions of test images: which there are and how strong each grade is.

A table without NumPy, since configurations are checked against it before anything is computed. Kinds and the idea of
five grades are those of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations, ICLR 2019 (noise, Gaussian blur, contrast, JPEG, pixelation); their weaker settings, and weaker ones than
theirs, are taken, since a fracture line is finer than what tells a dog from a cat. What they lack and radiographs have
(another gamma, a tilted or tightly collimated view, a lead marker, a covered part) is this project's choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from radtransfer.errors import RadtransferError, near

GRADES = 5


@dataclass(frozen=True)
class Kind:
    """One kind of corruption.

    Attributes:
        name: in words.
        strength: what the numbers of the grades are.
        grades: strength of grades 1 to :data:`GRADES`; each takes more away than the one before.
    """

    name: str
    strength: str
    grades: tuple[float, ...]


KINDS = {
    "noise": Kind("Noise", "standard deviation, share of the grey scale", (0.02, 0.04, 0.08, 0.12, 0.18)),
    "blur": Kind("Blur", "standard deviation of the Gaussian, 1/224 of the longer side", (0.5, 1, 1.5, 2, 3)),
    "contrast": Kind("Contrast", "share of the contrast that is left", (0.8, 0.6, 0.4, 0.3, 0.2)),
    "gamma": Kind("Gamma", "exponent, or for half of the images 1 over it", (1.2, 1.5, 2, 2.5, 3)),
    "jpeg": Kind("JPEG", "quality", (50, 25, 15, 10, 7)),
    "rotation": Kind("Rotation", "degrees, half of the images to the left", (5, 10, 15, 20, 30)),
    "crop": Kind("Crop", "share of the sides that is left, enlarged to the whole", (0.95, 0.9, 0.8, 0.7, 0.6)),
    "resolution": Kind("Resolution", "share of the pixels along a side that is left", (0.6, 0.5, 0.4, 0.3, 0.25)),
    "marker": Kind("Marker", "height of a white L or R, share of the longer side", (0.05, 0.08, 0.12, 0.16, 0.2)),
    "occlusion": Kind("Occlusion", "sides of a grey rectangle, share of the image's", (0.1, 0.2, 0.3, 0.4, 0.5)),
}
EVERY = "every_kind"
"""Of rows: the mean over all kinds of the run."""


def graded(kind: str, grade: int) -> str:
    """What rows call a kind at a grade, e.g. ``blur-3``."""
    return f"{kind}-{grade}"


def of_suite(change: str) -> bool:
    """Whether a row's ``corruption`` is one of these, graded or summed up."""
    return change == EVERY or change.partition("-")[0] in KINDS


def read_kinds(names: Iterable[str]) -> list[str]:
    """Kinds in the order of the table, each once.

    Raises:
        RadtransferError: there is none of that name.
    """
    given = set(names)
    for name in sorted(given - set(KINDS)):
        raise RadtransferError(f"unknown corruption {name!r}; {near(name, KINDS)}")
    return [name for name in KINDS if name in given]
