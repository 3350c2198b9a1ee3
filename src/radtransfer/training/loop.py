"""The training loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from radtransfer.evaluation import metrics
from radtransfer.preprocess.store import Store
from radtransfer.progress import console, track
from radtransfer.training.augment import augment
from radtransfer.training.inference import infer
from radtransfer.training.network import Network
from radtransfer.training.runtime import device

WARM_UP = 0.15
HEAD_RATE = 2.0
LABEL_SMOOTHING = 0.05
EMA_DECAY = 0.98
CLIP_NORM = 5.0
GROWTH = ((0.4, 0.5), (0.7, 0.7), (1.0, 1.0))
"""Up to this share of the epochs, this share of the input size (Howard 2018, progressive resizing)."""
SMALLEST = 160
"""Below this side, px, a radiograph is not shrunk for the first epochs."""


@dataclass(frozen=True)
class Recipe:
    """What a training is asked to do; see the entries of the same names in :class:`radtransfer.config.RunConfig`."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of it: one history row per epoch, the epoch kept, its validation AUROC, and the steps taken."""

    history: list[dict[str, float]]
    best_epoch: int
    validation_auroc: float
    steps: int


def train(network: Network, store: Store, recipe: Recipe, what: str) -> Outcome:
    """Train a network in place and leave it with the weights of its best epoch on the validation split.

    AdamW (Loshchilov & Hutter 2019) with linear warm-up and cosine decay, cross-entropy on softened labels weighted
    against class imbalance, and an exponential moving average of the weights, which is what is validated and kept.
    The first epochs see smaller images (:func:`side`); only epochs at the network's own input size can be the best.
    Only the train and validation splits of ``store`` are read.

    Args:
        network: on any device; moved to this process's.
        store: image store with train and validation splits.
        recipe: budget and rates.
        what: shown with the progress.
    """
    rows, held_out = store.rows("train"), store.rows("validation")
    labels = store.manifest["label"].to_numpy(np.float32)
    class_weight = _class_weight(labels[rows])
    full = network.input_size
    best, best_state, history = -math.inf, dict[str, Tensor](), list[dict[str, float]]()
    best_epoch = 0
    for epoch in _epochs(network, store, rows, recipe, what):
        _, logits = infer(epoch.average, store.images[held_out], what=f"{what} validate")
        auroc = _auroc(labels[held_out], logits)
        validation_loss = _loss(torch.from_numpy(logits), torch.from_numpy(labels[held_out]), class_weight).item()
        history.append(
            {
                "epoch": epoch.number,
                "input_size": network.input_size,
                "train_loss": epoch.train_loss,
                "validation_loss": validation_loss,
                "validation_auroc": auroc,
                "learning_rate": epoch.learning_rate,
            }
        )
        console.print(
            f"{what}: epoch {epoch.number}/{recipe.epochs} at {network.input_size} px, validation AUROC {auroc:.3f}",
            highlight=False,
            soft_wrap=True,
        )
        if network.input_size == full and (auroc > best or not best_state):
            best, best_epoch = auroc, epoch.number
            best_state = {name: tensor.clone() for name, tensor in epoch.average.state_dict().items()}
    network.load_state_dict(best_state)
    network.eval()
    return Outcome(history, best_epoch, best, recipe.epochs * steps_per_epoch(rows, recipe))


def refit(network: Network, store: Store, recipe: Recipe, what: str, last_epoch: int) -> None:
    """Train on the train and validation splits together, as :func:`train` did, up to the epoch that it kept.

    Nothing is held out and nothing chosen; the network is left with its averaged weights.

    Args:
        network: as it was before :func:`train`.
        store: image store with train and validation splits.
        recipe: the one that :func:`train` had.
        what: shown with the progress.
        last_epoch: the epoch to stop after, of a schedule for all of them.
    """
    rows = store.rows("train", "validation")
    for epoch in _epochs(network, store, rows, recipe, what):
        console.print(f"{what}: epoch {epoch.number}/{last_epoch}", highlight=False, soft_wrap=True)
        if epoch.number == last_epoch:
            network.load_state_dict(epoch.average.state_dict())
            network.eval()
            return


@dataclass(frozen=True)
class _Epoch:
    """One epoch done: its number, from 1, the averaged weights after it, its mean loss and its last learning rate."""

    number: int
    average: Network
    train_loss: float
    learning_rate: float


