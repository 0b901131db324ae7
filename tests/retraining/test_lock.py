"""The lock: one owner, an expiry, and stale ones that are taken over only when told so."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import PROJECT

from model.errors import JobFailure, UserError
from pipelines.retraining.lock import LockHeldError, RunLock

HOLD = """
import sys, time
from pathlib import Path
from pipelines.retraining.lock import RunLock
with RunLock(Path(sys.argv[1]), expiry=3600, take_over=False):
    print("held", flush=True)
    time.sleep(600)
"""


def lock(folder: Path, *, expiry: float = 3600, take_over: bool = False) -> RunLock:
    return RunLock(folder / "lock.json", expiry=expiry, take_over=take_over)


def test_a_held_lock_refuses_and_a_released_one_does_not(tmp_path: Path) -> None:
    with lock(tmp_path) as held:
        held.check()
        for take_over in (False, True):
            with (
                pytest.raises(LockHeldError, match=f"process {os.getpid()} on .* is running"),
                lock(tmp_path, take_over=take_over),
            ):
                pass
        held.check()
    with lock(tmp_path):
        pass
    assert not (tmp_path / "lock.json").exists()


def test_the_lock_of_a_killed_process_is_reported_and_taken_over_when_told(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock.json")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(LockHeldError, match=f"process {process.pid} on .* is running"), lock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
    with pytest.raises(LockHeldError, match=r"that process no longer exists.*--take-over-lock"), lock(tmp_path):
        pass
    reports: list[str] = []
    with RunLock(tmp_path / "lock.json", expiry=3600, take_over=True, report=reports.append) as taken:
        taken.check()
    assert len(reports) == 1 and f"process {process.pid}" in reports[0]


def test_another_machine_is_judged_by_the_expiry_alone(tmp_path: Path) -> None:
    with lock(tmp_path):
        there = json.loads((tmp_path / "lock.json").read_text())
    elsewhere = {**there, "host": "elsewhere", "pid": 1 << 22, "expires": time.time() + 60}
    (tmp_path / "lock.json").write_text(json.dumps(elsewhere))
    with pytest.raises(LockHeldError, match=r"on elsewhere .* is running"), lock(tmp_path, take_over=True):
        pass
    (tmp_path / "lock.json").write_text(json.dumps({**elsewhere, "expires": time.time() - 1}))
    with pytest.raises(LockHeldError, match="it has expired"), lock(tmp_path):
        pass
    with lock(tmp_path, take_over=True) as held:
        held.check()


def test_a_lock_is_refreshed(tmp_path: Path) -> None:
    """By a clock of the test's own, which no slow machine moves: unrefreshed, the lock would have expired long ago."""
    now = [1000.0]
    file = tmp_path / "lock.json"
    with RunLock(file, expiry=0.04, take_over=False, clock=lambda: now[0]) as held:
        assert json.loads(file.read_text())["expires"] == 1000.04
        now[0] = 2000.0
        while json.loads(file.read_text())["expires"] != 2000.04:
            time.sleep(0.01)
        held.check()
        with (
            pytest.raises(LockHeldError, match="is running"),
            RunLock(file, expiry=0.04, take_over=True, clock=lambda: 2000.03),
        ):
            pass
    assert not file.exists()


def test_a_lock_that_was_taken_over_is_noticed(tmp_path: Path) -> None:
    """As after a sleep of the machine beyond the expiry."""
    with lock(tmp_path) as held:
        there = json.loads((tmp_path / "lock.json").read_text())
        (tmp_path / "lock.json").write_text(json.dumps({**there, "token": "another"}))
        with pytest.raises(LockHeldError, match="was taken over"):
            held.check()
    assert json.loads((tmp_path / "lock.json").read_text())["token"] == "another"  # not ours to remove


