"""One writer of a folder at an address; a dead one makes room."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_ray import storage
from kd_ray.config.places import address_of, local_path
from kd_ray.storage import StorageError, lease, remote

ROOT = Path(__file__).resolve().parents[3]


def other_process(folder):
    """A process that holds a folder until it is told to end."""
    program = (
        "import sys; from pathlib import Path; from kd_ray import storage\n"
        "storage.hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=dict(os.environ),
    )  # fmt: skip
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_writer_is_refused_until_the_first_is_done(far):
    folder = local_path(far.root / "runs/a")
    process = other_process(folder)
    try:
        with pytest.raises(StorageError, match=f"written by process {process.pid} on .* wait"):
            storage.hold(folder)
        storage.hold(local_path(far.root / "runs/b"))
    finally:
        process.communicate()
    storage.hold(folder)
    storage.release(folder)
    storage.release(local_path(far.root / "runs/b"))
    assert not list(far.folder.glob("runs/*/.kd_ray-lease.json"))


def test_the_lease_of_a_killed_process_of_this_node_is_taken_at_once(far):
    folder = local_path(far.root / "runs/a")
    process = other_process(folder)
    process.kill()
    process.wait()
    process.stdout.close()
    storage.hold(folder)
    storage.release(folder)


def test_a_process_may_hold_a_folder_twice(far):
    folder = local_path(far.root / "runs/a")
    storage.hold(folder)
    storage.hold(folder)
    storage.release(folder)
    assert (far.folder / "runs/a" / lease.NAME).exists()
    storage.release(folder)
    assert not (far.folder / "runs/a" / lease.NAME).exists()


@pytest.mark.parametrize(("age_s", "free"), [(10.0, False), (lease.EXPIRE_S + 1, True)])
def test_a_lease_of_another_node_ends_with_its_last_sign_of_life(far, age_s, free):
    theirs = {"token": "x", "time": time.time() - age_s, "host": "elsewhere", "process": 7}
    far.write(f"runs/a/{lease.NAME}", json.dumps(theirs))
    folder = local_path(far.root / "runs/a")
    if free:
        storage.hold(folder)
        storage.release(folder)
    else:
        with pytest.raises(StorageError, match="process 7 on elsewhere"):
            storage.hold(folder)


def test_processes_of_another_container_are_not_looked_for_in_this_one(far):
    """Both may have the machine's name; each numbers its processes for itself."""
    folder = local_path(far.root / "runs/a")
    there = {**lease._me(), "process": 2**22 + 1, "token": "x", "time": time.time()}
    assert there["place"], "this system tells name spaces apart"
    far.write(f"runs/a/{lease.NAME}", json.dumps({**there, "place": there["place"] + "1"}))
    with pytest.raises(StorageError, match="is being written by"):
        storage.hold(folder)
    far.write(f"runs/a/{lease.NAME}", json.dumps(there))
    storage.hold(folder)
    storage.release(folder)


def test_who_was_taken_over_stops_writing(far):
    folder = local_path(far.root / "runs/a")
    storage.hold(folder)
    theirs = {"token": "x", "time": time.time(), "host": "elsewhere", "process": 7}
    far.write(f"runs/a/{lease.NAME}", json.dumps(theirs))
    lease.renew(lease._held[os.getpid(), address_of(folder)])
    with pytest.raises(StorageError, match="taken over by process 7 on elsewhere"):
        storage.require(folder)
    storage.release(folder)
    assert (far.folder / "runs/a" / lease.NAME).exists(), "the other one's lease stays"


def left_by_another_node(far, age_s):
    """A lease as the dead process of another node left it; the folder that it is of."""
    theirs = {"token": "x", "time": time.time() - age_s, "host": "elsewhere", "process": 7}
    far.write(f"runs/a/{lease.NAME}", json.dumps(theirs))
    return local_path(far.root / "runs/a")


def test_restarted_work_waits_until_its_dead_process_counts_as_dead(far, monkeypatch):
    monkeypatch.setattr(lease, "_POLL_S", 0.02)
    folder = left_by_another_node(far, lease.EXPIRE_S - 0.3)
    with storage.waiting_to_hold():
        storage.hold(folder)
    storage.release(folder)
    # Who does not wait is refused, however slow the machine is.
    folder = left_by_another_node(far, lease.EXPIRE_S - 30)
    with pytest.raises(storage.LeaseHeld) as refused:
        storage.hold(folder)
    # Ray brings it from the task to the command.
    assert pickle.loads(pickle.dumps(refused.value)).sign == refused.value.sign


