"""``radtransfer crossfit``: repeated grouped cross-fitting, one ordinary run for each seed and fold, then pooled."""

from __future__ import annotations

from pathlib import Path

from radtransfer.apart import apart
from radtransfer.config import RunConfig
from radtransfer.datasets.fetch import located
from radtransfer_pipelines import members as runs
from radtransfer_pipelines.local import requested
from radtransfer_pipelines.plan import plan, show

RESULTS = ("comparison.html", "comparison.json")


def crossfit(
    config: RunConfig, *, data_root: str | Path, out: Path, folds: int, repeats: int = 1, dry_run: bool = False
) -> Path | None:
    """Test every image of the target once for each seed, by models that have not seen its leakage group.

    For each repeat (seed = the configuration's + 0, 1, ...) and fold one run of
    :func:`radtransfer_pipelines.local.run_local` in ``out/seed<S>-fold<F>``. Finished ones are kept, an unfinished one
    is taken up; more repeats can be asked for later. Nothing of a run's test results is read before all are finished.

    Pre-training is done once for each seed and taken up by its other folds, see :mod:`radtransfer_pipelines.members`.

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
    members = runs.share(runs.of_folds(config, out, folds, repeats))
    with located(data_root, (config.target_path, config.source_path)) as place:
        asked, images = requested(members[0].config, place, None)
        runs.check_images(config, images[0], repeats)
        runs.check_folds(out, folds, RESULTS)
        runs.check_finished(members, asked["identity"], out)
        left = [member for member in members if not member.finished]
        if left:
            work = apart(plan, members[0].config, *images)
            show(members[0].config, work)
            seeds = ", ".join(str(seed) for seed in dict.fromkeys(member.config.seed for member in members))
            runs.announce(members, f"{folds} folds; seeds {seeds}", sum(member.minutes(work) for member in left))
        if dry_run:
            return None
        runs.make(members, place.pinned, out)
    return _pool(config, out)


def _pool(config: RunConfig, out: Path) -> Path:
    from radtransfer.evaluation.comparison import compare_runs, write
    from radtransfer.evaluation.comparison_page import show as show_comparison

    comparison = compare_runs([out], bootstrap=config.bootstrap, seed=config.seed)
    page = write(comparison, out)
    show_comparison(comparison.model_dump(mode="json"))
    print(page)
    return page
