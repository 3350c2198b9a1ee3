"""``radtransfer learning-curve``: an ordinary run, or a cross-fitting, for each label fraction, then one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from radtransfer.apart import apart
from radtransfer.config import RunConfig
from radtransfer.configfile import validate
from radtransfer.datasets.fetch import located
from radtransfer.errors import RadtransferError
from radtransfer.progress import console
from radtransfer_pipelines import crossfit
from radtransfer_pipelines import members as runs
from radtransfer_pipelines.local import requested
from radtransfer_pipelines.members import Member
from radtransfer_pipelines.plan import Work, plans, show

PREFIX = "fraction-"
RESULTS = ("learning_curve.html", "learning_curve.json")


def learning_curve(
    config: RunConfig,
    *,
    data_root: str | Path,
    out: Path,
    fractions: Sequence[float],
    folds: int = 0,
    repeats: int = 1,
    dry_run: bool = False,
) -> Path | None:
    """Measure what each TL source reaches with fewer labels of the target.

    For each label fraction one run of :func:`radtransfer_pipelines.local.run_local` in ``out/fraction-<F>``, or those
    of a cross-fitting in ``out/fraction-<F>/seed<S>-fold<N>``; the smallest fraction comes first, so that one that is
    too small is found at once. Pre-training is done once for each seed, see :mod:`radtransfer_pipelines.members`.
    Finished runs are kept, an unfinished one is taken up; more fractions or repeats can be asked for later. Nothing of
    a run's test results is read before all are finished.

    Args:
        config: what to run; with ``label_fraction`` 1, and for a cross-fitting without ``test_fold`` and
            ``previous_splits``.
        data_root: as for :func:`~radtransfer_pipelines.local.run_local`; resolved once for all runs.
        out: folder for all runs: new, empty, or of a learning curve with the same configuration, data, code and folds.
        fractions: two label fractions or more, above 0, 1 at most.
        folds: of a cross-fitting; 0: one run for each fraction.
        repeats: seeds of the cross-fitting.
        dry_run: look, say how many runs are left and about how long they take, and leave nothing.

    Returns:
        Path of the page over all fractions; None of a dry run.

    Raises:
        RadtransferError: something is amiss with the arguments (found before anything is computed), or a run failed.
    """
    out = out.absolute()
    by_fraction = _members(config, out, fractions, folds, repeats)
    members = runs.share([member for its in by_fraction.values() for member in its])
    with located(data_root, (config.target_path, config.source_path)) as place:
        asked, images = requested(members[0].config, place, None)
        runs.check_images(config, images[0], repeats)
        _check_folder(out, by_fraction, folds)
        runs.check_finished(members, asked["identity"], out)
        left = [member for member in members if not member.finished]
        if left:
            configs = [its[0].config for its in by_fraction.values()]
            works = dict(zip(by_fraction, apart(plans, configs, *images), strict=True))
            show(configs[-1], works[max(works)])
            minutes = {share: _minutes(left, share, works[share]) for share in works}
            _show(by_fraction, left, minutes)
            seeds = ", ".join(str(seed) for seed in dict.fromkeys(member.config.seed for member in members))
            what = f"{len(works)} label fractions; {f'{folds} folds; ' if folds else ''}seeds {seeds}"
            runs.announce(members, what, sum(minutes.values()))
        if dry_run:
            return None
        runs.make(members, place.pinned, out)
    return _page(config, out, [out / _name(share) for share in by_fraction])


def _members(
    config: RunConfig, out: Path, fractions: Sequence[float], folds: int, repeats: int
) -> dict[float, list[Member]]:
    """The runs of each fraction, the smallest first."""
    shares = sorted(set(fractions))
    if len(shares) < max(2, len(fractions)) or not 0 < shares[0] <= shares[-1] <= 1:
        raise RadtransferError(
            f"--fractions {','.join(f'{share:g}' for share in fractions)}: expected two or more, each once, above 0, 1 "
            "at most"
        )
    if config.label_fraction != 1:
        raise RadtransferError("learning-curve sets label_fraction by itself; leave it out of the configuration")
    if repeats != 1 and not folds:
        raise RadtransferError(
            f"--repeats {repeats}: another seed tests other images, unless --folds has every image tested; give both"
        )
    found = {}
    for share in shares:
        own = validate(config.model_dump() | {"label_fraction": share}, f"label fraction {share:g}")
        folder = out / _name(share)
        found[share] = runs.of_folds(own, folder, folds, repeats) if folds else [Member(folder, own)]
    return found


def _name(fraction: float) -> str:
    return f"{PREFIX}{fraction:g}"


def _check_folder(out: Path, by_fraction: dict[float, list[Member]], folds: int) -> None:
    """Whether there is nothing in the folder but runs of fractions, as asked for, and their common results."""
    from radtransfer.evaluation.finished import FOLD_FOLDER

    if out.exists() and not out.is_dir():
        raise RadtransferError(f"--out {out}: is a file; name a folder that is new, empty or of a learning curve")
    for path in sorted(out.iterdir()) if out.exists() else []:
        if path.name not in RESULTS and not path.name.startswith(PREFIX):
            raise RadtransferError(
                f"--out {out}: holds {path.name}, which is of no learning curve; name a new or empty folder"
            )
    for share in by_fraction:
        folder = out / _name(share)
        if folds:
            runs.check_folds(folder, folds, crossfit.RESULTS)
        elif folder.is_dir() and any(FOLD_FOLDER.fullmatch(path.name) for path in folder.iterdir()):
            raise RadtransferError(f"--out {folder}: holds a cross-fitting; give its --folds, or name another folder")


def _minutes(left: Sequence[Member], fraction: float, work: Sequence[Work]) -> float:
    return sum(member.minutes(work) for member in left if member.config.label_fraction == fraction)


def _show(by_fraction: dict[float, list[Member]], left: Sequence[Member], minutes: dict[float, float]) -> None:
    table = Table(title="learning curve: what is left")
    for heading in ("label fraction", "runs", "left", "minutes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for share, members in by_fraction.items():
        count = sum(member.config.label_fraction == share for member in left)
        table.add_row(f"{share:g}", str(len(members)), str(count), f"{minutes[share]:.1f}")
    console.print(table)


def _page(config: RunConfig, out: Path, folders: list[Path]) -> Path:
    from radtransfer.evaluation.curve_page import show as show_curve
    from radtransfer.evaluation.learning_curve import measure_curve, write

    curve = measure_curve(folders, bootstrap=config.bootstrap, seed=config.seed)
    page = write(curve, out)
    show_curve(curve.model_dump(mode="json"))
    print(page)
    return page