def test_of_many_that_take_over_one_does(tmp_path: Path) -> None:
    with lock(tmp_path):
        there = json.loads((tmp_path / "lock.json").read_text())
    (tmp_path / "lock.json").write_text(json.dumps({**there, "host": "elsewhere", "expires": 0}))
    start, done = threading.Barrier(8), threading.Event()
    winners: list[int] = []

    def contend(number: int) -> None:
        start.wait()
        try:
            with lock(tmp_path, take_over=True):
                winners.append(number)
                done.wait(10)
        except LockHeldError:
            pass

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while sum(thread.is_alive() for thread in threads) > 1:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


@pytest.mark.parametrize("content", ["", "{}", '{"token": "a", "ho'])
def test_a_damaged_lock_expires(tmp_path: Path, content: str) -> None:
    file = tmp_path / "lock.json"
    file.write_text(content)
    for take_over in (False, True):
        with pytest.raises(UserError, match=r"is not a lock.*, or after .* give"), lock(tmp_path, take_over=take_over):
            pass
    os.utime(file, (time.time() - 3601,) * 2)
    with pytest.raises(UserError, match="is not a lock"), lock(tmp_path):
        pass
    with lock(tmp_path, take_over=True) as held:
        held.check()
    assert not file.exists()


def test_a_process_that_lives_keeps_its_lock_when_the_clock_jumps(tmp_path: Path) -> None:
    with lock(tmp_path) as held:
        later = RunLock(tmp_path / "lock.json", expiry=3600, take_over=True, clock=lambda: time.time() + 1e7)
        with pytest.raises(LockHeldError, match="is running"), later:
            pass
        held.check()


def test_a_lock_from_before_the_machine_started_anew_is_stale(tmp_path: Path) -> None:
    with lock(tmp_path):
        there = json.loads((tmp_path / "lock.json").read_text())
    if not there["boot"]:
        pytest.skip("this system does not tell one start from another")
    (tmp_path / "lock.json").write_text(json.dumps({**there, "boot": "another", "unknown": "of a later version"}))
    with pytest.raises(LockHeldError, match=r"no longer exists.*--take-over-lock"), lock(tmp_path):
        pass
    with lock(tmp_path, take_over=True) as held:
        held.check()


def test_a_successor_of_the_same_name_takes_the_lock_before_it_expires(tmp_path: Path) -> None:
    """As the next pod of a Kubernetes job does; not while it sees the holder live."""
    file = tmp_path / "lock.json"

    def as_holder(name: str, *, take_over: bool = True) -> RunLock:
        return RunLock(file, expiry=3600, take_over=take_over, holder=name)

    with as_holder("nightly-1"):
        there = file.read_text()
        with pytest.raises(LockHeldError, match="is running"), as_holder("nightly-1"):
            pass
    file.write_text(json.dumps({**json.loads(there), "host": "pod-1"}))
    for name in ("", "nightly-2"):
        with pytest.raises(LockHeldError, match="is running"), as_holder(name):
            pass
    with (
        pytest.raises(LockHeldError, match="predecessor of this one as nightly-1"),
        as_holder("nightly-1", take_over=False),
    ):
        pass
    with as_holder("nightly-1") as held:
        held.check()
    file.write_text(json.dumps({**json.loads(there), "host": "pod-1", "holder": ""}))
    with pytest.raises(LockHeldError, match="is running"), as_holder(""):
        pass


def test_a_lock_that_can_not_be_refreshed_is_tried_again_and_expires(tmp_path: Path) -> None:
    """Its folder is away for a while, as a share may be."""
    folder, away = tmp_path / "work", tmp_path / "away"
    reports: list[str] = []
    with RunLock(folder / "lock.json", expiry=0.2, take_over=False, report=reports.append) as held:
        folder.rename(away)
        while not reports:
            time.sleep(0.01)
        time.sleep(0.3)
        with pytest.raises(JobFailure, match=r"can't be refreshed and has expired .*No such file.*repeat the command"):
            held.check()
        away.rename(folder)
        while True:
            with suppress(JobFailure):
                held.check()
                break
            time.sleep(0.01)
        assert len(reports) == 1
        shutil.rmtree(folder)
    assert len(reports) >= 2 and "can't be removed" in reports[-1]
