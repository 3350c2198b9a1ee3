"""``radtransfer datasets``: what can be read, fetched and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from radtransfer.cli.options import DataRoot, Seed

app = typer.Typer(no_args_is_help=True, help="The data sets that can be read, and synthetic ones.")

PublishedName = Annotated[str, typer.Argument(help="fracatlas, grazpedwri, iqothnccd or mura.")]


@app.command("list")
def list_() -> None:
    """List the layouts that can be read."""
    from radtransfer.datasets import LAYOUTS

    for name, read in LAYOUTS.items():
        about = (sys.modules[read.__module__].__doc__ or "").splitlines()[0]
        print(f"{name}: {about.replace('``', '')}")


@app.command()
def check(
    config: Annotated[Path, typer.Option(help="YAML file; see configs/.")],
    data_root: DataRoot,
    out: Annotated[Path, typer.Option(help="Folder for data_report.html, data_report.md and problems.csv; new.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value; overrides the file. Repeatable.")] = None,
) -> None:
    """Read target, source and external set of a run, every image, and report what is there and what is wrong with it.

    Exits with code 1 when there is a problem whose policy is `fail`.
    """
    from radtransfer.configfile import load
    from radtransfer.preprocess.check import check as step

    report = step(load(config, set_ or []), data_root=data_root, out=out)
    for line in report.summary():
        print(line)
    print(out / "data_report.html")
    if report.stopping:
        raise typer.Exit(1)


@app.command()
def names(
    config: Annotated[Path, typer.Option(help="Configuration of the run.")],
    data_root: DataRoot,
) -> None:
    """Print name,file of all images, to find those that artifacts call by a pseudonym; it needs the same key."""
    import csv

    from radtransfer import datasets
    from radtransfer.config import ExternalSet
    from radtransfer.configfile import load
    from radtransfer.datasets.fetch import located
    from radtransfer.datasets.roots import unpinned

    given = load(config)
    with located(data_root, (given.target_path, given.source_path)) as place:
        target = datasets.read(
            given.target_layout, place.root, given.target_path, given.target_part, given.target_table
        )
        source = datasets.read(given.source_layout, place.root, given.source_path, table=given.source_table)
    read = [target, source]
    if given.external:
        asked = ExternalSet.of(given.external, "external")
        with located(unpinned(data_root), (asked.path,)) as place:
            read.append(datasets.read(asked.layout, place.root, asked.path, asked.part, asked.table))
    files = [(dataset, file) for dataset in read for file in dataset.files]
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["name", "file"])
    table.writerows(sorted({(dataset.called(file), file) for dataset, file in files}))


@app.command()
def describe(name: PublishedName) -> None:
    """Say where a published data set is, under which licence, what to cite, and the files to be downloaded."""
    from radtransfer.datasets.published import find, parts

    known = find(name)
    print(f"{known.title}: {known.page}\nlicence: {known.licence}\ncite: {known.citation}\nfolder: {known.folder}")
    if not known.article:
        print(f"by hand: {known.by_hand}")
        return
    for part in parts(known):
        print(f"{part.name}: {part.size} bytes, MD5 {part.md5}")


@app.command()
def fetch(
    name: PublishedName,
    data_root: Annotated[Path, typer.Option(help="Folder to put the data set into, under its published name.")],
) -> None:
    """Download a published data set; one that broke off goes on where it was."""
    from radtransfer.datasets.published import fetch as step
    from radtransfer.datasets.published import find

    known = find(name)
    print(f"{known.title}: {known.licence}; cite {known.citation}", file=sys.stderr)
    print(step(known, data_root))


@app.command()
def gc(
    keep_days: Annotated[float, typer.Option(min=0, help="Keep what was used within so many days.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
) -> None:
    """Print state,uri,files,bytes,last_used of what was fetched or left unfinished, and remove what no run uses."""
    import csv
    from datetime import UTC, datetime

    from radtransfer.datasets.fetch import collect

    revisions, freed = collect(keep_days, dry_run=dry_run)
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["state", "uri", "files", "bytes", "last_used"])
    for each in revisions:
        state = "would be removed" if dry_run and each.state == "removed" else each.state
        used = datetime.fromtimestamp(each.last_used, UTC).isoformat(timespec="seconds")
        table.writerow([state, each.uri or "never completed", each.files, each.bytes, used])
    print(f"{freed} bytes {'would be ' if dry_run else ''}freed", file=sys.stderr)


@app.command()
def phantoms(
    out: Annotated[Path, typer.Option(help="Folder to make; it must not exist or be empty.")],
    images_per_part: Annotated[int, typer.Option(min=1, help="Images of each body part.")] = 200,
    parts: Annotated[list[str] | None, typer.Option(help="Body part; repeatable; none: all.")] = None,
    difficulty: Annotated[float, typer.Option(min=0, max=1, help="0: wide gaps; 1: faint hairlines.")] = 0.2,
    size: Annotated[int, typer.Option(min=64, help="Longer side, px.")] = 160,
    seed: Seed = 0,
) -> None:
    """Draw synthetic radiographs of several body parts, with and without fractures."""
    from radtransfer.datasets.phantoms import PARTS, make_phantoms

    make_phantoms(out, images_per_part, parts or PARTS, difficulty, size, seed)
