"""A run whose root is an address is the run of a local root: weights, figures, store, resume."""

import json
import os
import shutil

import pytest
import tiny
from tiny_runs import last_weights, run, run_until, train_lines

from kd_ray.commands.evaluate import evaluate
from kd_ray.commands.status import status
from kd_ray.config.commands import EvaluateConfig
from kd_ray.evaluation.run_folder import RunFolder, RunFolderError, read_json_lines
from kd_ray.evaluation.system import load_system, read_teacher_list
from kd_ray.report.evaluations import read_evaluated
from kd_ray.storage import StorageError, fetch_folder


@pytest.fixture
def far_root(far, tiny_root):
    """`tiny_root` at an address."""
    for name in ("data", "teachers"):
        shutil.copytree(tiny_root / name, far.folder / name)
    shutil.copy(tiny_root / "teachers.txt", far.folder)
    return far


def config(name="far/run", **changes):
    return tiny.train_config(name, training__checkpoint_every_updates=2, **changes)


def equal(first, second):
    assert first.keys() == second.keys()
    return all((first[name] == second[name]).all() for name in first)


def test_a_run_at_an_address_resumes_on_another_node(far_root, tiny_root):
    run(config(), tiny_root)
    run_until(5, config(), far_root.root, None)
    folder = far_root.folder / "runs/far/run"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "update-00000003",
        "update-00000004",
    }
    far_root.other_node()
    run(config(), far_root.root)
    far_root.other_node()
    assert equal(last_weights(tiny_root, "far/run"), last_weights(far_root.folder, "far/run"))
    assert train_lines(tiny_root, "far/run") == train_lines(far_root.folder, "far/run")
    kinds = [event["kind"] for event in read_json_lines(folder / "events.jsonl")]
    assert kinds.count("resumed") == 1
    assert RunFolder(far_root.root, "far/run").summary()["updates"] == 6
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {"update-00000004", "update-00000006"}


def test_another_configuration_is_refused_on_another_node(far_root):
    run(config(), far_root.root)
    far_root.other_node()
    with pytest.raises(RunFolderError, match=r"training\.seed"):
        RunFolder(far_root.root, "far/run").open(config(training__seed=7))
    run_folder = RunFolder(far_root.root, "far/run").open(config())
    run_folder.close()


def test_events_of_several_nodes_are_merged(far_root):
    first = RunFolder(far_root.root, "far/events").open(config("far/events"))
    first.event("started", node="a")
    first.publish()
    here = os.environ["KD_RAY_CACHE"]
    far_root.other_node()
    second = RunFolder(far_root.root, "far/events")
    second.event("worker_started", node="b")
    second.join()
    assert [event["kind"] for event in second.events()] == ["started", "worker_started"]
    with (second.path / "events.jsonl").open("a") as file:
        # Of a writer that was killed, and the next one.
        file.write('{"time": 1.0, "ki{"time": 2.0}\n')
    second.publish()
    far_root.patch.setenv("KD_RAY_CACHE", here)
    first.event("finished", node="a")
    first.publish()
    first.close()
    events = read_json_lines(far_root.folder / "runs/far/events/events.jsonl")
    assert [event["kind"] for event in events] == ["started", "worker_started", "finished"]


def test_teachers_are_found_and_loaded_from_an_address(far_root, tiny_root):
    folders = read_teacher_list("teachers.txt", far_root.root)
    assert [folder.name for folder in folders] == ["t0", "t1", "t2"]
    assert folders == read_teacher_list(["teachers/*"], far_root.root)
    here, there = load_system(tiny_root / "teachers/t0"), load_system(folders[0])
    assert here.digest == there.digest
    assert there.bytes == here.bytes


def test_a_student_distils_from_teachers_at_an_address(far_root, tiny_root):
    """The root is local, single keys are addresses."""
    import torch

    from kd_ray.teachers.local_source import LocalSource
    from kd_ray.teachers.teacher import load_teachers

    address = f"file://{far_root.folder}"
    local = tiny.distill_config("far/distilled", "teachers.txt")
    mixed = tiny.distill_config(
        "far/mixed",
        f"{address}/teachers.txt",
        data__train=f"{address}/data/train.parquet",
        data__tokens=f"{address}/data/tokens.json",
    )
    for each, root in ((local, tiny_root), (mixed, tiny_root)):
        folders = (
            read_teacher_list(each.teachers.list, root)
            if each is local
            else read_teacher_list([f"{address}/teachers/t{n}" for n in range(3)], root)
        )
        torch.manual_seed(0)
        run(each, root, source=LocalSource(load_teachers(folders)))
    assert equal(last_weights(tiny_root, "far/distilled"), last_weights(tiny_root, "far/mixed"))
    written = json.loads((tiny_root / "runs/far/mixed/config.json").read_text())
    assert written["data"]["train"] == f"{address}/data/train.parquet"


def test_a_run_that_somebody_writes_is_refused(far_root, monkeypatch):
    first = RunFolder(far_root.root, "far/twice").open(config("far/twice"))
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(StorageError, match="is being written by process"):
        RunFolder(far_root.root, "far/twice").open(config("far/twice"))
    monkeypatch.undo()
    first.close()
    RunFolder(far_root.root, "far/twice").open(config("far/twice")).close()


def test_an_evaluation_lets_its_folder_go(far_root, tiny_root):
    asked = EvaluateConfig(
        command="evaluate",
        name="far/evaluated",
        systems={"teachers": ["teachers/t0"]},
        splits={"valid": "data/valid.parquet"},
        tokens="data/tokens.json",
        speed_utterances=0,
    )
    results = evaluate(asked, far_root.root)
    folder = far_root.folder / "runs/far/evaluated"
    assert not list(folder.glob(".kd_ray-lease.json"))
    assert results["systems"] == evaluate(asked, tiny_root)["systems"]
    far_root.other_node()
    there = read_evaluated(fetch_folder(far_root.root / "runs/far/evaluated"))
    assert there.hypotheses is not None
    assert evaluate(asked, far_root.root) == results, "what is scored is found again"


def test_its_status_can_be_seen_from_another_node(far_root, tiny_root):
    run_until(4, config(), far_root.root, None)
    far_root.other_node()
    for name in ("far/run", f"file://{far_root.folder}/runs/far/run"):
        (seen,) = status(name, far_root.root)
        assert (seen.state, seen.work.done) == ("stopped", 4)
    assert not list(far_root.root.rglob("*.safetensors"))
    run(config(), far_root.root)
    assert [each.state for each in status("far", far_root.root)] == ["finished"]
