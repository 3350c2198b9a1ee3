"""Runs that belong together, as the folds of a cross-fitting do: which there are, which are left, how long they take.

They would pre-train the same models to the bit: ``preprocess`` leaves out every source image in the group of *any*
target image, whatever its split, and deals the source by the seed alone, so that the source store is the same in all
folds and for all label fractions of a seed. One of them therefore pre-trains, and the others take its models up;
:func:`radtransfer.training.reuse.take_up` holds every run to it: a model that has seen an image outside the run's own
source images is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radtransfer.artifacts import read_json
from radtransfer.config import MAX_FOLDS, RunConfig
from radtransfer.configfile import validate
from radtransfer.errors import RadtransferError
from radtransfer.progress import console
from radtransfer_pipelines import outfolder
from radtransfer_pipelines.local import run_local
from radtransfer_pipelines.plan import Work


@dataclass(frozen=True)
class Member:
    """One run.

    Attributes:
        out: its folder.
        config: its configuration.
        takes_up: folder ``pretrained`` of the run whose models it takes up; None: it pre-trains by itself, or takes up
            those that its configuration names.
    """

    out: Path
    config: RunConfig
    takes_up: Path | None = None

    @property
    def finished(self) -> bool:
        return (self.out / outfolder.FINISHED).is_file()

    def minutes(self, work: Sequence[Work]) -> float:
        """What is to be done of the work of a run with its configuration."""
        return sum(row.seconds for row in work if not (self.takes_up and row.step == "pretrain")) / 60


def of_folds(config: RunConfig, out: Path, folds: int, repeats: int) -> list[Member]:
    """The runs of a cross-fitting, in the order in which they are made.

    Raises:
        RadtransferError: numbers out of range, or a configuration that cuts the target otherwise.
    """
    if not 2 <= folds <= MAX_FOLDS or repeats < 1:
        raise RadtransferError(
            f"--folds {folds} --repeats {repeats}: expected 2 to {MAX_FOLDS} folds, 1 or more repeats"
        )
    if config.test_fold or config.previous_splits:
        raise RadtransferError("crossfit cuts the target into folds by itself; leave test_fold and previous_splits out")
    return [
        Member(
            out / f"seed{seed}-fold{fold}",
            validate(config.model_dump() | {"seed": seed, "test_fold": [fold, folds]}, f"fold {fold} of {folds}"),
        )
        for seed in range(config.seed, config.seed + repeats)
        for fold in range(1, folds + 1)
    ]


def share(members: Sequence[Member]) -> list[Member]:
    """Let the runs of a seed take up what one of them pre-trained: one that is finished, or else the first."""
    donors: dict[int, Member] = {}
    for member in sorted(members, key=lambda one: not one.finished):
        donors.setdefault(member.config.seed, member)
    return [
        member
        if member.config.pretrained_models or member is donors[member.config.seed]
        else replace(member, takes_up=donors[member.config.seed].out / "pretrained")
        for member in members
    ]


def check_images(config: RunConfig, target: int, repeats: int) -> None:
    """See that every seed tests the same images.

    Args:
        config: what is run.
        target: images of the target, as capped.
        repeats: number of seeds.
    """
    if config.max_images and repeats > 1 and target >= config.max_images:
        raise RadtransferError(
            f"max_images = {config.max_images} keeps other target images for every seed, so that repeats would not "
            "test the same; leave max_images out, or use --repeats 1"
        )


def check_folds(out: Path, folds: int, results: Sequence[str]) -> None:
    """See that there is nothing in the folder but runs with as many folds and their common results."""
    from radtransfer.evaluation.finished import FOLD_FOLDER

    if out.exists() and not out.is_dir():
        raise RadtransferError(f"--out {out}: is a file; name a folder that is new, empty or of a cross-fitting")
    for path in sorted(out.iterdir()) if out.exists() else []:
        if path.name not in results and not FOLD_FOLDER.fullmatch(path.name):
            raise RadtransferError(
                f"--out {out}: holds {path.name}, which is of no cross-fitting; name a new or empty folder"
            )
        if (path / outfolder.FINISHED).is_file():
            there = read_json(path / outfolder.FINISHED)["config"]["test_fold"]
            if there[1:] != [folds]:
                raise RadtransferError(
                    f"--out {out}: {path.name} was made with test_fold {there}, asked for are {folds} folds; name "
                    "another folder"
                )


def check_finished(members: Sequence[Member], identity: Mapping[str, Any], out: Path) -> None:
    """See that those that are finished are what would be made now, with this code and these data."""
    from radtransfer.evaluation.finished import unlike

    for member in members:
        if member.finished:
            wanted = {"config": member.config.model_dump(mode="json")} | identity
            found = unlike(read_json(member.out / outfolder.FINISHED), wanted, own=("budget_minutes",))
            if found:
                key, was, now = found
                raise RadtransferError(
                    f"--out {out}: {member.out.relative_to(out)} is finished with {key} {was!r}, asked for is {now!r}; "
                    "name another folder, or remove that one to make it anew"
                )


def announce(members: Sequence[Member], what: str, minutes: float) -> None:
    """Say how many runs there are and how long what is left of them takes."""
    left = sum(not member.finished for member in members)
    console.print(
        f"{len(members)} runs ({what}), {left} of them left: about {minutes:.0f} minutes of training and extraction on "
        "this machine with nothing beside it"
        + (", pre-training once for each seed" if any(member.takes_up for member in members) else ""),
        highlight=False,
        soft_wrap=True,
    )


def make(members: Sequence[Member], data_root: str, out: Path) -> None:
    """Make those that are left, one after another."""
    left = [member for member in members if not member.finished]
    for number, member in enumerate(left, start=1):
        console.print(f"run {number} of {len(left)}: {member.out.relative_to(out)}", highlight=False)
        run_local(member.config, data_root=data_root, out=member.out, takes_up=member.takes_up)
