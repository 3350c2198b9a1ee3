"""What moves the validation score: one network trained under settings that differ from the configuration in one thing.

    python benchmarks/ablation.py --config FILE --data-root DIR [--tl-source imagenet] [--backbone NAME] [--folds 4]
        --vary 'key=value[; key=value]' ...

``key`` is an entry of the configuration (``input_size``, ``finetune_epochs``, ``layer_decay``; with ``--tl-source
in_domain`` also ``pretrain_task``, ``in_domain_init``, ...), a constant of the recipe (``loop.EMA_DECAY``,
``schedule.GROWTH``, ``augment.NOISE``, ``objective.BOX_WEIGHT``, ...), or ``share`` (of the training images'
leakage groups that is learnt from, 0 to 1); ``value`` is YAML. The images of the train and validation splits are cut
into grouped, stratified folds; each is scored by a network trained on the others. Prints the AUROC over all folds
(of pairs within a fold, as `radtransfer crossfit` has it), its difference to the configuration as it stands and the
paired 95 % interval (bootstrap over leakage groups). One seed and the spread of training is in none of the intervals:
take small differences for nothing. The best epoch is chosen on the fold that is scored, as a run chooses it on its
validation split, so that levels are a little high. Test images are not read.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml
from scipy.special import expit
from sklearn.model_selection import StratifiedGroupKFold

from radtransfer import limits
from radtransfer.config import TL_SOURCES, RunConfig
from radtransfer.configfile import load
from radtransfer.evaluation.compare import compare
from radtransfer.evaluation.intervals import Measured, Scored, measure_tests, resample
from radtransfer.preprocess.run import preprocess
from radtransfer.preprocess.store import Store
from radtransfer.training.network import check_backbones
from radtransfer.training.weights import check_available

REPLICATES = 2000
BASE = "as configured"
SHARE = "share"
RECIPE = {"batch_size", "learning_rate", "weight_decay", "layer_decay", "freeze_epochs", "patience", "input_size"}
DATA = {"target_layout", "target_path", "target_part", "source_layout", "source_path", "source_parts", "target_table"}
DATA |= {"source_table", "on_problem", "image_size", "ct_window", "crop_border", "test_fraction", "test_fold"}
DATA |= {"validation_fraction", "max_images", "previous_splits", "seed"}
RECIPE |= {"weights_mirror", "mirror", "seed", "threads", "precision", "checkpoint_minutes"}


def folds(store: Store, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Rows of the train and validation splits, cut anew ``count`` times."""
    rows = store.rows("train", "validation")
    labels, groups = (store.manifest[column].to_numpy()[rows] for column in ("label", "group_id"))
    for train, held_out in StratifiedGroupKFold(count, shuffle=True, random_state=0).split(rows, labels, groups):
        yield {"train": rows[train], "validation": rows[held_out]}


def dealt(rows: dict[str, np.ndarray], share: float) -> Callable[..., np.ndarray]:
    """``Store.rows`` with these splits, and this share of the leakage groups of the train split."""

    def kept(store: Store, *splits: str) -> np.ndarray:
        groups = store.manifest["group_id"].to_numpy()[rows["train"]]
        order = np.random.default_rng(0).permutation(np.unique(groups))
        learnt = rows["train"][np.isin(groups, order[: round(share * len(order))])]
        return np.concatenate([(rows | {"train": learnt})[split] for split in splits])

    return kept


def trained(
    given: argparse.Namespace,
    config: RunConfig,
    store: Path,
    rows: dict[str, np.ndarray],
    constants: dict[str, Any],
    out: Path,
    related: Path | None,
) -> np.ndarray:
    """Scores of the held-out images by a fine-tuned network."""
    from radtransfer.training.inference import infer
    from radtransfer.training.network import load_network
    from radtransfer.training.steps import finetune

    with set_to(constants), mock.patch.object(Store, "rows", dealt(rows, constants.get(SHARE, 1))):
        finetune(
            target_store=store, backbone=given.backbone, tl_source=given.tl_source, pretrained=related,
            epochs=config.finetune_epochs, checkpoints=str(out.parent), out=out, **config.model_dump(include=RECIPE),
        )  # fmt: skip
    _, logits = infer(load_network(out), Store.open(store).images[rows["validation"]])
    return np.asarray(expit(logits), dtype=np.float64)


