"""How a run is doing, read from folders in every state."""

import json
import os
import time
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from kd_ray.evaluation.heartbeat import Heartbeat, Process, RunState, Work
from kd_ray.evaluation.run_folder import RunFolder, write_json, write_json_lines
from kd_ray.report.run_status import find_runs, judge, read_status
from kd_ray.report.run_status_tables import show_run, show_runs
from kd_ray.storage import place_of_processes

NOW = 1_000_000.0
NOBODY = 2**22 + 1
"""No process has this number."""


def state(**changes):
    known = RunState(
        state="running", command="distill", pid=os.getpid(), host="here", place="elsewhere",
        started=NOW - 600, beat=NOW - 3, moved=NOW - 4,
        work=Work("training", 340, 1200, epoch=3, epochs=12), rate=3.1, left_s=277.0,
    )  # fmt: skip
    return replace(known, **changes)


def here(pid, driver, **changes):
    """Of a worker group on this machine."""
    place = place_of_processes()
    return state(pid=pid, place=place, driver=Process(driver, place), **changes)


def make(root, name="a", *, said=None, summary=None, updates=0, **config):
    run = RunFolder(root, name)
    run.path.mkdir(parents=True)
    write_json(run.path / "config.json", {"command": "distill", "name": name, **config})
    if said is not None:
        write_json(run.path / "state.json", asdict(said))
    if summary is not None:
        write_json(run.path / "summary.json", summary)
    lines = []
    for update in range(1, updates + 1):
        lines.append({
            "kind": "train", "update": update, "epoch": 1 + update // 10, "loss": 2.0, "lr": 0.1,
            "data_s": 0.1, "teacher_wait_s": 0.2, "student_s": 0.7, "utterances": 8, "frames": 500,
        })  # fmt: skip
        if update % 10 == 0:
            rate = abs(30 - update)
            lines.append({
                "kind": "valid", "update": update, "epoch": update // 10, "error_rate": rate,
                "error_rate_ctc": rate, "best_error_rate": min(rate, 20), "seconds": 1.0,
            })  # fmt: skip
    write_json_lines(run.path / "metrics.jsonl", lines)
    return run.path


@pytest.mark.parametrize(
    ("said", "summary", "expected"),
    [
        (None, {}, "unfinished"),
        (None, {"status": "finished"}, "finished"),
        (state(), {}, "running"),
        (state(), {"status": "finished"}, "finished"),
        (state(beat=NOW - 61), {}, "stale"),
        (state(state="starting", beat=NOW - 61), {}, "starting"),
        (state(state="starting", beat=NOW - 1000), {}, "stale"),
        (state(state="failed", beat=NOW - 9999), {}, "failed"),
        (state(state="stopped"), {}, "stopped"),
        (state(state="finished"), {}, "unfinished"),
        (state(place=place_of_processes(), pid=NOBODY), {}, "died"),
        (state(place=place_of_processes()), {}, "running"),
        # A number on another machine says nothing here.
        (state(pid=NOBODY), {}, "running"),
        # A group goes on without each of its workers, as long as there is who starts them.
        (here(NOBODY, os.getpid()), {}, "running"),
        (here(os.getpid(), NOBODY), {}, "died"),
        (here(NOBODY, os.getpid(), state="starting"), {}, "starting"),
        (here(NOBODY, NOBODY, state="starting"), {}, "died"),
        (replace(here(NOBODY, 1), driver=Process(NOBODY, "elsewhere")), {}, "running"),
    ],
)
def test_the_state_of_a_run(said, summary, expected):
    assert judge(said, summary, NOW, 60.0) == expected


