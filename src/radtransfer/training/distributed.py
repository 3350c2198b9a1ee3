"""One training by several processes, one a GPU: DDP within one node, started by torchrun's own agent.

:func:`call` starts the processes and brings back what the first one returns. The other functions stand in the training
loop, and in a process by itself they do nothing. What keeps a training by several processes that of one process: every
process goes through the same order of the same batches and draws the same augmentation, and takes every n-th image of
each; loss and gradients are means over the whole batch; batch normalisation sees the whole batch; so all of them hold
the same weights after every step. The sums are taken in another order, and dropout is drawn for each process apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from radtransfer.errors import RadtransferError
from radtransfer.preprocess.store import Store
from radtransfer.storage import Bucket
from radtransfer.training.checkpoints import ASKED_TO_END, Checkpoints, Resumable, sigterm_sets
from radtransfer.training.network import Network
from radtransfer.training.runtime import device, random_state, settle

T = TypeVar("T")
MINUTES = 15.0
"""After which a process that waits for another gives up; one that dies is noticed at once."""
SECONDS_TO_END = "300"
"""Between SIGTERM and SIGKILL for the processes: enough for a last checkpoint, if the cluster grants as much."""
FAILED = 2
_SEEDS_APART = 100_003
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ending = threading.Event()


def processes() -> int:
    """As many as the GPUs that this process was given, else one."""
    return max(1, torch.cuda.device_count())


def part() -> slice:
    """Which images of a batch this process takes."""
    return slice(_rank(), None, _count())


def check_batch(size: int) -> None:
    """See that every process gets an image of each batch.

    Raises:
        RadtransferError: there are more processes.
    """
    if size < _count():
        raise RadtransferError(
            f"a batch of {size} images cannot be shared by {_count()} processes (one a GPU); set a batch_size of at "
            f"least {_count()}, best a multiple of it, or give the training fewer GPUs"
        )


def wrapped(network: Network, *, unused: bool) -> Callable[[Tensor], dict[str, Tensor]]:
    """:meth:`Network.outputs` for a training step, so that ``backward`` leaves the gradients' mean over the processes.

    Args:
        network: with all its heads.
        unused: whether some parameters may have no gradient, which costs a look at each.
    """
    if _count() == 1:
        return network.outputs
    here = [torch.cuda.current_device()] if device().type == "cuda" else None
    return nn.parallel.DistributedDataParallel(_Outputs(network), device_ids=here, find_unused_parameters=unused)


class _Outputs(nn.Module):
    """What DDP wraps: a module that gives all that a network is trained by."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.network.outputs(images)


def weighted(loss: Tensor, images: int, batch: int) -> Tensor:
    """A loss over this process's ``images`` of a batch, so weighted that the processes' mean is that of the batch."""
    weight = images * _count() / batch
    return loss if weight == 1 else loss * weight


def mean(value: float) -> float:
    """Of a number over the processes; not finite where one is not."""
    if _count() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    distributed.all_reduce(total)
    return total.item() / _count()


def split(score: Callable[[NDArray[np.intp]], Tensor], rows: NDArray[np.intp]) -> Tensor:
    """Scores of all rows, of which this process computes its part; all of them where there is not one for each.

    Args:
        score: of some rows [n], gives scores [n, ...] on the CPU.
        rows: all of them [N].

    Returns:
        [N, ...], the same in every process.
    """
    if _count() == 1 or len(rows) < _count():
        return score(rows)
    own = score(rows[part()])
    scores = torch.zeros(len(rows), *own.shape[1:])
    scores[part()] = own
    distributed.all_reduce(scores)
    return scores


