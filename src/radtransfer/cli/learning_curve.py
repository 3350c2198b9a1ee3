"""``radtransfer learning-curve``: what fewer labels cost each transfer-learning source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radtransfer.cli.options import DataRoot


def learning_curve(
    config: Annotated[Path, typer.Option(help="YAML file; see configs/.")],
    data_root: DataRoot,
    out: Annotated[Path, typer.Option(help="Folder for all runs: new, empty, or of the same learning curve.")],
    fractions: Annotated[
        str, typer.Option(help="Shares of the target's train and validation labels, with commas.")
    ] = "0.1,0.25,0.5,1",
    folds: Annotated[
        int, typer.Option(min=0, help="Cross-fit each fraction with so many folds; 0: one split, one run each.")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Times the cross-fitting is done, each with another seed.")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value; overrides the file. Repeatable.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say how many runs are left and about how long they take; do nothing.")
    ] = False,
) -> None:
    """Learn from fewer and fewer labels: where does in-domain pre-training help, and how many labels is it worth?

    One run, or cross-fitting, for each label fraction on the same test images; pre-training is done once. Started
    again, it goes on where it was; with more fractions or repeats it adds them.
    """
    from radtransfer.config import load
    from radtransfer.errors import RadtransferError
    from radtransfer_pipelines.learning_curve import learning_curve as all_runs

    try:
        shares = [float(share) for share in fractions.split(",")]
    except ValueError:
        raise RadtransferError(f"--fractions {fractions}: expected numbers with commas, e.g. 0.1,0.25,0.5,1") from None
    all_runs(
        load(config, set_ or []), data_root=data_root, out=out, fractions=shares, folds=folds, repeats=repeats,
        dry_run=dry_run,
    )  # fmt: skip
