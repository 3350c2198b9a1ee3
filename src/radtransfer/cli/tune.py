"""``radtransfer tune``: what makes a run faster on this machine, measured once and written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from radtransfer.training.tune import Tried, Tuned


def tune(
    config: Annotated[Path, typer.Option(help="YAML file of a run; the values are written into it.")],
    data_root: Annotated[
        str | None, typer.Option(help="As of `run`: some images of it are scored; none: noise is scored.")
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="Try this one of the configuration's alone, and write nothing; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what was measured, and write nothing.")] = False,
    write_batch_size: Annotated[
        bool, typer.Option("--write-batch-size", help="Write the batch size too, which changes what is learnt.")
    ] = False,
) -> None:
    """Measure threads, precision and batch size here, and write threads and precision into the configuration.

    Measure where the run will be, and let nothing else run meanwhile: tries that differ too much end with exit code 1.
    """
    from rich.console import Console

    from radtransfer.configfile import change, load
    from radtransfer.errors import RadtransferError
    from radtransfer.training.tune import tune as measure

    given = load(config)
    strange = sorted(set(backbone or ()) - set(given.backbones))
    if strange:
        raise RadtransferError(f"--backbone {strange[0]}: not of {config}, which has {', '.join(given.backbones)}")
    found = measure(given, backbone or given.backbones, data_root)
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 120)
    _show(console, found, given.batch_size)
    keys = ["threads", "precision", *(["batch_size"] if write_batch_size else [])]
    values = {key: value for key, value in found.chosen.items() if key in keys}
    news = {key: value for key, value in values.items() if value != getattr(given, key)}
    said = ", ".join(f"{key}: {value} (was {getattr(given, key)})" for key, value in news.items())
    if not news:
        console.print(f"{config} has these values already", markup=False)
    elif dry_run or backbone:
        console.print(f"not written: {said}", markup=False)
    elif not found.steady:
        console.print(
            f"not written: {said}; tries of the same differ too much, so other work disturbed them: measure again when "
            "nothing else runs, or write the values yourself",
            markup=False,
        )
        raise typer.Exit(1)
    else:
        change(config, values)
        console.print(f"written into {config}: {said}", markup=False)


def _show(console: Console, found: Tuned, batch_size: int) -> None:
    """Print what was measured and what follows."""
    from radtransfer.training.tune import BOUND, GAIN

    _table(console, "threads", found.threads)
    _table(console, "precision", found.precisions, moved=True)
    console.print(
        f"logits moved: median change as a share of their deviation between images, random heads on ImageNet weights, "
        f"{found.images}\n"
        f"bfloat16 is chosen if it trains {GAIN} times as fast and moves the logits of none by more than {BOUND:.0%}"
    )
    _table(console, "batch size", found.batch_sizes, mib=True)
    chosen = found.chosen
    console.print(f"chosen: threads {chosen['threads']}, precision {chosen['precision']}")
    if chosen["batch_size"] != batch_size:
        console.print(
            f"batches of {chosen['batch_size']} are faster than those of {batch_size}, but the batch size is a part of "
            "the recipe: with another one fewer or more steps are taken and another network is learnt. Compare "
            "validation scores before you take it (--write-batch-size)"
        )


def _table(console: Console, what: str, tried: Sequence[Tried], *, moved: bool = False, mib: bool = False) -> None:
    from rich.table import Table

    from radtransfer.training.tune import ratio

    table = Table(title=f"{what}: images a second, and times as fast as the first")
    columns = ["backbone", what, "training", "ratio", *([] if mib else ["forward", "ratio"])]
    columns += ["logits moved"] * moved + ["peak MiB"] * mib
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "backbone" else "right", no_wrap=True)
    first: dict[str, Tried] = {}
    for each in tried:
        against = first.setdefault(each.backbone, each)
        cells = [each.backbone, str(each.value)]
        for seconds, before in ((each.train, against.train), (each.forward, against.forward)):
            if seconds:
                cells += [f"{1 / min(seconds):.1f}", f"{ratio(before, seconds):.2f}"]
        cells += [f"{each.moved:.1%}"] * moved + [f"{each.mib:.0f}"] * mib
        table.add_row(*cells)
    console.print(table)