def call(count: int, function: Callable[..., T], network: Network, *arguments: Any, **keywords: Any) -> T:
    """``function(network, *arguments, **keywords)``, in as many processes at once.

    All of it must be picklable. A store among the arguments is opened anew in each process, checkpoints are written by
    the first and read by all. Only the first one writes to this process's output.

    Args:
        count: of processes; with one it is an ordinary call.
        function: of a module; a training, which changes the network in place.
        network: left with the weights, the input size and in the mode that it has in the first process.

    Returns:
        What the first process returned.

    Raises:
        RadtransferError: as of ``function``, or a process was killed; or a CPU network with batch normalisation.
        SystemExit: this process was asked to end, and the last checkpoint is written.
    """
    if count == 1:
        return function(network, *arguments, **keywords)
    synchronised = device().type == "cuda"
    if not synchronised and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise RadtransferError(
            f"{network.backbone} has batch normalisation, which several processes can share on GPUs only; "
            "train it in one process"
        )
    with tempfile.TemporaryDirectory(prefix="processes-") as name:
        folder = Path(name)
        drawn = torch.initial_seed(), torch.get_rng_state()
        job = (os.getpid(), torch.get_num_threads(), *drawn, function, network, arguments, keywords)
        with (folder / "job").open("wb") as stream:
            _Pickler(stream).dump(job)
        if any(each.wanted()[1] for each in arguments if isinstance(each, Checkpoints)):
            sys.exit(ASKED_TO_END)  # from here on a signal raises
        _launch(count, folder)
        with (folder / "result").open("rb") as stream:
            result, weights, input_size, training = pickle.load(stream)  # noqa: S301 - a private folder
    network.load_state_dict(weights)
    network.input_size = input_size
    network.train(training)
    return cast(T, result)


