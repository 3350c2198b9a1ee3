"""How fast a network trains and infers here, by trying it for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from radtransfer.config import Precision
from radtransfer.training.augment import augment
from radtransfer.training.loop import Recipe, Training
from radtransfer.training.network import Network
from radtransfer.training.runtime import device, settle
from radtransfer.training.schedule import side

TRIES = 3


@dataclass(frozen=True)
class Pace:
    """What an image costs a network on this machine.

    Attributes:
        train, forward: seconds in a training step and in a forward pass, at the full input size.
        side: the full input size, px.
        resizable: whether it may be trained on smaller images first.
    """

    train: float
    forward: float
    side: int
    resizable: bool

    def training(self, epochs: int, images: float, scored: float) -> float:
        """Seconds that a training takes, validation included.

        Args:
            epochs: passes over the images.
            images: in an epoch.
            scored: forward passes after each epoch, those of mirror images counted.
        """
        sides = [side(epoch, epochs, self.side) if self.resizable else self.side for epoch in range(1, epochs + 1)]
        return sum((each / self.side) ** 2 for each in sides) * (images * self.train + scored * self.forward)


class Trial:
    """A network and a batch of random pixels at its full input size, on this process's device, to be timed.

    Args:
        backbone: name of a timm model.
        input_size: side fed to it, px; 0: its own.
        batch_size: images per training step.
        precision: arithmetic of its layers.
    """

    def __init__(self, backbone: str, input_size: int, batch_size: int, precision: Precision) -> None:
        self.network = Network(backbone, input_size, precision=precision)
        self.batch_size = batch_size
        self._training = Training(self.network, Recipe(1, batch_size, 1e-9, 0.0, 0))
        full = self.network.input_size
        self._pixels = torch.randint(0, 256, (batch_size, full, full), dtype=torch.uint8).to(device())
        self._labels = torch.arange(batch_size, device=device()) % 2.0
        self._generator = torch.Generator().manual_seed(0)

    def train(self) -> None:
        """Take a training step, augmentation included."""
        logits = self.network.train()(augment(self._pixels, self._generator)[0])
        self._training.learn(functional.binary_cross_entropy_with_logits(logits, self._labels), 1.0)

    def forward(self) -> None:
        """Score the batch."""
        with torch.inference_mode():
            self.network.eval()(self._pixels).cpu()


def pace(backbone: str, input_size: int, batch_size: int, threads: int, precision: Precision) -> Pace:
    """Measure it: the fastest of a few batches, since what else the machine has to do only slows them.

    Args:
        backbone: name of a timm model.
        input_size: side fed to it, px; 0: its own.
        batch_size: images per training step.
        threads: CPU threads.
        precision: arithmetic of its layers.
    """
    settle(threads, 0, tf32=True)
    trial = Trial(backbone, input_size, batch_size, precision)
    train, forward = (min(seen) / batch_size for seen in in_turn([trial.train, trial.forward]))
    return Pace(train, forward, trial.network.input_size, trial.network.resizable)


def in_turn(works: Sequence[Callable[[], None]], tries: int = TRIES) -> list[list[float]]:
    """Seconds that each piece of work takes, each time it is done.

    They take turns, so that what else the machine has to do meets them alike.

    Args:
        works: each is done once more at first, since that also allocates.
        tries: how often.
    """
    for work in works:
        work()
    seen: list[list[float]] = [[] for _ in works]
    for _ in range(tries):
        for work, its in zip(works, seen, strict=True):
            started = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            its.append(time.perf_counter() - started)
    return seen
