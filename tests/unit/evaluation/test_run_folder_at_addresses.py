"""The working copy of a run at an address: kept while the run is open, let go afterwards."""

import json
import shutil

import pytest
import tiny

from kd_ray import storage
from kd_ray.commands.status import status
from kd_ray.config.places import local_path
from kd_ray.evaluation.heartbeat import Heartbeat, Work, read_state
from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.report.runs import read_run
from kd_ray.storage import StorageError, cache


def config(name="a"):
    return tiny.train_config(name)


def pinned():
    return cache.the_cache()._pins


def fill(far):
    for number in range(6):
        storage.fetch(far.write(f"audio/{number}.wav", bytes(4000)))


def test_its_files_stay_until_the_run_is_closed(far):
    far.small_cache(kib=10)
    with RunFolder(far.root, "a").opened(config()) as run:
        RunFolder(far.root, "a").join()
        with RunFolder(far.root, "a").opened(config()):
            pass
        fill(far)
        assert (run.path / "config.json").exists()
    fill(far)
    assert not (run.path / "config.json").exists()
    assert not pinned()


def test_reading_runs_keeps_nothing(far):
    for number in range(3):
        far.write(f"runs/{number}/config.json", json.dumps({"name": f"{number}"}))
        run = read_run(far.root / f"runs/{number}", f"{number}", "student")
        assert run.name == f"{number}"
    assert not pinned()


def test_a_run_that_this_process_writes_is_kept_when_it_is_read(far):
    with RunFolder(far.root, "a").opened(config()) as run:
        read_run(run.path, "a", "student")
        assert list(pinned()) == [run.path]


def test_only_the_folder_itself_is_brought_and_sent_where_that_is_asked_for(far):
    with RunFolder(far.root, "a").opened(config()) as run:
        (run.path / "model").mkdir()
        (run.path / "model/weights").write_text("old")
        run.publish()
        (run.path / "model/weights").write_text("never sent")
    far.write("runs/a/model/weights", "newer, by another node")
    far.later("runs/a/model/weights")
    far.write("runs/a/checkpoints/update-1/state.json", "{}")
    with RunFolder(far.root, "a").opened(config(), whole=False) as run:
        run.event("seen")
    assert not (run.path / "checkpoints/update-1/state.json").exists()
    assert (far.folder / "runs/a/model/weights").read_text() == "newer, by another node"
    assert "seen" in (far.folder / "runs/a/events.jsonl").read_text()


def refuse(*given, **named):
    raise StorageError("cannot write")


def fails_and_cannot_send(run, monkeypatch):
    with run.opened(config()):
        monkeypatch.setattr("kd_ray.evaluation.run_folder.publish_folder", refuse)
        raise RuntimeError("no teachers")


def test_the_error_of_a_run_comes_out_where_the_address_refuses_what_is_sent(far, monkeypatch):
    with pytest.raises(RuntimeError, match="no teachers"):
        fails_and_cannot_send(RunFolder(far.root, "a"), monkeypatch)
    assert not list((far.folder / "runs/a").glob(".kd_ray-lease.json"))
    assert not pinned()


def test_an_address_that_refuses_stops_no_heartbeat(far, monkeypatch, caplog):
    run = RunFolder(far.root, "a")
    run.path.mkdir(parents=True)
    monkeypatch.setattr("kd_ray.evaluation.run_folder.publish", refuse)
    with (
        pytest.raises(RuntimeError, match="the real error"),
        Heartbeat(run, "train", Work("training")),
    ):
        raise RuntimeError("the real error")
    assert "the real error" in read_state(local_path(run.path)).error
    told = [record for record in caplog.records if "written down" in record.getMessage()]
    assert len(told) == 1


def kinds(run):
    return [event["kind"] for event in run.events()]


def test_looking_at_a_run_keeps_events_that_were_not_sent_yet(far):
    with RunFolder(far.root, "a").opened(config()) as run:
        run.event("pool_started")
        # Another node's worker has sent its own meanwhile.
        far.write("runs/a/events.jsonl", '{"time": 1.0, "kind": "worker_started"}\n')
        status("a", far.root)
        read_run(run.path, "a", "student")
        assert kinds(run) == ["worker_started", "pool_started"]
    sent = (far.folder / "runs/a/events.jsonl").read_text()
    assert "pool_started" in sent


def test_events_of_a_run_that_was_removed_do_not_come_back(far):
    with RunFolder(far.root, "a").opened(config()) as run:
        run.event("host_died")
    run.event("told_too_late_to_be_sent")
    shutil.rmtree(far.folder / "runs/a")
    with RunFolder(far.root, "a").opened(config()) as run:
        assert kinds(run) == []
        run.event("started")
    assert "host_died" not in (far.folder / "runs/a/events.jsonl").read_text()


def test_what_was_never_sent_is_not_taken_for_removed(far):
    run = RunFolder(far.root, "a")
    run.event("pool_started")
    with run.opened(config()):
        assert kinds(run) == ["pool_started"]
