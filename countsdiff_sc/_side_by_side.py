"""Blocks of cells that are worked off at once, one on each thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import starmap
from typing import TypeVar

import numpy as np
import torch

Block, Result = TypeVar("Block"), TypeVar("Result")


def generator_of(block: int, seed: int, device: torch.device) -> torch.Generator:
    """Source of randomness of a block: the same wherever and whenever it is worked off."""
    generator = torch.Generator(device)
    generator.manual_seed(int(np.random.SeedSequence([seed, block]).generate_state(1)[0]))
    return generator


def side_by_side(
    function: Callable[[Block, torch.Generator], Result],
    blocks: Iterable[Block],
    *,
    n_blocks: int,
    seed: int,
    device: torch.device,
) -> Iterator[Result]:
    """Yield ``function(block, generator)`` for each block, in order, in inference mode.

    On a CPU as many blocks at once as torch has threads. Shared out over threads operation by operation, those of one
    block would wait for each other and for Python: two threads are then a third slower. On another device, or where
    there is one block, one after another.

    Parameters
    ----------
    function
        What to do with a block. It may be called by several threads at once.
    blocks
        Blocks, taken by the calling thread and only a few ahead.
    n_blocks
        How many they are.
    seed
        Seed of the blocks' generators, see :func:`generator_of`.
    device
        Where the tensors are.
    """
    n_threads = torch.get_num_threads()
    n_workers = min(n_threads, n_blocks) if device.type == "cpu" else 1

    @torch.inference_mode()
    def worked_off(number: int, block: Block) -> Result:
        return function(block, generator_of(number, seed, device))

    if n_workers < 2:
        yield from starmap(worked_off, enumerate(blocks))
        return
    pool = ThreadPoolExecutor(n_workers, "countsdiff_sc", torch.set_num_threads, (n_threads // n_workers,))
    try:
        waiting: deque[Future] = deque()
        for numbered in enumerate(blocks):
            waiting.append(pool.submit(worked_off, *numbered))
            if len(waiting) > n_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)  # what a thread sets holds in part for the whole process
