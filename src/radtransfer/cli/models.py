"""``radtransfer models``: the versions in a model registry, and which of them is champion."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from radtransfer.cli.options import Floor, Margin, Out, Threads
from radtransfer.errors import RadtransferError

app = typer.Typer(no_args_is_help=True, help="Versions of models in a registry, and which of them is champion.")

Where = Annotated[
    str,
    typer.Option("--registry", help="The registry: a folder, or s3://BUCKET/PREFIX.", envvar="RADTRANSFER_REGISTRY"),
]
Name = Annotated[str, typer.Argument(help="Name of the model.")]
Which = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="VERSION: a number, champion or newest.")]
Why = Annotated[str, typer.Option(help="The reason, which the history keeps.")]
Figures = Annotated[str, typer.Option(help='Figures that the decision rests on, JSON: {"auroc_difference": 0.02}.')]
By = Annotated[str, typer.Option(help="Who decides; empty: user and machine.")]


@app.command()
def add(
    bundle: Annotated[Path, typer.Argument(help="Folder `bundle` of a run.")],
    registry: Where,
    pretrained: Annotated[
        Path | None,
        typer.Option(help="Folder `pretrained` of that run, which is entered too; in-domain models need it."),
    ] = None,
) -> None:
    """Enter a bundle that a run made without a registry, and print NAME@VERSION."""
    from radtransfer.registry.entry import enter
    from radtransfer.registry.versions import Registry

    models = sorted(path for path in pretrained.iterdir() if path.is_dir()) if pretrained else []
    version, new = enter(Registry.open(registry, write=True), bundle, models)
    if not new:
        raise RadtransferError(
            f"{bundle}: is {version.label} of {registry} already, entered {version.entered} by {version.by}; a version "
            "never changes, and is not entered twice"
        )
    print(version.label)


@app.command("list")
def list_(registry: Where, name: Annotated[str, typer.Argument(help="Name of one model; empty: all.")] = "") -> None:
    """Print name,version,kind,champion,entered,bytes,auroc,data,digest of all versions."""
    import csv

    from radtransfer.registry import ledger
    from radtransfer.registry.versions import Registry

    opened = Registry.open(registry)
    if name:
        opened.version(name, "newest")
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["name", "version", "kind", "champion", "entered", "bytes", "auroc", "data", "digest"])
    for each in [name] if name else opened.names():
        champion = ledger.read(opened.place, each)[0].champion
        for version in opened.versions(each):
            auroc = version.metrics.get("auroc", {}).get("value")
            origin = version.data.get("origin", {})
            row: list[Any] = [version.name, version.number, version.kind]
            row += ["yes" if version.number == champion else "", version.entered, version.size]
            row += ["" if auroc is None else f"{auroc:.4f}", origin.get("revision", origin.get("kind", ""))]
            table.writerow([*row, version.digest[:12]])


@app.command()
def show(
    which: Which,
    registry: Where,
    format_: Annotated[Literal["yaml", "json"], typer.Option("--format", help="Format of the output.")] = "yaml",
) -> None:
    """Say of a version which images, code, configuration, parents and figures it has; and what was decided on it."""
    import yaml

    from radtransfer.registry import ledger
    from radtransfer.registry.references import found

    opened, version = found(registry, which)
    book = ledger.read(opened.place, version.name)[0]
    said = version.model_dump(mode="json")
    said["at"] = f"{opened.place.name}/{version.folder}"
    said["champion"] = book.champion == version.number
    said["decisions"] = [
        decision.model_dump(mode="json") for decision in book.history if decision.version == version.number
    ]
    if format_ == "json":
        print(json.dumps(said, indent=1, ensure_ascii=False))
    else:
        print(yaml.safe_dump(said, sort_keys=False, allow_unicode=True), end="")


@app.command()
def history(name: Name, registry: Where) -> None:
    """Print all decisions on the versions of a model, in order, as YAML."""
    import yaml

    from radtransfer.registry import ledger
    from radtransfer.registry.versions import Registry

    opened = Registry.open(registry)
    opened.version(name, "newest")
    book = ledger.read(opened.place, name)[0]
    print(yaml.safe_dump([each.model_dump(mode="json") for each in book.history], sort_keys=False), end="")


@app.command()
def verify(
    registry: Where,
    which: Annotated[str, typer.Argument(metavar="[NAME[@VERSION]]", help="One model or version; empty: all.")] = "",
) -> None:
    """Read every file of the versions and compare it with what was entered; exit code 1 when one is not whole.

    Champions are looked at too: one that is not there is not whole.
    """
    from radtransfer.registry import ledger
    from radtransfer.registry.references import found
    from radtransfer.registry.versions import Registry

    opened = Registry.open(registry)
    name, _, number = which.partition("@")
    versions = (
        [found(registry, which)[1]]
        if number
        else [version for each in ([name] if name else opened.names()) for version in opened.versions(each)]
    )
    damaged = 0
    for version in versions:
        try:
            opened.verify(version)
        except RadtransferError as error:
            damaged += 1
            print(f"{version.label}: {error}", file=sys.stderr)
        else:
            print(f"{version.label}: whole")
    for each in sorted({version.name for version in versions}):
        if ledger.read(opened.place, each)[0].champion is not None:
            try:
                opened.champion(each)
            except RadtransferError as error:
                damaged += 1
                print(error, file=sys.stderr)
    if name and not versions:
        opened.version(name, "newest")
    if damaged:
        raise typer.Exit(1)


@app.command()
def promote(
    which: Which,
    registry: Where,
    why: Why,
    figures: Figures = "{}",
    by: By = "",
    instead_of: Annotated[
        int | None,
        typer.Option(min=0, help="Only if this version (0: none) is champion; that it was compared with."),
    ] = None,
) -> None:
    """Make a version champion, if it is whole; the history keeps who, when and why."""
    from radtransfer.registry.champion import promote as step
    from radtransfer.registry.references import found

    opened, version = found(registry, which)
    step(opened, version.name, version.number, why=why, figures=_figures(figures), by=by, instead_of=instead_of)
    print(f"{version.label} is champion")


@app.command()
def gate(
    challenger: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Or the folder of its bundle.")],
    registry: Where,
    test_store: Annotated[
        Path, typer.Option(help="Image store of the target, of the newest data; its test split is the test set.")
    ],
    margin: Margin = 0.02,
    floor: Floor = 0.6,
    threads: Threads = 1,
    out: Annotated[Path | None, typer.Option(help="Folder for decision.json; it must not exist yet.")] = None,
) -> None:
    """Make a version champion if it is shown to be better than the present one; exit code 1 when it is declined.

    Both score the test images anew. The history keeps the figures, and `rollback` takes the decision back.
    """
    from radtransfer.registry.gate import gate as step
    from radtransfer.registry.weigh import Rules

    rules = Rules(margin=margin, floor=floor)
    made = step(registry=registry, challenger=challenger, test_store=test_store, rules=rules, threads=threads, out=out)
    print(f"{made.name}@{made.challenger.version} {made.outcome}: {made.why}")
    if made.outcome == "declined":
        raise typer.Exit(1)


@app.command()
def drift(
    name: Name,
    registry: Where,
    target_store: Annotated[Path, typer.Option(help="Image store of the target, of the newest data.")],
    out: Out,
    threads: Threads = 1,
) -> None:
    """Say how the images that came since the champion was trained differ from those that it knows; no test image."""
    from radtransfer.artifacts import read_json
    from radtransfer.registry.drift import drift as step

    step(name=name, registry=registry, target_store=target_store, threads=threads, out=out)
    print(read_json(out / "drift.json")["content"]["answer"])
    print(out / "drift.html")


@app.command()
def rollback(name: Name, registry: Where, why: Why, figures: Figures = "{}", by: By = "") -> None:
    """Make the champion before the present one champion again."""
    from radtransfer.registry.champion import rollback as step
    from radtransfer.registry.versions import Registry

    book = step(Registry.open(registry), name, why=why, figures=_figures(figures), by=by)
    print(f"{name}@{book.champion} is champion")


@app.command()
def gc(
    registry: Where,
    keep: Annotated[int, typer.Option(min=1, help="Keep so many of the newest versions of each model.")] = 5,
    days: Annotated[float, typer.Option(min=0, help="Keep what is younger, and who was champion within them.")] = 90,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
) -> None:
    """Print state,name,version,bytes,why of all versions, and remove old ones and what dead writers left.

    Never a champion, nor the one before it, nor what a version that is kept builds on.
    """
    import csv

    from radtransfer.registry.retention import collect
    from radtransfer.registry.versions import Registry

    judged = collect(Registry.open(registry, write=not dry_run), keep=keep, days=days, dry_run=dry_run)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["state", "name", "version", "bytes", "why"])
    for each in judged:
        state = "would be removed" if dry_run and each.state == "removed" else each.state
        table.writerow([state, each.name, each.number or "", each.size, each.why])
    freed = sum(each.size for each in judged if each.state == "removed")
    print(f"{freed} bytes {'would be ' if dry_run else ''}freed", file=sys.stderr)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _figures(text: str) -> dict[str, Any]:
    try:
        figures = json.loads(text, parse_constant=_refused)
    except ValueError as error:
        raise RadtransferError(
            f'--figures {text}: not JSON ({error}); expected an object, e.g. {{"auroc": 0.91}}'
        ) from None
    if not isinstance(figures, dict):
        raise RadtransferError(f'--figures {text}: expected an object, e.g. {{"auroc": 0.91}}')
    return figures
