"""What makes a run faster on this machine, measured once: CPU threads, precision, and, to be looked at, the batch size.

A run never measures or decides any of it: its configuration says it. Whoever tunes writes the values there.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from radtransfer import limits
from radtransfer.apart import apart
from radtransfer.artifacts import peak_mib
from radtransfer.config import Precision, RunConfig
from radtransfer.datasets.fetch import located
from radtransfer.errors import RadtransferError
from radtransfer.preprocess.decode import decode
from radtransfer.preprocess.letterbox import letterbox
from radtransfer.preprocess.pixels import Window
from radtransfer.preprocess.selection import Asked
from radtransfer.training import memory
from radtransfer.training.inference import infer
from radtransfer.training.network import Network, check_backbones
from radtransfer.training.pace import Trial, in_turn
from radtransfer.training.runtime import device, settle
from radtransfer.training.weights import load_imagenet

TRIES = 5
IMAGES = 32
"""Of the data set, by which it is seen how far scores move."""
HEADS = 64
NEAR = 1.05
"""Fewer threads are taken if they cost no more than this times the time of the best number."""
GAIN = 1.10
"""bfloat16 is taken if it trains at least this many times as fast, by the best tries and by the median ones."""
BOUND = 0.05
"""and moves the logits of no network by more, in the median, as a share of their deviation between images. Noise of
that size takes less than .001 from an AUROC."""
PAYS = 1.05
"""A batch twice as large pays if images are learnt this many times as fast."""
LARGEST = 256
STEADY = 1.25
"""The median try takes at most this many times as long as the best one, or else something disturbed them."""
MEMORY_SHARE = 0.5
"""Of the memory, for one training: `radtransfer run` has two at once."""


@dataclass(frozen=True)
class Tried:
    """One value, tried with one backbone.

    Attributes:
        train, forward: seconds for an image, try by try; the second empty where it was not timed.
        moved: of a precision, how far it moves logits (see :func:`moved`); 0 for others.
        mib: of a batch size, peak memory of the process (of the GPU, where there is one); 0 for others.
    """

    backbone: str
    value: str | int
    train: tuple[float, ...]
    forward: tuple[float, ...] = ()
    moved: float = 0.0
    mib: float = 0.0


@dataclass(frozen=True)
class Tuned:
    """What was measured and what follows from it.

    Attributes:
        threads, precisions, batch_sizes: all that was tried.
        chosen: the values for the configuration; batch_size, the one that is fastest here, among them.
        images: what the logits are of, for the reader.
    """

    threads: list[Tried]
    precisions: list[Tried]
    batch_sizes: list[Tried]
    chosen: dict[str, str | int]
    images: str

    @property
    def steady(self) -> bool:
        """Whether the tries agree well enough to go by them."""
        tried = (*self.threads, *self.precisions, *self.batch_sizes)
        timed = [seconds for each in tried for seconds in (each.train, each.forward) if seconds]
        return all(statistics.median(seconds) <= STEADY * min(seconds) for seconds in timed)


def tune(config: RunConfig, backbones: Sequence[str], data_root: str | Path | None) -> Tuned:
    """Measure, which takes some minutes, best with nothing beside it.

    Args:
        config: the run; its input size and batch size are what is measured at.
        backbones: the networks to try.
        data_root: folder or address of the data sets, for images to score; None: random ones.

    Raises:
        RadtransferError: an unknown backbone, weights or images that cannot be had, or no memory for the
            configuration's own batches.
    """
    check_backbones(backbones)
    images, about = sample(config, data_root)
    try:
        return _measured(config, backbones, images, about)
    except (RuntimeError, MemoryError) as error:
        if not memory.exhausted(error):
            raise
        raise RadtransferError(
            f"tune: out of memory with batches of {config.batch_size} ({memory.first_line(error)}); lower batch_size "
            "or input_size"
        ) from None


def _measured(config: RunConfig, backbones: Sequence[str], images: NDArray[np.uint8], about: str) -> Tuned:
    settle(config.threads, 0, tf32=True)
    threads = [tried for name in backbones for tried in _threads(config, name)]
    number = fewest(threads)
    settle(number, 0, tf32=True)
    precisions = [tried for name in backbones for tried in _precisions(config, name, images)]
    precision = cheaper(precisions)
    batches = [tried for name in backbones for tried in apart(_batches, config, name, precision, number)]
    chosen: dict[str, str | int] = {"threads": number, "precision": precision, "batch_size": largest(batches)}
    return Tuned(threads, precisions, batches, chosen, about)


def fewest(tried: Sequence[Tried]) -> int:
    """The smallest number of threads that is as good as the best, all backbones together."""
    spent = {int(value): min(seconds) for value, seconds in _together(tried).items()}
    return min(number for number, seconds in spent.items() if seconds <= NEAR * min(spent.values()))


def cheaper(tried: Sequence[Tried]) -> Precision:
    """bfloat16 where it is clearly faster in training and moves scores little, else float32."""
    spent = _together(tried)
    little = all(each.moved <= BOUND for each in tried)
    return "bfloat16" if little and ratio(spent["float32"], spent["bfloat16"]) >= GAIN else "float32"


def largest(tried: Sequence[Tried]) -> int:
    """The largest batch size that still pays, all backbones together; not one that a backbone had no memory for."""
    backbones = {each.backbone for each in tried}
    spent = {
        int(value): seconds
        for value, seconds in _together(tried).items()
        if {each.backbone for each in tried if each.value == value} == backbones
    }
    sizes = sorted(spent)
    for smaller, larger in itertools.pairwise(sizes):
        if ratio(spent[smaller], spent[larger]) < PAYS:
            return smaller
    return sizes[-1]


def ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    """How many times as fast the second is: by the best tries or by the median ones, whichever says less."""
    return min(min(slower) / min(faster), statistics.median(slower) / statistics.median(faster))


def moved(backbone: str, config: RunConfig, images: NDArray[np.uint8]) -> float:
    """How far bfloat16 moves the logits of a network with ImageNet weights.

    Its head is not trained yet: the change is that of :data:`HEADS` random heads on its features.

    Returns:
        the median absolute change, as a share of the standard deviation of a head's logits over the images.
    """
    network = Network(backbone, config.input_size, mirror=config.mirror)
    load_imagenet(network, config.weights_mirror)
    network.to(device()).to(memory_format=torch.channels_last).eval()
    heads = np.random.default_rng(0).standard_normal((network.feature_dim, HEADS))
    exact = infer(network, images)[0] @ heads
    network.precision = "bfloat16"
    rough = infer(network, images)[0] @ heads
    return float(np.median(np.abs(rough - exact) / exact.std(axis=0)))


def sample(config: RunConfig, data_root: str | Path | None) -> tuple[NDArray[np.uint8], str]:
    """Some images of the target, evenly over its files, as a run would store them; and what they are.

    Returns:
        uint8 [N, S, S], of which every one could be decoded, and a few words.

    Raises:
        RadtransferError: the data set cannot be read, or none of these images can.
    """
    if data_root is None:
        noise = np.random.default_rng(0).integers(0, 256, (IMAGES, config.image_size, config.image_size))
        return noise.astype(np.uint8), f"{IMAGES} images of noise"
    asked = Asked(config.target_layout, config.target_path, config.target_table)
    stored, window = [], Window.of(config.ct_window)
    with located(data_root, (config.target_path,)) as place:
        records = asked.read(place.root, config.target_part).records
        files = [record.file for record in records if config.target_part in record.parts]
        for file in files[:: max(1, len(files) // IMAGES)][:IMAGES]:
            try:
                pixels = decode(place.root / file, window).pixels
            except RadtransferError:
                continue  # to be reported by `datasets check`, and by the run
            stored.append(letterbox(pixels, config.image_size, crop_border=config.crop_border)[0])
    if len(stored) < 2:
        raise RadtransferError(
            f"tune: {len(stored)} of {min(len(files), IMAGES)} images of {config.target_path}, "
            f"{config.target_part!r}, could be decoded; look at them with `radtransfer datasets check`"
        )
    return np.stack(stored), f"{len(stored)} images of {config.target_path}, {config.target_part}"


def _threads(config: RunConfig, backbone: str) -> list[Tried]:
    most = limits.cpus()
    numbers = sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})
    trial = Trial(backbone, config.input_size, config.batch_size, "float32")

    def at(number: int, work: Callable[[], None]) -> Callable[[], None]:
        def done() -> None:
            torch.set_num_threads(number)
            work()

        return done

    works = [at(number, work) for number in numbers for work in (trial.train, trial.forward)]
    return _tried(backbone, numbers, works, config.batch_size)


def _precisions(config: RunConfig, backbone: str, images: NDArray[np.uint8]) -> Iterable[Tried]:
    trials = [Trial(backbone, config.input_size, config.batch_size, each) for each in ("float32", "bfloat16")]
    works = [work for trial in trials for work in (trial.train, trial.forward)]
    first, second = _tried(backbone, ["float32", "bfloat16"], works, config.batch_size)
    return first, Tried(backbone, second.value, second.train, second.forward, moved(backbone, config, images))


def _tried(
    backbone: str, values: Sequence[str | int], works: Sequence[Callable[[], None]], batch_size: int
) -> list[Tried]:
    """``works``: for each value a training step and a forward pass."""
    seconds = [tuple(each / batch_size for each in seen) for seen in in_turn(works, TRIES)]
    return [
        Tried(backbone, value, train, forward)
        for value, train, forward in zip(values, seconds[::2], seconds[1::2], strict=True)
    ]


def _batches(config: RunConfig, backbone: str, precision: Precision, threads: int) -> list[Tried]:
    """The configuration's batch size, and twice as many while there is memory and it pays."""
    settle(threads, 0, tf32=True)
    size, room, found = config.batch_size, _room(), list[Tried]()
    while size <= max(LARGEST, config.batch_size):
        try:
            (seen,) = in_turn([Trial(backbone, config.input_size, size, precision).train], TRIES)
        except (RuntimeError, MemoryError) as error:
            if not found or not memory.exhausted(error):
                raise
            break
        found.append(Tried(backbone, size, tuple(each / size for each in seen), mib=_used()))
        if 2 * found[-1].mib > room or (len(found) > 1 and ratio(found[-2].train, found[-1].train) < PAYS):
            break
        size *= 2
    return found


def _room() -> float:
    """MiB that a training may take."""
    if device().type == "cuda":
        return float(torch.cuda.mem_get_info()[1]) / 2**20
    return MEMORY_SHARE * limits.memory() / 2**20


def _used() -> float:
    """Peak memory, MiB; of a GPU's where there is one."""
    return torch.cuda.max_memory_allocated() / 2**20 if device().type == "cuda" else peak_mib()


def _together(tried: Sequence[Tried]) -> Mapping[Any, list[float]]:
    """Seconds in which one image is learnt by every backbone, try by try, for each value."""
    spent: dict[Any, list[float]] = {}
    for value in dict.fromkeys(each.value for each in tried):
        its = [each.train for each in tried if each.value == value]
        spent[value] = [sum(one) for one in zip(*its, strict=True)]
    return spent
