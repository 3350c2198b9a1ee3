"""What is done when memory runs out in the middle of a pass over images: the same on the CPU and on an accelerator."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable

import torch

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "ALLOC_FAILED",
    "could not create a memory object",
    "could not create a primitive",
)
"""In the errors of CUDA, of PyTorch's CPU allocator, of cuBLAS and cuDNN, and of oneDNN."""


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    said = isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that PyTorch adds to it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def release(error: BaseException) -> None:
    """Let go of what the frames of a failed pass still hold, so that a smaller one finds the memory free."""
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    gc.collect()
    torch.cuda.empty_cache()


def may_try() -> bool:
    """Whether a smaller batch may be tried here after one did not fit.

    Not on a CPU, where a library without memory may crash instead of raising an error; and not where other processes
    would wait for this one.
    """
    return torch.cuda.is_available() and not torch.distributed.is_initialized()


def fitting(size: int, least: int, attempt: Callable[[int], object]) -> int | None:
    """The largest number of images, of halves of halves of ``size``, with which an attempt does not run out of memory.

    Args:
        size: of the batch that did not fit.
        least: below which nothing is tried.
        attempt: the same pass over so many images.

    Returns:
        that number; 0: not even ``least`` fit; None: not tried, see :func:`may_try`.
    """
    if not may_try():
        return None
    while size // 2 >= least:
        size //= 2
        try:
            attempt(size)
        except Exception as error:
            if not exhausted(error):
                raise
            release(error)
        else:
            return size
    return 0
