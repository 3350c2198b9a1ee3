"""What a run is going to do, and about how long its training and extraction will take on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from radtransfer.config import TL_SOURCES, RunConfig
from radtransfer.progress import console
from radtransfer.robustness.kinds import GRADES

if TYPE_CHECKING:
    from radtransfer.training.pace import Pace


@dataclass(frozen=True)
class Work:
    """The tasks of one step for one backbone.

    Attributes:
        tasks: how many there are.
        images: that each learns from or looks at.
        passes: over these images.
        seconds: that all of them take, one after another.
    """

    step: str
    backbone: str
    tasks: int
    images: int
    passes: int
    seconds: float


def plan(config: RunConfig, target: int, source: int) -> list[Work]:
    """The training and extraction of a run; see :func:`plans`."""
    return plans([config], target, source)[0]


def plans(configs: Sequence[RunConfig], target: int, source: int) -> list[list[Work]]:
    """The training and extraction of several runs; imports PyTorch and tries every backbone for a moment.

    Args:
        configs: the runs, with the same backbones, sizes, threads and precision.
        target, source: images of the two stores, before any is opened.

    Raises:
        RadtransferError: an unknown backbone, or weights that cannot be had.
    """
    from radtransfer.training.network import check_backbones
    from radtransfer.training.weights import check_available

    check_backbones(configs[0].backbones)
    check_available(configs[0].backbones, configs[0].weights_mirror)
    return timed(configs, target, source)


def timed(configs: Sequence[RunConfig], target: int, source: int) -> list[list[Work]]:
    """As :func:`plans`, of runs on other machines, where weights may be had that cannot be had here.

    Raises:
        RadtransferError: an unknown backbone.
    """
    from radtransfer.training.pace import pace

    config = configs[0]
    tried = (config.input_size, config.batch_size, config.threads, config.precision)
    paces = {name: pace(name, *tried) for name in config.backbones}
    return [_work(each, paces, target, source) for each in configs]


def _work(config: RunConfig, paces: Mapping[str, Pace], target: int, source: int) -> list[Work]:
    tested = target * (1 / config.test_fold[1] if config.test_fold else config.test_fraction)
    known = (target - tested) * config.label_fraction
    learnt, related = (images * (1 - config.validation_fraction) for images in (known, source))
    fits, views = 2 if config.refit else 1, 2 if config.mirror else 1
    rows = []
    for name in config.backbones:
        its = paces[name]
        if not config.pretrained_models:
            spent = its.training(config.pretrain_epochs, related, views * (source - related))
            rows.append(Work("pretrain", name, 1, round(related), config.pretrain_epochs, spent))
        for epochs, count in _finetuning(config, name, learnt, related).items():
            spent = its.training(epochs, learnt, views * (known - learnt))
            if config.refit:
                spent += its.training(epochs, known, 0)
            rows.append(Work("finetune", name, count, round(learnt), fits * epochs, count * spent))
        count = len(TL_SOURCES)
        spent = count * views * fits * target * its.forward
        rows.append(Work("extract", name, count, target, views * fits, spent))
        if config.corruptions:
            passes = len(TL_SOURCES) * views * len(config.corruptions) * GRADES
            rows.append(Work("stress", name, 1, round(tested), passes, passes * tested * its.forward))
    return rows


def _finetuning(config: RunConfig, backbone: str, images: float, related: float) -> dict[int, int]:
    """Epochs of the fine-tunings of a backbone, and how many of them have so many."""
    from radtransfer.training.control import epochs_with, extra_steps

    size, models = config.batch_size, config.pretrained_models
    source = {"images": max(1, round(related)), "batch_size": size, "epochs": config.pretrain_epochs}
    target = {"images": max(1, round(images)), "batch_size": size, "epochs": config.finetune_epochs}
    found: dict[int, int] = {}
    for tl_source in TL_SOURCES:
        extra = extra_steps(tl_source, backbone, models, **source) if config.equal_steps else 0
        epochs = epochs_with(extra, **target)
        found[epochs] = found.get(epochs, 0) + 1
    return found


def show(config: RunConfig, rows: Sequence[Work]) -> None:
    """Print it."""
    table = Table(title=f"{config.name}: training and extraction")
    for heading in ("step", "backbone", "tasks", "images", "passes", "minutes"):
        table.add_column(heading, justify="left" if heading in ("step", "backbone") else "right", no_wrap=True)
    for row in rows:
        cells = (row.tasks, row.images, row.passes, f"{row.seconds / 60:.1f}")
        table.add_row(row.step, row.backbone, *map(str, cells))
    console.print(table)
    stated = f"; stated budget {config.budget_minutes:g} minutes on 2 cores" if config.budget_minutes else ""
    total = sum(row.seconds for row in rows) / 60
    console.print(
        f"about {total:.0f} minutes on this machine with nothing beside it; classifiers, evaluation and explanations "
        f"come on top{stated}",
        highlight=False,
        soft_wrap=True,
    )
