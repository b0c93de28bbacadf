"""Rows of a matrix shared out over threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

#: Fewer entries than this are not worth waking a thread for: torch's own threads are still spinning on the other cores.
MIN_ENTRIES = 2**18

_pools: dict[int, ThreadPoolExecutor] = {}
# Threads do not survive a fork, which Windows does not have: a child that found this pool would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)


def over_rows(kernel: Callable, shape: tuple[int, int], n_threads: int, *arguments) -> list:
    """Call ``kernel(first, last, *arguments)`` on slices that cover all rows of a matrix; return the results in order.

    For kernels that release the interpreter lock. numba's own threads would not do: its default layer ends the process
    when two threads of Python come at once, and another does not survive a fork.

    Parameters
    ----------
    kernel
        Compiled loop over the rows from ``first`` up to ``last``.
    shape
        Shape of the matrix.
    n_threads
        Threads to use, the calling one included.
    *arguments
        Further arguments of the kernel.
    """
    n_rows, n_columns = shape
    n_slices = max(1, min(n_threads, n_rows, n_rows * n_columns // MIN_ENTRIES))
    bounds = [n_rows * i // n_slices for i in range(n_slices + 1)]
    if n_slices > 1 and n_threads not in _pools:
        _pools[n_threads] = ThreadPoolExecutor(n_threads - 1, thread_name_prefix="countsdiff_sc")
    others = [_pools[n_threads].submit(kernel, *bounds[i : i + 2], *arguments) for i in range(1, n_slices)]
    return [kernel(*bounds[:2], *arguments), *(other.result() for other in others)]
