"""Rows are shared out over threads completely, in order, and also after a fork: over torch's team and over a pool."""

import os
import threading

import pytest
import torch

from countsdiff_sc.kernels import _threads
from countsdiff_sc.kernels._threads import MIN_ENTRIES_OF_POOL, over_rows


@pytest.fixture(params=["team", "pool"])
def threads(request, monkeypatch):
    """Where the threads come from."""
    torch.ones(2**16).exp()  # torch's are there
    if request.param == "pool":
        monkeypatch.setattr(_threads, "_team", lambda: None)
    elif _threads._team() is None:
        pytest.skip("torch's threads cannot be had here")
    return request.param


@pytest.mark.parametrize("n_rows", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_slices_cover_all_rows_in_order(threads, n_rows, n_threads):
    slices = over_rows(lambda first, last: (first, last), (n_rows, MIN_ENTRIES_OF_POOL), n_threads)
    assert len(slices) == max(1, min(n_rows, n_threads))
    assert [row for first, last in slices for row in range(first, last)] == list(range(n_rows))


def test_few_entries_wake_no_thread(threads):
    assert over_rows(lambda first, last: (first, last), (10, 3), 4) == [(0, 10)]


def test_a_team_takes_fewer_entries_than_a_pool(threads):
    slices = over_rows(lambda first, last: (first, last), (2, MIN_ENTRIES_OF_POOL // 2), 2)
    assert len(slices) == (2 if threads == "team" else 1)


def test_slices_are_worked_off_at_once(threads):
    together = threading.Barrier(2, timeout=30)  # breaks unless both wait at once

    def meet(first, last):
        together.wait()
        return first

    assert over_rows(meet, (2, MIN_ENTRIES_OF_POOL), 2) == [0, 1]


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize("where", [0, 1])
def test_an_error_in_a_thread_is_raised(threads, error, where):
    def kernel(first, last):
        if first == where:
            raise error

    with pytest.raises(error):
        over_rows(kernel, (2, MIN_ENTRIES_OF_POOL), 2)


def test_threads_of_python_can_come_at_once(threads):
    found = {}

    def ask(name):
        found[name] = [over_rows(lambda first, last: last - first, (4, MIN_ENTRIES_OF_POOL), 2) for _ in range(20)]

    asking = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert found == {name: [[2, 2]] * 20 for name in range(4)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(threads):
    shape = (4, MIN_ENTRIES_OF_POOL)
    over_rows(lambda first, last: None, shape, 2)
    child = os.fork()
    if not child:
        done = sum(over_rows(lambda first, last: last - first, shape, 2)) == shape[0]
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
