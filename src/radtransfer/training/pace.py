"""How fast a network trains and infers here, by trying it for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

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

    def training(self, epochs: int, images: float, held_out: float) -> float:
        """Seconds that a training takes, validation included.

        Args:
            epochs: passes over the images.
            images: in an epoch.
            held_out: images scored after each epoch, with their mirror images.
        """
        sides = [side(epoch, epochs, self.side) if self.resizable else self.side for epoch in range(1, epochs + 1)]
        return sum((each / self.side) ** 2 for each in sides) * (images * self.train + 2 * held_out * self.forward)


def pace(backbone: str, input_size: int, batch_size: int, threads: int) -> Pace:
    """Measure it: the median over a few batches of random pixels, on this process's device.

    Args:
        backbone: name of a timm model.
        input_size: side fed to it, px; 0: its own.
        batch_size: images per training step.
        threads: CPU threads.
    """
    settle(threads, 0)
    training = Training(Network(backbone, input_size), Recipe(1, batch_size, 1e-9, 0.0, 0))
    network, full = training.network, training.network.input_size
    pixels = torch.rand(batch_size, full, full, device=device()) * 255
    labels = torch.arange(batch_size, device=device()) % 2.0

    def train() -> None:
        training.learn(functional.binary_cross_entropy_with_logits(network.train()(pixels), labels), 1.0)

    def infer() -> None:
        with torch.inference_mode():
            network.eval()(pixels).cpu()

    return Pace(_median_seconds(train) / batch_size, _median_seconds(infer) / batch_size, full, network.resizable)


def _median_seconds(work: Callable[[], None]) -> float:
    work()  # the first one also allocates
    seen = []
    for _ in range(TRIES):
        started = time.perf_counter()
        work()
        seen.append(time.perf_counter() - started)
    return sorted(seen)[TRIES // 2]
