"""What can be wrong with a file of a data set, and what a run does about it.

A problem with an image that is kept is one of the flags in its store's manifest; a problem for which a file was left
out stands beside it in the list of rejected files. So a store says by itself what was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from radtransfer.errors import RadtransferError, near

Policy = Literal["repair", "skip", "fail"]


@dataclass(frozen=True)
class Problem:
    """One that may be found.

    Attributes:
        what: what is wrong.
        repair: what makes the file usable all the same; empty: nothing does.
    """

    what: str
    repair: str = ""

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Those that make sense; the first is the default."""
        return ("repair", "skip", "fail") if self.repair else ("skip", "fail")


PROBLEMS = {
    "unplaced": Problem("the layout cannot place it: no row of the table names it, or it lies in no class folder"),
    "empty": Problem("it holds no bytes"),
    "unreadable": Problem("it is no PNG, JPEG or DICOM file, is damaged, or too large to be decoded"),
    "constant": Problem("every pixel has the same value"),
    "truncated": Problem(
        "its last bytes are missing", "what they held is black, if that is at most a tenth of a JPEG; else left out"
    ),
    "exif_rotated": Problem("it lies turned or mirrored, says its EXIF orientation", "turned upright"),
    "burnt_in_text": Problem(
        "its DICOM header says that text which identifies the patient is burnt into its pixels (BurnedInAnnotation); "
        "export it anew with that text masked and the header set to NO"
    ),
    "colour": Problem("it has colours", "luminance is taken"),
    "label_conflict": Problem(
        "its data set gives it two labels", "the one that the layout goes by is taken; where there is none, left out"
    ),
    "unlike_duplicate": Problem("a duplicate or near duplicate has the other label", "both are kept, in one split"),
    "leak": Problem(
        "a target image, one of the publisher's test set, or, where the set is external, any image of the run is its "
        "duplicate or of the same patient"
    ),
}


class Rejected(NamedTuple):
    """A file that was left out.

    Attributes:
        file: its path, or what artifacts call it.
        problem: one of :data:`PROBLEMS`; empty where nothing is wrong with it.
        reason: why, in words.
    """

    file: str
    problem: str
    reason: str


def policies(given: Mapping[str, Any]) -> dict[str, Policy]:
    """The policy for every problem: as given, else its default.

    - ``repair``: make the file usable and flag it; what cannot be repaired is left out.
    - ``skip``: leave the file out and list it.
    - ``fail``: stop before anything is written.

    Raises:
        RadtransferError: an unknown problem, or a policy that does not suit it.
    """
    chosen = {name: problem.policies[0] for name, problem in PROBLEMS.items()}
    for name, policy in given.items():
        if name not in PROBLEMS:
            raise RadtransferError(f"unknown problem {name!r}; {near(str(name), PROBLEMS)}")
        if policy not in PROBLEMS[name].policies:
            hint = near(str(policy), PROBLEMS[name].policies)
            raise RadtransferError(f"{name}: {policy!r} is no policy for it; {hint}")
        chosen[name] = policy
    return chosen
