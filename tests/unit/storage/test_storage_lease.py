"""One writer of a folder at an address; a dead one makes room."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_ray import storage
from kd_ray.config.places import address_of, local_path
from kd_ray.storage import StorageError, lease

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
