"""``radtransfer crossfit``: repeated grouped cross-fitting, one ordinary run for each seed and fold, then pooled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radtransfer.apart import apart
from radtransfer.artifacts import read_json
from radtransfer.config import MAX_FOLDS, RunConfig, validate
from radtransfer.datasets.fetch import located
from radtransfer.errors import RadtransferError
from radtransfer.progress import console
from radtransfer_pipelines import outfolder
from radtransfer_pipelines.local import requested, run_local
from radtransfer_pipelines.plan import Work, plan, show

RESULTS = ("comparison.html", "comparison.json")


@dataclass(frozen=True)
class Member:
    """One run of a cross-fitting.

    Attributes:
        out: its folder.
        config: its configuration.
        takes_up: whether it takes the models that the first fold of its seed pre-trained.
    """

    out: Path
    config: RunConfig
    takes_up: bool

    @property
    def finished(self) -> bool:
        return (self.out / outfolder.FINISHED).is_file()


def crossfit(
    config: RunConfig, *, data_root: str | Path, out: Path, folds: int, repeats: int = 1, dry_run: bool = False
) -> Path | None:
    """Test every image of the target once for each seed, by models that have not seen its leakage group.

    For each repeat (seed = the configuration's + 0, 1, ...) and fold one run of
    :func:`radtransfer_pipelines.local.run_local` in ``out/seed<S>-fold<F>``. Finished ones are kept, an unfinished one
    is taken up; more repeats can be asked for later. Nothing of a run's test results is read before all are finished.

    Pre-training is done once for each seed, in its first fold, and taken up by the others. They would pre-train the
    same models to the bit: ``preprocess`` leaves out every source image in the group of *any* target image, whatever
    its split, and deals the source by the seed alone, so that the source store is the same in all folds.
    :func:`radtransfer.training.reuse.take_up` holds every run to it: a model that has seen an image outside the run's
    own source images is refused.

    Args:
        config: what to run; without ``test_fold`` and ``previous_splits``. Models that its ``pretrained_models`` names
            serve all runs.
        data_root: as for :func:`~radtransfer_pipelines.local.run_local`; resolved once for all runs.
        out: folder for all runs: new, empty, or of a cross-fitting with the same configuration, data, code and folds.
        folds: number of folds.
        repeats: number of seeds.
        dry_run: look, say how many runs are left and about how long they take, and leave nothing.

    Returns:
        Path of the page over all runs; None of a dry run.

    Raises:
        RadtransferError: something is amiss with the arguments (found before anything is computed), or a run failed.
    """
    out = out.absolute()
    members = _members(config, out, folds, repeats)
    with located(data_root, (config.target_path, config.source_path)) as place:
        asked, images = requested(members[0].config, place, None)
        if config.max_images and repeats > 1 and images[0] >= config.max_images:
            raise RadtransferError(
                f"max_images = {config.max_images} keeps other target images for every seed, so that repeats would not "
                "test the same; leave max_images out, or use --repeats 1"
            )
        _check_folder(out, folds)
        for member in members:
            if member.finished:
                _check_finished(member, asked["identity"])
        left = [member for member in members if not member.finished]
        if left:
            work = apart(plan, members[0].config, *images)
            show(members[0].config, work)
            _announce(members, left, work, folds)
        if dry_run:
            return None
        for number, member in enumerate(left, start=1):
            console.print(f"run {number} of {len(left)}: {member.out.name}", highlight=False)
            run_local(member.config, data_root=place.pinned, out=member.out)
    return _pool(config, out)


def _members(config: RunConfig, out: Path, folds: int, repeats: int) -> list[Member]:
    """All runs, in the order in which they are made."""
    if not 2 <= folds <= MAX_FOLDS or repeats < 1:
        raise RadtransferError(
            f"--folds {folds} --repeats {repeats}: expected 2 to {MAX_FOLDS} folds, 1 or more repeats"
        )
    if config.test_fold or config.previous_splits:
        raise RadtransferError("crossfit cuts the target into folds by itself; leave test_fold and previous_splits out")
    members = []
    for seed in range(config.seed, config.seed + repeats):
        for fold in range(1, folds + 1):
            takes_up = fold > 1 and not config.pretrained_models
            settings: dict[str, Any] = config.model_dump() | {"seed": seed, "test_fold": [fold, folds]}
            if takes_up:
                settings["pretrained_models"] = str(out / f"seed{seed}-fold1" / "pretrained")
            member = validate(settings, f"fold {fold} of {folds}")
            members.append(Member(out / f"seed{seed}-fold{fold}", member, takes_up))
    return members


def _check_folder(out: Path, folds: int) -> None:
    """Whether there is nothing in the folder but runs with as many folds and their common results."""
    from radtransfer.evaluation.finished import FOLD_FOLDER

    if out.exists() and not out.is_dir():
        raise RadtransferError(f"--out {out}: is a file; name a folder that is new, empty or of a cross-fitting")
    for path in sorted(out.iterdir()) if out.exists() else []:
        if path.name not in RESULTS and not FOLD_FOLDER.fullmatch(path.name):
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


def _check_finished(member: Member, identity: dict[str, Any]) -> None:
    """Whether a finished run is what would be made now."""
    told = read_json(member.out / outfolder.FINISHED)
    wanted = member.config.model_dump(mode="json") | {key: identity[key] for key in ("data_version", "code_version")}
    found = told["config"] | {key: told[key] for key in ("data_version", "code_version")}
    for key, now in wanted.items():
        if key == "budget_minutes" or (key == "pretrained_models" and member.takes_up):
            continue
        if found.get(key) != now:
            raise RadtransferError(
                f"--out {member.out.parent}: {member.out.name} is finished with {key} {found.get(key)!r}, asked for is "
                f"{now!r}; name another folder, or remove that one to make it anew"
            )


def _announce(members: list[Member], left: list[Member], work: list[Work], folds: int) -> None:
    minutes = {
        taken: sum(row.seconds for row in work if not (taken and row.step == "pretrain")) / 60
        for taken in (False, True)
    }
    total = sum(minutes[member.takes_up] for member in left)
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(member.config.seed for member in members))
    console.print(
        f"{len(members)} runs ({folds} folds; seeds {seeds}), {len(left)} of them left: about "
        f"{total:.0f} minutes of training and extraction on this machine with nothing beside it"
        + (", pre-training once for each seed" if any(member.takes_up for member in members) else ""),
        highlight=False,
        soft_wrap=True,
    )


def _pool(config: RunConfig, out: Path) -> Path:
    from radtransfer.evaluation.comparison import compare_runs, write
    from radtransfer.evaluation.comparison_page import show as show_comparison

    comparison = compare_runs([out], bootstrap=config.bootstrap, seed=config.seed)
    page = write(comparison, out)
    show_comparison(comparison.model_dump(mode="json"))
    print(page)
    return page
