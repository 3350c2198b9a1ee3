"""Threads, seeds and device: settled once at the start of every task that trains or infers."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def settle(threads: int, seed: int, *, tf32: bool = False) -> None:
    """Make what follows repeatable: fixed thread count, seeded generators, deterministic algorithms only.

    Args:
        threads: CPU threads of this process.
        seed: seed of torch's global generator (weight initialisation, dropout).
        tf32: on a GPU, round what float32 products are made of to TF32's ten bits. That is for training, which leads to
            other weights on a GPU than on a CPU in any case; scores of trained weights must not hang on the device.
    """
    _keep_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    # Nothing reads memory before it is written; filling it costs 3 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(seed)


def _keep_memory() -> None:
    """Let glibc keep what is freed, instead of handing it back to the kernel, which clears it for the next layer.

    That takes more time than the arithmetic of a forward pass on the CPU; ``benchmarks/memory.py`` measures it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def random_state() -> dict[str, Tensor]:
    """State of torch's global generators, from which networks draw their dropout."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Go back to a state that :func:`random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def device() -> torch.device:
    """The accelerator that this process was given, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
