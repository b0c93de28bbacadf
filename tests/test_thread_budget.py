"""Threads of training beside other programs."""

import logging
from types import SimpleNamespace

import pytest
import torch
from helpers import train_tiny

from countsdiff_sc import _thread_budget
from countsdiff_sc._thread_budget import N_TRIALS, N_TRIALS_AFTER_PAUSE, ThreadBudget


@pytest.fixture
def machine(monkeypatch):
    """One with so many free cores, and a clock that stands still unless it is moved."""
    machine = SimpleNamespace(free_cores=4, now=0.0, n_trials=[], before=torch.get_num_threads())

    def threads_wait(n_trials):
        machine.n_trials.append(n_trials)
        return torch.get_num_threads() > machine.free_cores

    monkeypatch.setattr(_thread_budget, "threads_wait", threads_wait)
    monkeypatch.setattr(_thread_budget.time, "monotonic", lambda: machine.now)
    torch.set_num_threads(4)
    yield machine
    torch.set_num_threads(machine.before)


def threads_after_a_look(budget):
    budget.look()
    return torch.get_num_threads()


@pytest.mark.parametrize(("free_cores", "n_threads"), [(4, 4), (3, 2), (2, 2), (1, 1), (0, 1)])
def test_threads_are_halved_until_none_waits(machine, free_cores, n_threads):
    machine.free_cores = free_cores
    assert threads_after_a_look(ThreadBudget()) == n_threads


def test_pauses_grow_while_cores_are_busy_and_all_threads_come_back(machine):
    budget, machine.free_cores = ThreadBudget(), 1
    assert threads_after_a_look(budget) == 1
    for pause in (2.0, 4.0, 8.0):
        machine.now += 0.99 * pause
        n_looks = len(machine.n_trials)
        assert threads_after_a_look(budget) == 1
        assert len(machine.n_trials) == n_looks  # not yet
        machine.now += 0.01 * pause + 1e-6
        assert threads_after_a_look(budget) == 1
        assert len(machine.n_trials) > n_looks
    machine.free_cores, machine.now = 4, machine.now + 64.0
    assert threads_after_a_look(budget) == 4
    assert machine.n_trials[-1] == N_TRIALS_AFTER_PAUSE
    machine.now += 0.25
    assert threads_after_a_look(budget) == 4
    assert machine.n_trials[-1] == N_TRIALS


def test_a_single_thread_waits_for_none(machine):
    torch.set_num_threads(1)
    assert threads_after_a_look(ThreadBudget()) == 1
    assert not machine.n_trials


@pytest.mark.parametrize("free_cores", [4, 1])
def test_training_says_that_it_uses_fewer_and_gives_them_back(machine, adata, caplog, free_cores):
    machine.free_cores = free_cores
    with caplog.at_level(logging.WARNING, logger="countsdiff_sc"):
        train_tiny(adata)
    assert torch.get_num_threads() == 4
    said = [record.getMessage() for record in caplog.records if "keep cores busy" in record.getMessage()]
    assert len(said) == (free_cores < 4)
    assert all("Training goes on with 1 for now" in message for message in said)


def test_what_is_timed_ends_once_it_is_clear(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(_thread_budget.time, "perf_counter", lambda: float(next(now)))  # a second for each operation
    assert _thread_budget.threads_wait(500)
    assert next(now) == 2
    monkeypatch.setattr(_thread_budget.time, "perf_counter", lambda: 0.0)
    assert not _thread_budget.threads_wait(5)