def test_restarted_work_does_not_wait_for_a_writer_that_lives(far, monkeypatch):
    polls = []

    def renewed_meanwhile(seconds):
        polls.append(seconds)
        left_by_another_node(far, 0.0)

    monkeypatch.setattr(lease.time, "sleep", renewed_meanwhile)
    folder = left_by_another_node(far, 10.0)
    with storage.waiting_to_hold(), pytest.raises(storage.LeaseHeld, match="process 7"):
        storage.hold(folder)
    assert len(polls) == 1


def slept(folder):
    """As if this process had not run for long enough to be believed dead."""
    held = lease._held[os.getpid(), address_of(folder)]
    held.written -= lease.EXPIRE_S + 1
    return held


@pytest.mark.parametrize("renewed_first", [True, False])
def test_who_slept_finds_that_its_successor_came_and_went(far, renewed_first):
    folder = local_path(far.root / "runs/a")
    storage.hold(folder)
    held = slept(folder)
    # The successor has written, and removed its own lease when it was done.
    far.write("runs/a/model", "newer")
    (far.folder / "runs/a" / lease.NAME).unlink()
    if renewed_first:
        lease.renew(held)
    folder.mkdir(parents=True)
    (folder / "model").write_text("older")
    with pytest.raises(StorageError, match="taken over by another process, which has ended since"):
        storage.publish(folder / "model")
    assert (far.folder / "runs/a/model").read_text() == "newer"
    storage.publish(far.write("runs/ab", "not below it"))
    storage.release(folder)
    assert not (far.folder / "runs/a" / lease.NAME).exists()


def test_who_slept_unnoticed_goes_on_with_a_new_sign_of_life(far):
    folder = local_path(far.root / "runs/a")
    storage.hold(folder)
    held = slept(folder)
    storage.require(folder)
    assert not held.silent
    storage.release(folder)


def test_a_lease_that_was_removed_by_hand_is_written_again(far):
    folder = local_path(far.root / "runs/a")
    storage.hold(folder)
    (far.folder / "runs/a" / lease.NAME).unlink()
    lease.renew(lease._held[os.getpid(), address_of(folder)])
    assert (far.folder / "runs/a" / lease.NAME).exists()
    storage.release(folder)


class Unsteady:
    """A file system that fails when a file is opened for reading, as often as told."""

    def __init__(self, system, errors):
        self._system = system
        self.errors = errors

    def open_input_stream(self, path):
        if self.errors:
            raise self.errors.pop(0)
        return self._system.open_input_stream(path)

    def __getattr__(self, name):
        return getattr(self._system, name)


@pytest.fixture
def unsteady(far, monkeypatch):
    """Errors that are put into it are raised by the next openings."""
    errors, file_system = [], remote.file_system

    def opened(address):
        system, path = file_system(address)
        return Unsteady(system, errors), path

    monkeypatch.setattr(remote, "file_system", opened)
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    return errors


@pytest.mark.parametrize(
    "text", ["AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 56", "odd"]
)
def test_an_error_while_a_lease_is_read_does_not_end_its_renewing(far, unsteady, text):
    folder = local_path(far.root / "runs/a")
    storage.hold(folder)
    mine = lease._held[os.getpid(), address_of(folder)]
    before = json.loads((far.folder / "runs/a" / lease.NAME).read_text())["time"]
    unsteady.append(OSError(text))
    lease.renew(mine)
    lease.renew(mine)
    assert not unsteady
    assert json.loads((far.folder / "runs/a" / lease.NAME).read_text())["time"] > before
    storage.release(folder)


def test_a_small_file_is_asked_for_again_when_its_reading_fails(far, unsteady):
    path = far.write("runs/a/events.jsonl", "1")
    unsteady.append(OSError("AWS Error NETWORK_CONNECTION during GetObject operation"))
    assert storage.peek(path) == b"1"
    unsteady.append(FileNotFoundError("removed a moment ago"))
    assert storage.peek(path) is None
