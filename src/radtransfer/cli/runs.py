"""What is made of whole runs: them, several of them together, their packages for clusters, and their predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from radtransfer import __version__
from radtransfer.cli.options import DATA_ROOT, DataRoot, Floor, Margin, Out, RegistryOrNone, Seed, Threads
from radtransfer.errors import RadtransferError

Config = Annotated[Path, typer.Option(help="YAML file; see configs/.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="key=value; overrides the file. Repeatable.")]
DryRuns = Annotated[
    bool, typer.Option("--dry-run", help="Say how many runs are left and about how long they take; do nothing.")
]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Does transfer learning from related images, and fusing several networks, help on your medical images?",
)


def _version(asked: bool) -> None:
    if asked:
        print(f"radtransfer {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="Folder for the results: new, empty, or of an unfinished run.")],
    config: Annotated[Path | None, typer.Option(help="YAML file; see configs/.")] = None,
    data_root: Annotated[str, typer.Option(help=f"{DATA_ROOT} With --from: empty: where the bundle says.")] = "",
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="BUNDLE",
            help="Repeat the run of a bundle, a folder or REGISTRY#NAME@VERSION, and hold its figures against it.",
        ),
    ] = "",
    set_: Overrides = None,
    registry: RegistryOrNone = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and about how long it takes, and do nothing.")
    ] = False,
) -> None:
    """Run a whole pipeline on this machine: from the data sets to the report and the model."""
    if (config is None) == (not from_) or (from_ and set_):
        raise RadtransferError("expected --config FILE with or without --set, or --from BUNDLE alone")
    if config is not None and not data_root:
        raise RadtransferError("--config: expected --data-root with it, the folder that holds the data sets")
    if config is None:
        from radtransfer_pipelines.reproduce import reproduce

        reproduce(from_, data_root=data_root, out=out, registry=registry, dry_run=dry_run)
        return
    from radtransfer.configfile import load
    from radtransfer_pipelines.local import run_local

    run_local(load(config, set_ or []), data_root=data_root, out=out, registry=registry, dry_run=dry_run)


@app.command()
def retrain(
    config: Config,
    data_root: DataRoot,
    registry: Annotated[
        str,
        typer.Option(
            envvar="RADTRANSFER_REGISTRY", help="Registry of the models so far: a folder, or s3://BUCKET/PREFIX."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results: new, empty, or of an unfinished run.")],
    set_: Overrides = None,
    margin: Margin = 0.02,
    floor: Floor = 0.6,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and about how long it takes, and do nothing.")
    ] = False,
) -> None:
    """Train anew if data, code or configuration changed, and make the model champion if it is shown to be better.

    Exit code 0: promoted, or unchanged, and then nothing is written; 1: the gate declined it; 2: an error.
    """
    from radtransfer.configfile import load
    from radtransfer_pipelines.retraining import retrain as step

    rules = {"margin": margin, "floor": floor}
    outcome = step(
        load(config, set_ or []), data_root=data_root, out=out, registry=registry, rules=rules, dry_run=dry_run
    )
    if outcome == "declined":
        raise typer.Exit(1)


@app.command()
def preflight(
    config: Config,
    data_root: DataRoot,
    set_: Overrides = None,
    registry: RegistryOrNone = "",
) -> None:
    """See whether a run has what it needs, as its first task does: data, weights, places that can be written."""
    from radtransfer.configfile import read
    from radtransfer.preflight import preflight as look

    given, _ = read(config, set_ or [])
    look(given, data_root=data_root, registry=registry)
    print("nothing is amiss")


@app.command()
def crossfit(
    config: Config,
    data_root: DataRoot,
    out: Annotated[Path, typer.Option(help="Folder for all runs: new, empty, or of the same cross-fitting.")],
    folds: Annotated[int, typer.Option(min=2, help="Folds that the target is cut into; each is tested once a repeat.")],
    repeats: Annotated[int, typer.Option(min=1, help="Times all is done, each with another seed.")] = 1,
    set_: Overrides = None,
    dry_run: DryRuns = False,
) -> None:
    """Test every image of a small target set: one run for each fold and seed, pooled on one page.

    Started again, it goes on where it was; with more repeats it adds them.
    """
    from radtransfer.configfile import load
    from radtransfer_pipelines.crossfit import crossfit as all_runs

    all_runs(load(config, set_ or []), data_root=data_root, out=out, folds=folds, repeats=repeats, dry_run=dry_run)


@app.command()
def learning_curve(
    config: Config,
    data_root: DataRoot,
    out: Annotated[Path, typer.Option(help="Folder for all runs: new, empty, or of the same learning curve.")],
    fractions: Annotated[
        str, typer.Option(help="Shares of the target's train and validation labels, with commas.")
    ] = "0.1,0.25,0.5,1",
    folds: Annotated[
        int, typer.Option(min=0, help="Cross-fit each fraction with so many folds; 0: one split, one run each.")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Times the cross-fitting is done, each with another seed.")] = 1,
    set_: Overrides = None,
    dry_run: DryRuns = False,
) -> None:
    """Learn from fewer and fewer labels: where does in-domain pre-training help, and how many labels is it worth?

    One run, or cross-fitting, for each label fraction on the same test images; pre-training is done once. Started
    again, it goes on where it was; with more fractions or repeats it adds them.
    """
    from radtransfer.configfile import load
    from radtransfer_pipelines.learning_curve import learning_curve as all_runs

    try:
        shares = [float(share) for share in fractions.split(",")]
    except ValueError:
        raise RadtransferError(f"--fractions {fractions}: expected numbers with commas, e.g. 0.1,0.25,0.5,1") from None
    all_runs(
        load(config, set_ or []), data_root=data_root, out=out, fractions=shares, folds=folds, repeats=repeats,
        dry_run=dry_run,
    )  # fmt: skip


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of `run` or `crossfit`, the reference first.")],
    out: Out,
    bootstrap: Annotated[int, typer.Option(min=100, help="Bootstrap replicates behind every interval.")] = 2000,
    seed: Seed = 0,
) -> None:
    """Compare finished runs on the same test images, paired and with intervals; the runs of `crossfit` pooled."""
    from radtransfer.artifacts import check_free
    from radtransfer.evaluation.comparison import compare_runs, write
    from radtransfer.evaluation.comparison_page import show

    check_free(out)
    comparison = compare_runs(runs, bootstrap=bootstrap, seed=seed)
    page = write(comparison, out)
    show(comparison.model_dump(mode="json"))
    print(page)


@app.command()
def external(
    run: Annotated[Path, typer.Option(help="Output folder of `run`.")],
    data_root: DataRoot,
    layout: Annotated[str, typer.Option(help="Layout of the data set to test on; see `datasets list`.")],
    path: Annotated[str, typer.Option(help="Its folder, relative to the data root, where the run's data lie too.")],
    part: Annotated[str, typer.Option(help="Body part (or class pair) of it.")],
    out: Out,
    table: Annotated[
        str | None, typer.Option(help="For the layout `table`: {table: labels.csv, file: COLUMN, ...}, as in configs.")
    ] = None,
    tune_images: Annotated[
        int,
        typer.Option(min=0, help="Also fine-tune lightly on so many of the images, and test on the others."),
    ] = 0,
    bootstrap: Annotated[int, typer.Option(min=100, help="Bootstrap replicates behind every interval.")] = 2000,
    seed: Seed = 0,
    threads: Threads = 2,
) -> None:
    """Test a finished run, as it is, on labelled images that it has never seen: another data set or body part.

    All sources' choices score them at their thresholds. What is like an image of the run is left out, and, in a data
    set of the run, what is of its patients.
    """
    from radtransfer.artifacts import read_json
    from radtransfer.config import ExternalSet
    from radtransfer.configfile import mapping
    from radtransfer.evaluation.external_page import show
    from radtransfer.evaluation.unseen import Run, score_unseen

    named: dict[str, Any] = {"layout": layout, "path": path, "part": part, "table": mapping(table or "{}", "--table")}
    named["tune_images"] = tune_images
    asked = ExternalSet.of(named, "external")
    given = {"bootstrap": bootstrap, "seed": seed, "threads": threads}
    score_unseen(Run.open(run), data_root=data_root, asked=asked, out=out, **given)
    show(read_json(out / "metrics.json"))
    print(out / "external.html")


@app.command(name="compile")
def compile_(
    out: Annotated[Path, typer.Option(help="Folder for the packages.")] = Path("build/pipelines"),
    image: Annotated[str | None, typer.Option(help="Image of all tasks, best with its digest.")] = None,
    kubernetes: Annotated[
        bool,
        typer.Option("--kubernetes", help="Write KFP's resources Pipeline and PipelineVersion instead, for GitOps."),
    ] = False,
) -> None:
    """Compile the pipelines to packages for the KFP UI."""
    from radtransfer_components.support import IMAGE
    from radtransfer_pipelines.compile import as_resources, compile_all

    for path in (as_resources if kubernetes else compile_all)(out, image=image or IMAGE):
        print(path)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="PNG, JPEG or DICOM files.")],
    bundle: Annotated[
        str,
        typer.Option(
            help="Bundle that `register` or `run` made: its folder, or REGISTRY#NAME@VERSION of a model registry "
            "(VERSION: a number, champion or newest)."
        ),
    ],
    explain: Annotated[Path | None, typer.Option(help="Folder for explanations, as of `radtransfer explain`.")] = None,
    format_: Annotated[Literal["csv", "json"], typer.Option("--format", help="Format of the output.")] = "csv",
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads; 0: all that this process may use (affinity, container quota).")
    ] = 0,
) -> None:
    """Score images: image, score (calibrated probability of abnormal), label, and why one is unfit for the model.

    An unfit image has no label, and no score where that was told before any network saw it. Exit code 1: a file could
    not be read.
    """
    import csv
    import json
    from collections import Counter

    from radtransfer import limits
    from radtransfer.registry.predict import predict as step
    from radtransfer.registry.references import located

    table = csv.writer(sys.stdout, lineterminator="\n")
    listed: list[dict[str, object]] = []
    unreadable, unfit = 0, Counter[str]()
    with located(bundle, "bundle") as folder:
        found = step(bundle=folder, images=images, threads=threads or limits.cpus(), explain_dir=explain)
        for number, one in enumerate(found):
            row: dict[str, object] = {"image": str(one.image), "score": one.score, "label": one.label}
            row |= {"unfit": one.unfit or None, "distance": one.distance}
            if one.reason:
                unreadable += 1
                print(f"radtransfer: warning: {one.image}: {one.reason}", file=sys.stderr)
            if one.unfit:
                unfit[one.unfit.partition(" (")[0]] += 1
            if format_ == "json":
                listed.append(row | {"reason": one.reason or None})
                continue
            if number == 0:  # a bundle that is refused prints nothing
                table.writerow(row)
            table.writerow(f"{value:.6f}" if isinstance(value, float) else value for value in row.values())
    if format_ == "json":
        print(json.dumps(listed, indent=1, ensure_ascii=False))
    if unfit:
        reasons = ", ".join(f"{count} {reason}" for reason, count in unfit.most_common())
        said = f"{unfit.total()} of {len(images)} images are unfit for this model and have no label: {reasons}"
        print(f"radtransfer: {said}", file=sys.stderr)
    if unreadable:
        raise typer.Exit(1)
