"""As many threads as there are free cores: others would have those that are there wait for them."""

from __future__ import annotations

import logging
import time

import torch

logger = logging.getLogger(__name__)

#: Numbers of an operation that is timed, so many that torch gives every thread some, and seconds that it takes on average where
#: threads have to wait for cores. With a core for each thread it is 0.03 ms; with another program on one of two cores the slices of
#: the scheduler, 4 to 8 ms.
N_NUMBERS, LONG = 2**17, 5e-4
#: How often it is timed while all threads are in use, and after a pause, since those that have rested are let in first for a while.
N_TRIALS, N_TRIALS_AFTER_PAUSE = 20, 500


class ThreadBudget:
    """Reduces torch's threads while other programs keep cores busy.

    A training step shares some two hundred small operations out over threads. After each of them all wait for the last, and if that
    has no core, until the scheduler gives it one: beside two other programs on two cores a step took 100 to 1,200 ms with two threads
    and 40 with one (20 with two on free cores). With another number of threads results differ in the last digits.
    """

    #: Seconds from one look to the next while all threads are in use, and, where they are not, at least and at most.
    LOOK_EVERY, PAUSE, LONGEST_PAUSE = 0.25, 2.0, 64.0

    def __init__(self):
        self._n_all = torch.get_num_threads()
        self._next_look, self._pause, self._has_said_so = 0.0, self.PAUSE, False

    def look(self) -> None:
        """Where it is time to, set torch's threads to all, a half, a quarter, ... of what they were: the most that do not wait."""
        if self._n_all < 2 or time.monotonic() < self._next_look:
            return
        n_threads = self._n_all
        n_trials = N_TRIALS if torch.get_num_threads() == n_threads else N_TRIALS_AFTER_PAUSE
        torch.set_num_threads(n_threads)
        while n_threads > 1 and threads_wait(n_trials):
            n_threads //= 2
            torch.set_num_threads(n_threads)
        if n_threads == self._n_all:
            wait, self._pause = self.LOOK_EVERY, max(self.PAUSE, 0.9 * self._pause)
        else:
            wait, self._pause = self._pause, min(2.0 * self._pause, self.LONGEST_PAUSE)
            self._say(n_threads)
        self._next_look = time.monotonic() + wait

    def _say(self, n_threads: int) -> None:
        if not self._has_said_so:
            self._has_said_so = True
            logger.warning(
                "Other programs keep cores busy, so that %d threads would wait for each other. Training goes on with %d for now; the last "
                "digits of its result depend on the number. To choose it: torch.set_num_threads.",
                self._n_all,
                n_threads,
            )


def threads_wait(n_trials: int) -> bool:
    """Whether threads that share an operation wait for a core; as soon as that is clear."""
    numbers = torch.zeros(N_NUMBERS)
    start = time.perf_counter()
    for trial in range(n_trials):
        numbers.add_(1.0)
        if time.perf_counter() - start > (trial + N_TRIALS) * LONG:
            return True
    return False
