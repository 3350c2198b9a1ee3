"""The training loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from radtransfer.errors import RadtransferError
from radtransfer.evaluation import metrics
from radtransfer.preprocess.store import Store
from radtransfer.progress import console, track
from radtransfer.training.augment import augment
from radtransfer.training.checkpoints import Checkpoints
from radtransfer.training.inference import infer
from radtransfer.training.network import Network
from radtransfer.training.runtime import device, random_state, set_random_state
from radtransfer.training.schedule import rate, side

HEAD_RATE = 2.0
LABEL_SMOOTHING = 0.05
EMA_DECAY = 0.98
CLIP_NORM = 5.0


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


class Training:
    """A training under way: all that its next step depends on, and what came of those before.

    Attributes:
        network: the one trained, on this process's device.
        average: moving average of its weights, in evaluation mode.
        optimizer: AdamW.
        rates: peak rates of its groups.
        generator: of the order and the augmentation of the epoch under way.
        steps: done so far.
        losses: sum over the steps of the epoch under way.
        history: a row per epoch validated.
        best_epoch, best, best_weights: the epoch to keep so far, its validation AUROC, and its averaged weights.
    """

    def __init__(self, network: Network, recipe: Recipe) -> None:
        network.to(device()).to(memory_format=torch.channels_last)
        self.network, self.average = network, copy.deepcopy(network).eval()
        self.optimizer = torch.optim.AdamW(_groups(network, recipe), fused=device().type == "cuda")
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.generator = torch.Generator()
        self.steps, self.losses = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best, self.best_weights = 0, -math.inf, dict[str, Tensor]()

    def learn(self, loss: Tensor, share: float) -> None:
        """Take one step.

        Args:
            loss: mean over a batch, with its graph.
            share: of the peak rates.
        """
        for group, peak in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = peak * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self.optimizer.step()
        _follow(self.average, self.network, self.steps)
        self.losses += loss.item()
        self.steps += 1

    def state(self) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
        """See :class:`radtransfer.training.checkpoints.Resumable`."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best_weights,
            "random": random_state() | {"generator": self.generator.get_state()},
        }
        for index, moments in self.optimizer.state_dict()["state"].items():
            parts[f"optimizer/{index}"] = moments
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        said = {"losses": self.losses, "history": self.history, "best_epoch": self.best_epoch, "best": self.best}
        return self.steps, tensors, said | {"steps": self.steps}

    def restore(self, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> None:
        """See :class:`radtransfer.training.checkpoints.Resumable`."""
        parts: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            part, _, name = path.partition("/")
            parts.setdefault(part, {})[name] = tensor
        ours = _shapes(self.network.state_dict())
        if any(
            _shapes(parts[part]) != ours for part in {"network", "average", *parts} & {"network", "average", "best"}
        ):
            raise ValueError("its weights are those of another network")
        moments: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for path, tensor in parts.get("optimizer", {}).items():
            index, _, name = path.partition("/")
            like = parameters[int(index)]  # and laid out in memory like it, but for the count of steps
            moments.setdefault(int(index), {})[name] = torch.empty_like(like).copy_(tensor) if tensor.ndim else tensor
        self.steps, self.losses, self.history = said["steps"], said["losses"], said["history"]
        self.best_epoch, self.best, self.best_weights = said["best_epoch"], said["best"], parts.get("best", {})
        self.network.load_state_dict(parts["network"])
        self.average.load_state_dict(parts["average"])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.generator.set_state(parts["random"].pop("generator"))
        set_random_state(parts["random"])


def train(network: Network, store: Store, recipe: Recipe, what: str, checkpoints: Checkpoints) -> Outcome:
    """Train a network in place and leave it with the weights of its best epoch on the validation split.

    AdamW (Loshchilov & Hutter 2019) with linear warm-up and cosine decay, cross-entropy on softened labels weighted
    against class imbalance, and an exponential moving average of the weights, which is what is validated and kept.
    The first epochs see smaller images (:func:`radtransfer.training.schedule.side`); only epochs at the network's own
    input size can be the best.
    Only the train and validation splits of ``store`` are read.

    Args:
        network: on any device; moved to this process's.
        store: image store with train and validation splits.
        recipe: budget and rates.
        what: shown with the progress.
        checkpoints: of this training; it goes on after the newest.

    Raises:
        RadtransferError: the loss is no longer a number.
    """
    rows, held_out = store.rows("train"), store.rows("validation")
    labels = store.manifest["label"].to_numpy(np.float32)
    class_weight = _class_weight(labels[rows])
    full = network.input_size
    training = Training(network, recipe)
    checkpoints.resume(training)
    for epoch in _epochs(training, store, rows, recipe, what, checkpoints, recipe.epochs):
        _, logits = infer(training.average, store.images[held_out], what=f"{what} validate")
        auroc = _auroc(labels[held_out], logits)
        validation_loss = _loss(torch.from_numpy(logits), torch.from_numpy(labels[held_out]), class_weight).item()
        training.history.append(
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
        if network.input_size == full and (auroc > training.best or not training.best_weights):
            training.best, training.best_epoch = auroc, epoch.number
            training.best_weights = {name: tensor.clone() for name, tensor in training.average.state_dict().items()}
    checkpoints.save(training)
    network.load_state_dict(training.best_weights)
    network.eval()
    return Outcome(training.history, training.best_epoch, training.best, training.steps)


def refit(network: Network, store: Store, recipe: Recipe, what: str, checkpoints: Checkpoints, last_epoch: int) -> None:
    """Train on the train and validation splits together, as :func:`train` did, up to the epoch that it kept.

    Nothing is held out and nothing chosen; the network is left with its averaged weights.

    Args:
        network: as it was before :func:`train`.
        store: image store with train and validation splits.
        recipe: the one that :func:`train` had.
        what: shown with the progress.
        checkpoints: of this training; it goes on after the newest.
        last_epoch: the epoch to stop after, of a schedule for all of them.

    Raises:
        RadtransferError: the loss is no longer a number.
    """
    training = Training(network, recipe)
    checkpoints.resume(training)
    full = network.input_size
    rows = store.rows("train", "validation")
    for epoch in _epochs(training, store, rows, recipe, what, checkpoints, last_epoch):
        console.print(f"{what}: epoch {epoch.number}/{last_epoch}", highlight=False, soft_wrap=True)
    network.load_state_dict(training.average.state_dict())
    network.input_size = full
    network.eval()


@dataclass(frozen=True)
class _Epoch:
    """An epoch done: its number, from 1, its mean loss and its last learning rate."""

    number: int
    train_loss: float
    learning_rate: float


def _epochs(
    training: Training,
    store: Store,
    rows: NDArray[np.intp],
    recipe: Recipe,
    what: str,
    checkpoints: Checkpoints,
    last: int,
) -> Iterator[_Epoch]:
    """Train on these rows of the store from where it is, and stop after every epoch for the caller to look at it."""
    network, average, generator = training.network, training.average, training.generator
    labels = store.manifest["label"].to_numpy(np.float32)
    class_weight = _class_weight(labels[rows]).to(device())
    size, per_epoch = min(recipe.batch_size, len(rows)), steps_per_epoch(rows, recipe)
    full = network.input_size
    while training.steps < last * per_epoch:
        number = training.steps // per_epoch + 1
        network.input_size = average.input_size = side(number, recipe.epochs, full) if network.resizable else full
        started = torch.Generator().manual_seed(recipe.seed * 100_003 + number)
        order = rows[torch.randperm(len(rows), generator=started).numpy()]
        begun = training.steps % per_epoch
        if not begun:
            generator.set_state(started.get_state())
        network.train()
        for step in track(range(begun, per_epoch), f"{what} epoch {number}/{recipe.epochs}", per_epoch - begun):
            batch = np.sort(order[step * size : (step + 1) * size])
            images = torch.from_numpy(store.images[batch]).to(device())
            target = torch.from_numpy(labels[batch]).to(device())
            loss = _loss(network(augment(images, generator, flip=network.mirror)), target, class_weight)
            training.learn(loss, rate(training.steps, recipe.epochs * per_epoch))
            if not math.isfinite(training.losses):
                raise RadtransferError(
                    f"{what}: the loss is {loss.item()} in step {training.steps}; set a lower learning_rate (it is "
                    f"{recipe.learning_rate:g})"
                )
            if step + 1 < per_epoch:
                checkpoints.offer(training)
        yield _Epoch(number, training.losses / per_epoch, training.optimizer.param_groups[0]["lr"])
        training.losses = 0.0
        checkpoints.offer(training)


def steps_per_epoch(rows: NDArray[np.intp], recipe: Recipe) -> int:
    """Training steps of an epoch over these rows; what does not fill a batch waits for another epoch's order."""
    return len(rows) // min(recipe.batch_size, len(rows))


def _class_weight(labels: NDArray[np.float32]) -> Tensor:
    """Weights of the negative and the positive class under which both count alike."""
    positives = labels.mean()
    return torch.tensor([0.5 / (1 - positives), 0.5 / positives], dtype=torch.float32)


def _groups(network: Network, recipe: Recipe) -> list[dict[str, Any]]:
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


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _auroc(labels: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    return float(metrics.auroc(labels == 1, logits.astype(np.float64), np.ones((1, len(labels))))[0])
