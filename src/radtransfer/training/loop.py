"""The training loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store
from radtransfer.progress import console, sparkline, track
from radtransfer.training import distributed, memory
from radtransfer.training.checkpoints import Checkpoints
from radtransfer.training.network import Network
from radtransfer.training.objective import Objective, Task
from radtransfer.training.runtime import device, random_state, set_random_state
from radtransfer.training.schedule import rate, side, steps_per_epoch

HEAD_RATE = 2.0
EMA_DECAY = 0.98
CLIP_NORM = 5.0
SMALLEST_BATCH = 2
"""Images in a step; a single one has no variance to normalise by."""


@dataclass(frozen=True)
class Recipe:
    """What a training is asked to do; see the entries of the same names in :class:`radtransfer.config.RunConfig`."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    layer_decay: float = 1.0
    freeze_epochs: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise RadtransferError(f"layer_decay: {self.layer_decay} is out of range; expected above 0, 1 at most")
        if self.batch_size < SMALLEST_BATCH:
            raise RadtransferError(
                f"batch_size: {self.batch_size} is too small; batch normalisation needs {SMALLEST_BATCH} images or "
                "more in every training step"
            )


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
        shared: gives its outputs in a step, as one of several processes; see
            :func:`radtransfer.training.distributed.wrapped`.
        average: moving average of its weights, in evaluation mode.
        optimizer: AdamW.
        rates: peak rates of its groups.
        generator: of the order and the augmentation of the epoch under way.
        steps: done so far.
        losses: sum over the steps of the epoch under way, means over their whole batches.
        history: a row per epoch validated.
        best_epoch, best, best_weights: the epoch to keep so far, its validation AUROC, and its averaged weights.
    """

    def __init__(self, network: Network, recipe: Recipe) -> None:
        network.to(device()).to(memory_format=torch.channels_last)
        self.shared = distributed.wrapped(network, unused=recipe.freeze_epochs > 0)
        self.network, self.average = network, copy.deepcopy(network).eval()  # as the first of several processes has it
        self.optimizer = torch.optim.AdamW(_groups(network, recipe), fused=True)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.generator = torch.Generator()
        self.steps, self.losses = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best, self.best_weights = 0, -math.inf, dict[str, Tensor]()

    def learn(self, loss: Tensor, share: float) -> None:
        """Take one step.

        Args:
            loss: mean over a batch, with its graph; see :func:`radtransfer.training.distributed.weighted`.
            share: of the peak rates.

        Raises:
            FloatingPointError: loss or gradient was not finite; the weights are spoilt, so leave no checkpoint of them.
        """
        for group, peak in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = peak * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self.optimizer.step()
        _follow(self.average, self.network, self.steps)
        mean = distributed.mean(loss.item())
        for what, value in {"loss": mean, "norm of the gradient": norm.item()}.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"the {what} is {value} in step {self.steps + 1}")
        self.losses += mean
        self.steps += 1

    def tired(self, patience: int) -> bool:
        """Whether so many epochs at the full input size (0: any number) have brought nothing better than the best."""
        later = [row for row in self.history if row["epoch"] > self.best_epoch > 0]
        return 0 < patience <= len(later)

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


def train(
    network: Network,
    store: Store,
    recipe: Recipe,
    what: str,
    checkpoints: Checkpoints,
    task: Task = "abnormality",
    *,
    boxes: bool = False,
) -> Outcome:
    """Train a network in place and leave it with the weights of its best epoch on the validation split.

    AdamW (Loshchilov & Hutter 2019) with linear warm-up and cosine decay, the loss of
    :class:`radtransfer.training.objective.Objective`, and an exponential moving average of the weights, which is what
    is validated and kept. The first epochs see smaller images (:func:`radtransfer.training.schedule.side`); only epochs
    at the network's own input size can be the best. Only the train and validation splits of ``store`` are read.

    Args:
        network: on any device; moved to this process's.
        store: image store with train and validation splits.
        recipe: budget and rates.
        what: shown with the progress.
        checkpoints: of this training; it goes on after the newest.
        task, boxes: what is learnt, see :class:`radtransfer.training.objective.Objective`.

    Raises:
        RadtransferError: the store has not what is to be learnt; loss, gradient or validation scores are no longer
            numbers, or memory ran out, and the checkpoints are kept.
    """
    rows, held_out = store.rows("train"), store.rows("validation")
    objective = Objective(store, rows, task, boxes=boxes)
    objective.attach(network)
    full = network.input_size
    training = Training(network, recipe)
    checkpoints.resume(training)
    for epoch in _epochs(training, objective, rows, recipe, what, checkpoints, recipe.epochs):
        try:
            auroc, validation_loss = objective.validate(training.average, held_out, f"{what} validate")
        except FloatingPointError as error:
            raise _diverged(what, f"{error} after epoch {epoch.number}", recipe) from None
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
        curve = sparkline([row["validation_auroc"] for row in training.history])
        console.print(
            f"{what}: epoch {epoch.number}/{recipe.epochs} at {network.input_size} px, {epoch}; validation AUROC "
            f"{auroc:.3f} {curve}",
            highlight=False,
            soft_wrap=True,
        )
        if network.input_size == full and (auroc > training.best or not training.best_weights):
            training.best, training.best_epoch = auroc, epoch.number
            training.best_weights = {name: tensor.clone() for name, tensor in training.average.state_dict().items()}
    checkpoints.save(training)
    network.load_state_dict(training.best_weights)
    network.heads.clear()
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
        RadtransferError: as :func:`train`.
    """
    training = Training(network, recipe)
    checkpoints.resume(training)
    full = network.input_size
    rows = store.rows("train", "validation")
    for epoch in _epochs(training, Objective(store, rows), rows, recipe, what, checkpoints, last_epoch):
        console.print(f"{what}: epoch {epoch.number}/{last_epoch}, {epoch}", highlight=False, soft_wrap=True)
    network.load_state_dict(training.average.state_dict())
    network.input_size = full
    network.eval()


