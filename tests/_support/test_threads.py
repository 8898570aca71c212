"""How many threads torch uses, and processes that end with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from caft_lens._support import threads


@pytest.fixture
def fresh(monkeypatch):
    """As in a process that has not asked yet, on a machine on which three cores are free."""
    before = torch.get_num_threads()
    for name in threads.SAID_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_asked", False)
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "_at_first", 4)
    monkeypatch.setattr(threads, "_by_default", lambda: 4)
    monkeypatch.setattr(threads, "free_cores", lambda: 3)
    yield
    torch.set_num_threads(before)


def test_torch_gets_the_cores_that_are_free_once_and_no_more(fresh, monkeypatch):
    assert threads.use_free_cores() == torch.get_num_threads() == 3
    monkeypatch.setattr(threads, "free_cores", lambda: 1)
    assert threads.use_free_cores() == 3


def test_a_number_that_somebody_said_stays(fresh, monkeypatch):
    torch.set_num_threads(2)  # by the program
    assert threads.use_free_cores() == 2
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "_asked", False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")  # by the environment
    assert threads.use_free_cores() == 4


def test_free_cores_are_those_that_are_idle_among_the_ones_that_may_be_used(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds, percpu: [10.0, 90.0, 0.0, 20.0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: None)
    assert threads.free_cores() == 2
    monkeypatch.setattr(threads, "_quota", lambda: 1)
    assert threads.free_cores() == 1
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds, percpu: [99.0] * 4)
    assert threads.free_cores() == 1


PARENT = """
import os, sys, time
if os.fork() == 0:
    from caft_lens._support.processes import end_with
    end_with(os.getppid())
    print(os.getpid(), flush=True)
time.sleep(100)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_ends_when_its_parent_was_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    for _ in range(200):
        if not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        worker.kill()
        pytest.fail("the worker lives on")
