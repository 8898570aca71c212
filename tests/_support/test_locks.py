"""One writer at a time, whoever waits, and no lock is left beside what was written."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from caft_lens._support import files, processes
from caft_lens._support.errors import Busy
from caft_lens._support.files import locked

TIMES = 150


def count(folder: Path) -> None:
    """Add to a number in a file, which two at once would spoil."""
    number = folder.parent / "number"
    for _ in range(TIMES):
        with locked(folder, wait=-1):
            was = int(number.read_text())
            time.sleep(0)
            number.write_text(f"{was + 1}")


def together(*work) -> None:
    begun = [multiprocessing.get_context("fork").Process(target=do, args=of) for do, *of in work]
    for one in begun:
        one.start()
    for one in begun:
        one.join()
    assert [one.exitcode for one in begun] == [0] * len(begun)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_of_processes_that_take_turns_none_is_in_beside_another_though_each_takes_its_lock_away(tmp_path):
    (tmp_path / "number").write_text("0")
    together(*[(count, tmp_path / "run")] * 4)
    assert int((tmp_path / "number").read_text()) == 4 * TIMES
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def waits(folder: Path, told: Path) -> None:
    with locked(folder, wait=-1):
        told.write_text(f"{(folder.parent / f'.{folder.name}.lock').is_file()}")
        time.sleep(0.3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_who_waited_holds_a_lock_that_keeps_out_who_comes_after_the_file_was_taken_away(tmp_path):
    folder, told = tmp_path / "run", tmp_path / "told"
    waiting = multiprocessing.get_context("fork").Process(target=waits, args=(folder, told))
    with locked(folder):
        waiting.start()
        with pytest.raises(Busy), locked(folder):
            pass
        time.sleep(0.2)
    while not told.is_file():
        time.sleep(0.01)
    with pytest.raises(Busy), locked(folder):
        pass
    waiting.join()
    assert told.read_text() == "True"
    assert not list(tmp_path.glob(".*"))


def test_who_gets_a_lock_whose_file_was_taken_away_goes_on_to_the_one_that_has_the_name(tmp_path, monkeypatch):
    path, really, orphans = tmp_path / "one.lock", files._has_the_name, []

    def looked(lock):
        if not orphans:  # as if the file had been taken away between opening and locking it
            orphans.append(lock)
            os.unlink(path)
            path.touch()
        return really(lock)

    monkeypatch.setattr(files, "_has_the_name", looked)
    lock = files.take(path, 0)
    assert lock is not None
    assert lock is not orphans[0]
    assert not orphans[0].is_locked
    assert files.take(path, 0) is None
    files.let_go(lock)
    assert not path.exists()


def test_a_block_that_one_process_is_in_leaves_no_file(tmp_path):
    with processes.whole(tmp_path / "locks" / "one.lock", wait=False) as mine:
        assert mine
        assert (tmp_path / "locks" / "one.lock").is_file()
    assert not list((tmp_path / "locks").iterdir())
