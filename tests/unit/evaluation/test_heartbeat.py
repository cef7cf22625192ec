"""The sign of life in a run folder."""

import json
import os
import threading

import pytest

from kd_ray.evaluation import heartbeat as module
from kd_ray.evaluation.heartbeat import (
    Heartbeat,
    Work,
    note_end,
    note_restart,
    noted,
    read_state,
    this_process,
)
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.storage import StorageError


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path, "some/run")
    run.path.mkdir(parents=True)
    return run


def test_a_block_is_running_and_then_finished(run):
    with Heartbeat(run, "train", Work("training", 0, 20)) as beat:
        state = read_state(run.path)
        assert (state.state, state.command, state.pid) == ("running", "train", os.getpid())
        assert state.work == Work("training", 0, 20)
        beat.at(done=7, epoch=2, epochs=3)
    state = read_state(run.path)
    assert state.state == "finished"
    assert state.work == Work("training", 7, 20, "updates", 2, 3)
    assert state.error is None
    assert state.moved <= state.beat
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_it_beats_by_itself(run, monkeypatch):
    written = threading.Event()
    write = module.write_json

    def counting(path, content):
        write(path, content)
        if content["work"]["done"] == 5 and content["state"] == "running":
            written.set()

    monkeypatch.setattr(module, "write_json", counting)
    with Heartbeat(run, "train", Work("training"), every_s=0.01) as beat:
        beat.at(done=5)
        assert written.wait(20)


@pytest.mark.parametrize(
    ("error", "state"),
    [(RuntimeError("no teachers"), "failed"), (KeyboardInterrupt(), "stopped"),
     (SystemExit(143), "stopped")],
)  # fmt: skip
def test_an_error_is_written_down_as_the_end(run, error, state):
    with pytest.raises(type(error)), Heartbeat(run, "train", Work("training")):
        raise error
    found = read_state(run.path)
    assert found.state == state
    assert type(error).__name__ in found.error


def test_what_else_there_is_to_say_is_asked_at_every_beat(run):
    counts = {"signals": 1}
    with Heartbeat(run, "distill", Work("training")) as beat:
        beat.tell(lambda: {"teachers": dict(counts)})
        counts["signals"] = 4
    assert read_state(run.path).more == {"teachers": {"signals": 4}}


@pytest.mark.parametrize(
    "problem", [OSError(28, "No space left on device"), StorageError("s3://b/r: denied")]
)
def test_a_full_disk_stops_nothing_and_is_told_once(run, problem, monkeypatch, caplog):
    def full(path, content):
        raise problem

    monkeypatch.setattr(module, "write_json", full)
    with Heartbeat(run, "train", Work("training")) as beat:
        beat.at(done=1)
    told = [record for record in caplog.records if "written down" in record.getMessage()]
    assert len(told) == 1


def test_starting_is_noted_and_handed_over(run):
    with noted(run, "distill", "starting teacher hosts"):
        assert read_state(run.path).state == "starting"
    # Whoever trains now says so itself.
    assert read_state(run.path).state == "starting"
    assert read_state(run.path).work.what == "starting teacher hosts"


def test_a_start_that_fails_is_noted(run):
    with pytest.raises(ValueError, match="no room"), noted(run, "distill", "starting"):
        raise ValueError("no room")
    assert read_state(run.path).state == "failed"
    assert "no room" in read_state(run.path).error


def test_what_a_run_says_of_its_own_end_stays(run):
    with pytest.raises(RuntimeError), Heartbeat(run, "train", Work("training", 3, 9)):
        raise RuntimeError("first")
    note_end(run, "train", RuntimeError("the group failed"))
    assert "first" in read_state(run.path).error


def test_the_end_of_a_process_that_could_not_say_anything_is_noted(run):
    with Heartbeat(run, "train", Work("training", 3, 9)):
        before = read_state(run.path)
        note_end(run, "train", RuntimeError("worker killed"))
        after = read_state(run.path)
    assert (before.state, after.state) == ("running", "failed")
    assert after.work == before.work


@pytest.mark.parametrize("error", [RuntimeError("closed by peer"), SystemExit(1)])
@pytest.mark.parametrize("end", [ValueError("no teachers left"), KeyboardInterrupt()])
def test_an_error_in_a_worker_group_is_no_end_until_its_driver_says_so(run, error, end):
    driver = this_process()
    with (
        pytest.raises(type(error)),
        Heartbeat(run, "train", Work("training", 3, 9), driver=driver),
    ):
        raise error
    between = read_state(run.path)
    assert (between.state, between.driver) == ("starting", driver)
    assert between.work == Work("restarting", 3, 9)
    assert type(error).__name__ in between.error
    note_end(run, "train", end)
    assert read_state(run.path).work == Work("training", 3, 9)
    with Heartbeat(run, "train", Work("preparing"), driver=driver):
        assert read_state(run.path).state == "running"
        assert read_state(run.path).error is None
        note_end(run, "train", end)
        assert type(end).__name__ in read_state(run.path).error
        assert read_state(run.path).state == (
            "failed" if isinstance(end, ValueError) else "stopped"
        )


def test_the_restart_of_a_group_whose_first_worker_was_killed_is_noted(run):
    note_restart(run, RuntimeError("nobody began"))
    assert read_state(run.path) is None
    with Heartbeat(run, "train", Work("training", 3, 9), driver=this_process()):
        note_restart(run, RuntimeError("the actor died"))
        noted_state = read_state(run.path)
        assert (noted_state.state, noted_state.work) == ("starting", Work("restarting", 3, 9))
        assert "the actor died" in noted_state.error
    # What a worker could say itself stays.
    note_restart(run, RuntimeError("later"))
    assert read_state(run.path).error is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "running"}', "null"])
def test_what_cannot_be_read_is_nothing(run, text):
    (run.path / "state.json").write_text(text)
    assert read_state(run.path) is None


def test_keys_of_a_later_version_are_passed_over(run):
    with Heartbeat(run, "train", Work("training", 1, 2)):
        pass
    path = run.path / "state.json"
    content = json.loads(path.read_text())
    driver = this_process()
    content |= {"new": 1, "work": {**content["work"], "newer": 2}}
    content["driver"] = {"pid": driver.pid, "place": driver.place, "newest": 3}
    path.write_text(json.dumps(content))
    assert read_state(run.path).work == Work("training", 1, 2)
    assert read_state(run.path).driver == driver


def test_what_an_earlier_version_wrote_is_read(run):
    with Heartbeat(run, "train", Work("training", 1, 2)):
        pass
    path = run.path / "state.json"
    content = json.loads(path.read_text())
    del content["driver"]
    path.write_text(json.dumps(content))
    assert read_state(run.path).driver is None