def pretrained(
    given: argparse.Namespace, config: RunConfig, store: Path, constants: dict[str, Any], known: dict[str, Path]
) -> Path | None:
    """The model that the in-domain ones start from, made once for settings that make no difference to it."""
    from radtransfer.training.steps import pretrain

    if given.tl_source != "in_domain":
        return None
    asked = config.model_dump(include=RECIPE | {"in_domain_init", "pretrain_epochs", "pretrain_task", "pretrain_boxes"})
    key = json.dumps([str(store), asked, constants], sort_keys=True)
    if key not in known:
        known[key] = store.parent / f"pretrained-{len(known)}"
        with set_to(constants):
            pretrain(
                source_store=store, backbone=given.backbone, init=config.in_domain_init, task=config.pretrain_task,
                boxes=config.pretrain_boxes, epochs=config.pretrain_epochs, checkpoints=str(store.parent),
                out=known[key], **config.model_dump(include=RECIPE),
            )  # fmt: skip
    return known[key]


@contextmanager
def set_to(constants: dict[str, Any]) -> Iterator[None]:
    """With these constants of the recipe, which are named after their modules."""
    from radtransfer.training import augment, loop, objective, schedule

    modules = {"loop": loop, "schedule": schedule, "augment": augment, "objective": objective}
    with ExitStack() as stack:
        for name, value in constants.items():
            module, _, constant = name.partition(".")
            if name != SHARE:
                stack.enter_context(mock.patch.object(modules[module], constant, value))
        yield


def asked(about: str) -> argparse.ArgumentParser:
    """The options that say what is trained and what is varied."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--tl-source", choices=TL_SOURCES, default="imagenet")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--vary", action="append", default=[], metavar="key=value[; ...]")
    return parser


def checked(given: argparse.Namespace) -> RunConfig:
    """The configuration, whose backbone and weights are there."""
    config = load(given.config)
    check_backbones([given.backbone])
    if given.tl_source != "scratch":
        check_available([given.backbone], config.weights_mirror)
    return config


def told_apart(variation: str) -> tuple[list[str], dict[str, Any]]:
    """Entries of the configuration as ``key=value``, and constants of the recipe."""
    parts = [part.strip() for part in variation.split(";")]
    fixed = [part for part in parts if part.startswith((SHARE, "loop.", "schedule.", "augment.", "objective."))]
    values = {key: yaml.safe_load(value) for key, _, value in (part.partition("=") for part in fixed)}
    return [part for part in parts if part not in fixed], values


def main() -> None:
    """Train the configuration as it stands and every variation of it, and print what each scored."""
    given = asked(__doc__ or "").parse_args()
    config = checked(given)
    variants: dict[str, tuple[RunConfig, dict[str, Any]]] = {BASE: (config, {})}
    for text in given.vary:
        entries, constants = told_apart(text)
        variants[text] = load(given.config, entries), constants
    with tempfile.TemporaryDirectory(prefix="radtransfer-ablation-") as folder:
        measured: dict[str, Measured] = {}
        images: dict[str, list[str]] = {}
        stores: dict[str, Path] = {}
        models: dict[str, Path] = {}
        for number, (name, (settings, constants)) in enumerate(variants.items()):
            started = time.monotonic()
            data = settings.model_dump(include=DATA)
            store = stores.setdefault(json.dumps(data, sort_keys=True), Path(folder) / f"target-{number}")
            if not store.exists():
                preprocess(data_root=given.data_root, target_out=store, source_out=Path(f"{store}.source"), **data)
            opened = Store.open(store)
            cut = list(folds(opened, given.folds))
            scored = opened.manifest.iloc[np.concatenate([rows["validation"] for rows in cut])]
            ids = scored["image_id"].tolist()
            if ids != images.setdefault(BASE, ids):
                sys.exit(f"{name}: validates on other images; what moves the split cannot be compared")
            related = pretrained(given, settings, Path(f"{store}.source"), constants, models)
            scores = np.concatenate(
                [
                    trained(given, settings, store, rows, constants, Path(folder) / f"model-{number}-{fold}", related)
                    for fold, rows in enumerate(cut)
                ]
            )
            labels = scored["label"].to_numpy(dtype=bool)
            weights = resample(scored["group_id"].to_numpy(), labels, REPLICATES, config.seed)
            folded = np.repeat(np.arange(given.folds), [len(rows["validation"]) for rows in cut])
            measured[name] = measure_tests(labels, [Scored(scores, 0.5, folded)], weights)
            auroc = measured[name].intervals["auroc"]
            line = f"{name}: AUROC {auroc.value:.3f} ({auroc.low:.3f} to {auroc.high:.3f})"
            if number:
                difference = compare(name, BASE, "auroc", measured, "ablation")
                line += f", {difference.difference:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
            print(f"{line}, {time.monotonic() - started:.0f} s", flush=True)
    what = f"{given.tl_source}, {given.backbone}, {given.config.name}"
    print(f"{what}, {len(labels)} images in {given.folds} folds, {limits.cpus()} cores")


if __name__ == "__main__":
    main()