@dataclass(frozen=True)
class _Epoch:
    """An epoch done: its number, from 1, mean loss, last learning rate, images a second, and seconds to the end."""

    number: int
    train_loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float

    def __str__(self) -> str:
        said = f"loss {self.train_loss:.3f}, rate {self.learning_rate:.1e}, {self.images_per_second:.0f} images/s"
        return f"{said}, about {self.seconds_left / 60:.1f} minutes left" if self.seconds_left else said


def _epochs(
    training: Training,
    objective: Objective,
    rows: NDArray[np.intp],
    recipe: Recipe,
    what: str,
    checkpoints: Checkpoints,
    last: int,
) -> Iterator[_Epoch]:
    """Train on these rows from where it is, and stop after every epoch for the caller to look at it."""
    network, average, generator = training.network, training.average, training.generator
    size, per_epoch = min(recipe.batch_size, len(rows)), steps_per_epoch(len(rows), recipe.batch_size)
    distributed.check_batch(size)
    full = network.input_size
    while training.steps < last * per_epoch and not training.tired(recipe.patience):
        number = training.steps // per_epoch + 1
        network.input_size = average.input_size = side(number, recipe.epochs, full) if network.resizable else full
        started = torch.Generator().manual_seed(recipe.seed * 100_003 + number)
        order = rows[torch.randperm(len(rows), generator=started).numpy()]
        begun = training.steps % per_epoch
        if not begun:
            generator.set_state(started.get_state())
        network.train_from(head_only=number <= recipe.freeze_epochs)
        clock = time.monotonic()
        for step in track(range(begun, per_epoch), f"{what} epoch {number}/{recipe.epochs}", per_epoch - begun):
            batch = np.sort(order[step * size : (step + 1) * size])
            share = rate(training.steps, recipe.epochs * per_epoch)
            try:
                _step(training, objective, batch, share)
            except FloatingPointError as error:
                raise _diverged(what, str(error), recipe) from None
            except (RuntimeError, MemoryError) as error:
                if not memory.exhausted(error):
                    raise
                memory.release(error)
                network.input_size = full
                raise _too_large(training, objective, batch, what, error) from None
            if step + 1 < per_epoch:
                checkpoints.offer(training)
        step_seconds = (time.monotonic() - clock) / (per_epoch - begun)
        pixels = [(side(each, recipe.epochs, full) if network.resizable else full) ** 2 for each in range(1, last + 1)]
        left = step_seconds * per_epoch * sum(pixels[number:]) / pixels[number - 1]
        yield _Epoch(number, training.losses / per_epoch, recipe.learning_rate * share, size / step_seconds, left)
        training.losses = 0.0
        checkpoints.offer(training)


def _step(training: Training, objective: Objective, batch: NDArray[np.intp], share: float) -> None:
    flip = training.network.mirror
    training.learn(objective.loss(training.shared, batch, training.generator, flip=flip), share)


def _too_large(
    training: Training, objective: Objective, batch: NDArray[np.intp], what: str, error: BaseException
) -> RadtransferError:
    """Memory ran out in a step. How many images would have fitted is tried, at the full input size, on this training,
    which is then of no more use."""
    size, step = len(batch), training.steps + 1
    fits = memory.fitting(size, SMALLEST_BATCH, lambda part: _step(training, objective, batch[:part], 0.0))
    if fits:
        advice = f"{fits} of {training.network.input_size} px were tried and fit: set batch_size to {fits}"
    elif fits is None and size // 2 >= SMALLEST_BATCH:
        advice = f"set batch_size to {size // 2} (half of it, which was not tried)"
    else:
        advice = "no smaller batch fits: set a smaller input_size or name another backbone"
    return RadtransferError(
        f"{what}: out of memory in step {step} with {size} images ({memory.first_line(error)}); {advice}, or give this "
        "process more memory"
    )


def _diverged(what: str, how: str, recipe: Recipe) -> RadtransferError:
    return RadtransferError(f"{what}: {how}; set a lower learning_rate (it is {recipe.learning_rate:g})")


def _groups(network: Network, recipe: Recipe) -> list[dict[str, Any]]:
    """Every layer learns at ``layer_decay`` times the rate of the next, and new heads faster than the body.

    Layer-wise rates as in Clark et al. 2020 (ELECTRA), with timm's cut of a backbone into layers. Biases and
    normalisation layers are not decayed.
    """
    body: Any = network.body
    extra = list(network.heads.parameters())
    head = {id(parameter) for parameter in body.get_classifier().parameters()}
    layers = param_groups_layer_decay(body, recipe.weight_decay, layer_decay=recipe.layer_decay)
    groups: list[dict[str, Any]] = [{"params": extra, "lr": HEAD_RATE, "weight_decay": recipe.weight_decay}]
    for layer in layers:
        for is_head in (False, True):
            parameters = [each for each in layer["params"] if (id(each) in head) == is_head]
            share = layer["lr_scale"] * (HEAD_RATE if is_head else 1.0)
            groups.append({"params": parameters, "lr": share, "weight_decay": layer["weight_decay"]})
    return [group | {"lr": recipe.learning_rate * group["lr"]} for group in groups if group["params"]]


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