def _epochs(network: Network, store: Store, rows: NDArray[np.intp], recipe: Recipe, what: str) -> Iterator[_Epoch]:
    """Train on these rows of the store, and stop after every epoch for the caller to look at the averaged weights."""
    network.to(device()).to(memory_format=torch.channels_last)
    labels = store.manifest["label"].to_numpy(np.float32)
    class_weight = _class_weight(labels[rows]).to(device())
    size, per_epoch = min(recipe.batch_size, len(rows)), steps_per_epoch(rows, recipe)
    optimizer = torch.optim.AdamW(_groups(network, recipe), lr=recipe.learning_rate)
    rates = [group["lr"] for group in optimizer.param_groups]
    average = copy.deepcopy(network).eval()
    full = network.input_size
    for epoch in range(1, recipe.epochs + 1):
        network.input_size = average.input_size = side(epoch, recipe.epochs, full) if network.resizable else full
        losses = 0.0
        generator = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
        order = rows[torch.randperm(len(rows), generator=generator).numpy()]
        network.train()
        for step in track(range(per_epoch), f"{what} epoch {epoch}/{recipe.epochs}", per_epoch):
            done = (epoch - 1) * per_epoch + step
            factor = _rate(done, recipe.epochs * per_epoch)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            batch = np.sort(order[step * size : (step + 1) * size])
            images = torch.from_numpy(store.images[batch]).to(device())
            target = torch.from_numpy(labels[batch]).to(device())
            loss = _loss(network(augment(images, generator)), target, class_weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
            optimizer.step()
            _follow(average, network, done)
            losses += loss.item()
        yield _Epoch(epoch, average, losses / per_epoch, optimizer.param_groups[0]["lr"])


def steps_per_epoch(rows: NDArray[np.intp], recipe: Recipe) -> int:
    """Training steps of an epoch over these rows; what does not fill a batch waits for another epoch's order."""
    return len(rows) // min(recipe.batch_size, len(rows))


def _class_weight(labels: NDArray[np.float32]) -> Tensor:
    """Weights of the negative and the positive class under which both count alike."""
    positives = labels.mean()
    return torch.tensor([0.5 / (1 - positives), 0.5 / positives], dtype=torch.float32)


def side(epoch: int, epochs: int, full: int) -> int:
    """Input size of an epoch, px: small images first, which cost less and lose little while little is learnt.

    Args:
        epoch: from 1.
        epochs: how many there are; the last is always at ``full``.
        full: the network's own input size.
    """
    share = next(share for end, share in GROWTH if (epoch - 1) / epochs < end)
    return full if epoch == epochs else min(full, max(SMALLEST, 32 * round(full * share / 32)))


def _groups(network: Network, recipe: Recipe) -> list[dict[str, object]]:
    """The new head learns faster than the body; biases and normalisation layers are not decayed."""
    head = {id(parameter) for parameter in network.body.get_classifier().parameters()}  # type: ignore[operator]
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        groups.setdefault((id(parameter) in head, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate * (HEAD_RATE if is_head else 1.0),
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (is_head, decays), parameters in groups.items()
    ]


def _rate(done: int, total: int) -> float:
    """Share of the peak rate at step ``done``: linear warm-up, then a half cosine (Loshchilov & Hutter 2017)."""
    warm = max(1, round(WARM_UP * total))
    if done < warm:
        return (done + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1, total - warm)))


def _loss(logits: Tensor, target: Tensor, class_weight: Tensor) -> Tensor:
    soft = target * (1 - LABEL_SMOOTHING) + 0.5 * LABEL_SMOOTHING
    return functional.binary_cross_entropy_with_logits(logits, soft, weight=class_weight[target.long()])


def _follow(average: Network, network: Network, step: int) -> None:
    """Move the averaged weights towards the trained ones; quickly in the first steps (as in timm's ModelEmaV3)."""
    decay = min(EMA_DECAY, (step + 1) / (step + 10))
    with torch.no_grad():
        trained = network.state_dict()
        for name, mean in average.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(trained[name], 1 - decay)
            else:
                mean.copy_(trained[name])


def _auroc(labels: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    return float(metrics.auroc(labels == 1, logits.astype(np.float64), np.ones((1, len(labels))))[0])