def _launch(count: int, folder: Path) -> None:
    """Start the processes by torchrun's agent and wait for them."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    (folder / "logs").mkdir()
    # They meet in files: no store listens for them on the network.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SECONDS_TO_END)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="training",
        rdzv_backend="c10d",
        rdzv_endpoint=str(folder / "agents"),
        rdzv_configs={"store_type": "file"},
        local_addr="127.0.0.1",
        max_restarts=0,  # the next attempt is the cluster's, from the checkpoint
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs"), redirects=dict.fromkeys(range(1, count), Std.ALL)),
    )
    try:
        with _signals_raise(), _quiet():
            elastic_launch(config, sys.executable)("-c", f"from {__name__} import main; main()", str(folder))
    except SignalException as caught:
        if caught.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(128 + caught.sigval)
    except ChildFailedError as error:
        _explain(error.failures, count, folder)


def _explain(failures: Mapping[int, Any], count: int, folder: Path) -> NoReturn:
    """Raise what made the first of the processes fail; the others fail because it is gone."""
    said = []
    for path in folder.glob("error-*"):
        with path.open("rb") as stream:
            said.append(pickle.load(stream))  # noqa: S301 - a private folder
    for _, expected, message in sorted(said):
        if expected:
            raise RadtransferError(message)
    if all(failure.exitcode == ASKED_TO_END for failure in failures.values()):
        sys.exit(ASKED_TO_END)
    # The agent looks at all of them at a time and notes those that have ended in turn, to the second.
    spoke = {rank for rank in failures if (folder / f"error-{rank}").exists()}
    rank, first = min(failures.items(), key=lambda item: (item[1].timestamp, item[0] in spoke))
    if rank in spoke:
        raise RuntimeError(f"in one of {count} processes:\n{min(said)[2]}")
    ended = f"was killed by {first.signal_name()}" if first.exitcode < 0 else f"ended with code {first.exitcode}"
    log = "".join(path.read_text(errors="replace") for path in sorted((folder / "logs").rglob(f"{rank}/std*.log")))
    print(log[-4000:], end="", file=sys.stderr, flush=True)
    raise RadtransferError(
        f"process {rank} (of 0 to {count - 1}, one a GPU) of this training {ended}, and the others were stopped; if it "
        "ran out of memory, give it more or set a smaller batch_size; the same again goes on from the last checkpoint"
    )


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Let signals interrupt the agent from the beginning; it sets such handlers only when its processes are up."""
    from torch.distributed.elastic.multiprocessing.api import _terminate_process_handler

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.signal(number, _terminate_process_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the agent's tables off the screen: what happened is said in one line."""
    logger = logging.getLogger("torch.distributed.elastic")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Pickler(pickle.Pickler):
    """Stores and checkpoints go by the places where they lie."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Store):
            return Store.open, (value.artifact.path,)
        if isinstance(value, Checkpoints):
            remote = value.remote and (value.remote[0].name, value.remote[1])
            return _Shared, (value.folder, remote, value.minutes)
        return NotImplemented


class _Shared(Checkpoints):
    """Checkpoints of a training by several processes: all agree when, the first one writes, all read the same.

    They hold the random state of every process.

    Args:
        folder: of this machine, seen by all.
        remote: name of the bucket, and prefix.
        minutes: between two of them.
    """

    def __init__(self, folder: Path, remote: tuple[str, str] | None, minutes: float) -> None:
        super().__init__(folder, remote and (Bucket(remote[0]), remote[1]), minutes, _ending)

    def wanted(self) -> tuple[bool, bool]:
        flags = torch.tensor(super().wanted(), dtype=torch.uint8)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        due, ending = flags.tolist()
        return bool(due), bool(ending)

    def save(self, training: Resumable) -> None:
        states: list[dict[str, Tensor]] = [{}] * _count()
        distributed.all_gather_object(states, random_state())
        if _rank() == 0:
            super().save(_WithStates(training, states))
        self.reset()

    def resume(self, training: Resumable) -> str | None:
        found = [super().resume(training) if _rank() == 0 else None]
        distributed.broadcast_object_list(found)
        if _rank() and found[0]:
            tensors, said = self.read(found[0])
            own = {name: tensor for name, tensor in tensors.items() if name.startswith(f"random{_rank()}/")}
            training.restore(tensors | {f"random/{name.partition('/')[2]}": own[name] for name in own}, said)
        return found[0]


class _WithStates:
    """A training as the first process sees it, with the random states of the others."""

    def __init__(self, training: Resumable, states: list[dict[str, Tensor]]) -> None:
        self._training, self._states = training, states

    def state(self) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
        steps, tensors, said = self._training.state()
        others = enumerate(self._states[1:], start=1)
        return steps, tensors | {f"random{rank}/{name}": each[name] for rank, each in others for name in each}, said

    def restore(self, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> None:
        self._training.restore(tensors, said)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _work(folder: Path) -> None:
    """What each process does: the job in the folder, of which the first leaves the result there."""
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with (folder / "job").open("rb") as stream:
        parent, threads, seed, state, function, network, arguments, keywords = pickle.load(stream)  # noqa: S301
    if os.getppid() != parent:
        sys.exit(f"training: process {parent}, which started this one, is gone")
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        init_method=(folder / "processes").as_uri(),
        rank=rank,
        world_size=count,
        timeout=timedelta(minutes=MINUTES),
    )
    settle(max(1, threads // count), seed + _SEEDS_APART * rank, tf32=True)
    if not rank:  # new heads, which all get from the first one, are those that one process would draw
        torch.set_rng_state(state)
    if cuda:
        network = cast(Any, timm.layers).convert_sync_batchnorm(network)
    result = function(network, *arguments, **keywords)
    if rank == 0:
        weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        (folder / "result").write_bytes(pickle.dumps((result, weights, network.input_size, network.training)))
    distributed.destroy_process_group()


def main() -> None:
    """One of the processes; its argument is the folder of the job, where its errors are left. See :func:`_work`."""
    folder = Path(sys.argv[1])
    if sys.platform == "linux":  # end with the process that started this one, however that ends
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        with sigterm_sets(_ending):
            _work(folder)
    except Exception as error:
        expected = isinstance(error, RadtransferError)
        message = str(error) if expected else traceback.format_exc()
        (folder / f"error-{os.environ['RANK']}").write_bytes(pickle.dumps((time.time(), expected, message)))
        sys.exit(FAILED if expected else 1)