def test_a_run_at_work_is_told_at_length(tmp_path):
    folder = make(
        tmp_path, said=state(more={"teachers": {"signals": 12, "number": 4, "missing_answers": 2,
                                                "shortened_signals": 1, "teacher_s": 5.0}}),
        updates=45, teachers={"source": {"type": "pool", "quorum": 0.5, "name": "demo"},
                              "strategy": {"type": "weighted"}},
    )  # fmt: skip
    write_json_lines(
        folder / "events.jsonl",
        [{"time": NOW, "kind": "pool_attached"}, {"time": NOW, "kind": "host_died", "host": "h"},
         {"time": NOW, "kind": "host_died", "host": "h"}],
    )  # fmt: skip
    for update in (20, 40):
        (folder / "checkpoints" / f"update-{update:08d}").mkdir(parents=True)
    (folder / "checkpoints" / ".update-00000050.part").mkdir()
    found = read_status(folder, "a", now=NOW)
    assert found.state == "running"
    assert found.work == Work("training", 340, 1200, epoch=3, epochs=12)
    assert (found.rate, found.left_s, found.heard_s) == (3.1, 277.0, 3.0)
    assert found.train["update"] == 45
    assert found.valid["update"] == 40
    assert found.best["update"] == 30
    assert found.time_split == pytest.approx(
        {"data": 4.5, "rollout": 0.0, "teacher": 9.0, "student": 31.5}
    )
    assert found.speeds == pytest.approx({"utterances": 8.0, "frames": 500.0})
    assert found.events == {"host_died": 2}
    assert found.checkpoints == [20, 40]
    assert found.teachers == {
        "source": "pool", "strategy": "weighted", "quorum": 0.5, "pool": "demo", "signals": 12,
        "number": 4, "missing_answers": 2, "shortened_signals": 1, "teacher_s": 5.0,
    }  # fmt: skip
    json.dumps(asdict(found))
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    show_run(found, console)
    text = console.export_text()
    for part in (
        "a: running (distill)", "epoch 3/12  update 340/1200  28 %  3.1 updates/s  5 min left",
        "2 answers missing in 1 signals", "2 host_died", "update 20, update 40",
        "epoch 3: ctc 0.00 %", "data 10 %, rollout 0 %, teacher 20 %, student 70 %",
    ):  # fmt: skip
        assert part in text


def test_a_torn_line_and_a_long_file_are_read(tmp_path, monkeypatch):
    folder = make(tmp_path, updates=50)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tr{"kind": "train", "update": 51}\n{"kind": "train", "update": 52')
    monkeypatch.setattr("kd_ray.report.run_status._TAIL_BYTES", 900)
    found = read_status(folder, "a", now=NOW)
    assert found.train["update"] == 50
    assert found.best["update"] == 30
    assert found.state == "unfinished"
    assert found.work.done == 50
    assert read_status(folder, "a", now=NOW, whole=False).best["update"] == 50


def test_the_error_of_a_failed_run_is_told(tmp_path):
    run = RunFolder(tmp_path, "a")
    make(tmp_path)
    with (
        pytest.raises(RuntimeError, match="no quorum"),
        Heartbeat(run, "distill", Work("training", 3, 9)),
    ):
        raise RuntimeError("no quorum")
    found = read_status(run.path, "a")
    assert (found.state, found.error) == ("failed", "RuntimeError: no quorum")
    assert found.rate is None
    run.write_summary({"status": "finished", "seconds": 65.0})
    found = read_status(run.path, "a")
    assert (found.state, found.error) == ("finished", None)


def test_between_two_worker_groups_a_run_is_at_work(tmp_path):
    make(tmp_path)
    run, driver = RunFolder(tmp_path, "a"), Process(os.getpid(), place_of_processes())
    with (
        pytest.raises(RuntimeError),
        Heartbeat(run, "distill", Work("training", 3, 9), driver=driver),
    ):
        raise RuntimeError("Connection closed by peer")
    found = read_status(run.path, "a")
    assert (found.state, found.at_work) == ("starting", True)
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    show_run(found, console)
    text = console.export_text()
    assert "restarting  update 3/9" in text
    assert "Connection closed by peer" in text


def test_runs_are_found_and_checkpoints_are_none(tmp_path):
    for name in ("demo/teachers/t1", "demo/teachers/t0", "demo/students/b"):
        folder = make(tmp_path, name)
        write_json(folder / "model" / "config.json", {"architecture": {}, "command": "no"})
        write_json(folder / "checkpoints" / "update-00000001" / "model" / "config.json", {})
    write_json(tmp_path / "runs" / "demo" / "search" / "config.json", {"command": "search"})
    make(tmp_path, "demo/search/trials/x-s1")
    (tmp_path / "runs" / "demo" / "store" / "split=train").mkdir(parents=True)
    found = [str(each.relative_to(tmp_path / "runs")) for each in find_runs(tmp_path / "runs")]
    assert found == [
        "demo/search", "demo/search/trials/x-s1", "demo/students/b", "demo/teachers/t0",
        "demo/teachers/t1",
    ]  # fmt: skip


def test_several_runs_have_a_line_each(tmp_path):
    now = time.time()
    folders = {
        "t0": make(tmp_path, "t0", summary={"status": "finished"}, updates=20),
        "t1": make(tmp_path, "t1", said=state(beat=now), updates=20),
        "t2": tmp_path / "runs" / "t2",
    }
    statuses = [read_status(path, name, now=now) for name, path in folders.items()]
    assert [each.state for each in statuses] == ["finished", "running", "waiting"]
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    show_runs(statuses, console)
    text = console.export_text()
    assert "1 finished, 1 running, 1 waiting" in text
    assert "3.1 updates/s" in text
