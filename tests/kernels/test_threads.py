"""Rows are shared out over threads completely, in order, and also after a fork."""

import os

import pytest

from countsdiff_sc.kernels._threads import MIN_ENTRIES, over_rows


@pytest.mark.parametrize("n_rows", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_slices_cover_all_rows_in_order(n_rows, n_threads):
    slices = over_rows(lambda first, last: (first, last), (n_rows, MIN_ENTRIES), n_threads)
    assert len(slices) == max(1, min(n_rows, n_threads))
    assert [row for first, last in slices for row in range(first, last)] == list(range(n_rows))


def test_few_entries_wake_no_thread():
    assert over_rows(lambda first, last: (first, last), (10, 3), 4) == [(0, 10)]


def test_an_error_in_a_thread_is_raised():
    def kernel(first, last):
        if first:
            msg = "no"
            raise ArithmeticError(msg)

    with pytest.raises(ArithmeticError):
        over_rows(kernel, (2, MIN_ENTRIES), 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    shape = (4, MIN_ENTRIES)
    over_rows(lambda first, last: None, shape, 2)
    child = os.fork()
    if not child:
        done = sum(over_rows(lambda first, last: last - first, shape, 2)) == shape[0]
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
