"""Rows of a matrix shared out over threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

#: Fewer entries than this are not worth another thread: of a team that is there anyway, or of a pool that has to be woken.
MIN_ENTRIES, MIN_ENTRIES_OF_POOL = 2**15, 2**18

#: Threads do not survive a fork. A child that counted on those of its parent would wait for them for ever.
_PROCESS = os.getpid()
_Region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


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
    n_threads = min(n_threads, n_rows)
    team = _team() if n_threads > 1 and os.getpid() == _PROCESS else None
    n_slices = max(1, min(n_threads, n_rows * n_columns // (MIN_ENTRIES_OF_POOL if team is None else MIN_ENTRIES)))
    bounds = [n_rows * i // n_slices for i in range(n_slices + 1)]

    def call(i: int):
        return kernel(*bounds[i : i + 2], *arguments)

    if n_slices == 1:
        return [call(0)]
    return _by_pool(call, n_slices) if team is None else _by_team(team, call, n_slices)


@cache
def _team() -> Callable | None:
    """What has a function run by all threads of GNU OpenMP, or of a runtime that answers to its names, if there is one.

    On Linux these are torch's threads. They spin for a while after each operation, waiting for the next, so that they are there in
    microseconds; others would have to be woken, and then to share the cores with them.
    """
    return getattr(ctypes.CDLL(None), "GOMP_parallel", None) if os.name == "posix" else None


def _by_team(team: Callable, call: Callable[[int], object], n_slices: int) -> list:
    """``call(0)``, ``call(1)``, ... by threads that take what is left, however many they are."""
    results, errors, left = [None] * n_slices, [], iter(range(n_slices))

    def region(_) -> None:
        try:
            for i in left:
                results[i] = call(i)
        except BaseException as error:  # noqa: BLE001 (an interruption too, which ctypes would forget)
            errors.append(error)

    team(_Region(region), None, n_slices, 0)
    if errors:
        raise errors[0]
    return results


def _by_pool(call: Callable[[int], object], n_slices: int) -> list:
    """The same by threads of Python and the calling one."""
    pool = _pool(os.getpid(), n_slices - 1)
    others = [pool.submit(call, i) for i in range(1, n_slices)]
    return [call(0), *(other.result() for other in others)]


@cache
def _pool(_process: int, n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="countsdiff_sc")
