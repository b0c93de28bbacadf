"""Blocks worked off at once: as if one after another, whatever the number of threads."""

import threading
import time

import pytest
import torch

from countsdiff_sc._side_by_side import side_by_side

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order_and_do_not_depend_on_threads(n_threads):
    def late(block, generator):
        time.sleep(0.002 * (7 - block))  # the first take longest
        assert torch.is_inference_mode_enabled()
        return block, torch.rand(2, generator=generator).tolist()

    found = list(side_by_side(late, range(7), n_blocks=7, seed=5, device=CPU))
    assert [block for block, _ in found] == list(range(7))
    assert len({tuple(drawn) for _, drawn in found}) == 7
    torch.set_num_threads(1)
    assert found == list(side_by_side(late, range(7), n_blocks=7, seed=5, device=CPU))


def test_as_many_blocks_at_once_as_threads(n_threads):
    together = threading.Barrier(n_threads, timeout=30)  # breaks unless all wait at once
    list(
        side_by_side(lambda block, _: together.wait(), range(2 * n_threads), n_blocks=2 * n_threads, seed=0, device=CPU)
    )


def test_threads_are_shared_out(n_threads):
    found = side_by_side(lambda block, _: torch.get_num_threads(), range(2), n_blocks=2, seed=0, device=CPU)
    assert list(found) == [max(1, n_threads // 2)] * 2
    assert torch.get_num_threads() == n_threads


def test_few_blocks_are_taken_ahead(n_threads):
    taken = []

    def blocks():
        for block in range(20):
            taken.append(block)
            yield block

    for done, _ in enumerate(side_by_side(lambda block, _: block, blocks(), n_blocks=20, seed=0, device=CPU)):
        assert len(taken) <= done + 1 + n_threads


def test_an_error_is_raised_and_leaves_threads_as_they_were(n_threads):
    def failing(block, generator):
        if block == 3:
            raise ValueError("block 3")
        return block

    results = side_by_side(failing, range(20), n_blocks=20, seed=0, device=CPU)
    with pytest.raises(ValueError, match="block 3"):
        list(results)
    assert torch.get_num_threads() == n_threads
