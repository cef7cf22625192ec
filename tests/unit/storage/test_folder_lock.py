"""One process at a time writes a folder of this machine; a killed one makes room at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from kd_ray import storage
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.storage import StorageError, lock

ROOT = Path(__file__).resolve().parents[3]


def other_process(folder):
    """A process that holds a folder until it is told to end."""
    program = (
        "import sys; from pathlib import Path; from kd_ray import storage\n"
        "storage.hold_here(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=dict(os.environ),
    )  # fmt: skip
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_S", 0.0)


@pytest.fixture
def taken(tmp_path):
    """A run's folder, and the process that writes it."""
    folder = RunFolder(tmp_path, "a").path
    process = other_process(folder)
    yield folder, process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_a_run_that_is_started_twice_names_the_process_that_is_at_it(taken, tmp_path):
    _, process = taken
    named = f"a is being written by process {process.pid} on .*; wait for it or stop it"
    with pytest.raises(StorageError, match=named):
        RunFolder(tmp_path, "a").open(tiny.train_config("a"))
    RunFolder(tmp_path, "b").open(tiny.train_config("b")).close()


def test_a_killed_process_makes_room_at_once(taken):
    folder, process = taken
    with pytest.raises(StorageError), storage.alone(folder):
        pass
    process.kill()
    process.wait()
    storage.hold_here(folder)
    storage.release_here(folder)


def test_who_waits_gets_it_when_the_other_one_is_done(taken):
    folder, process = taken
    process.stdin.close()
    with storage.waiting_to_hold():
        storage.hold_here(folder)
    storage.release_here(folder)


def test_a_process_may_hold_a_folder_twice(tmp_path):
    with storage.alone(tmp_path / "a"):
        with storage.alone(tmp_path / "a"):
            pass
        with pytest.raises(lock.Locked, match=f"process {os.getpid()} on"):
            lock.lock_file(tmp_path / "a" / lock.NAME)
    lock.lock_file(tmp_path / "a" / lock.NAME).close()


def test_a_folder_that_cannot_be_written_is_left_to_who_writes_it(tmp_path):
    (tmp_path / "file").write_text("")
    storage.hold_here(tmp_path / "file" / "below")
    storage.release_here(tmp_path / "file" / "below")


def test_a_folder_at_an_address_has_a_lease_instead(far):
    with storage.alone(far.root / "runs/a"):
        assert not list(far.folder.parent.rglob(lock.NAME))
        assert list(far.folder.rglob(".kd_ray-lease.json"))


def test_a_lock_that_somebody_removed_has_no_two_holders(taken):
    folder, process = taken
    with pytest.raises(StorageError, match=r"If that machine is gone, remove .*\.kd_ray-lock"):
        storage.hold_here(folder)
    (folder / lock.NAME).unlink()
    storage.hold_here(folder)
    process.kill()
    process.wait()
    other = other_process_is_refused(folder)
    assert f"process {os.getpid()}" in other
    storage.release_here(folder)


def other_process_is_refused(folder):
    """What a process is told that wants a folder."""
    program = (
        "import sys; from pathlib import Path; from kd_ray.storage import lock\n"
        "lock.PATIENCE_S = 0.0\n"
        "try:\n    lock.hold_here(Path(sys.argv[1]))\n"
        "except ValueError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
