"""Runs that must agree: micro-batches, workers, resumed and uninterrupted, finished twice."""

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny_runs import assert_close, in_two_processes, join_group, last_weights, run, train_lines

from kd_ray.evaluation.run_folder import RunFolder, RunFolderError, read_json_lines
from kd_ray.students import loop
from kd_ray.students.collective import ProcessGroup
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

EXACT = {**tiny.PLAIN_SGD, "training__max_updates": 10, "training__epochs": 4}
"""Ten plain SGD steps without dropout: what rounding leaves is all that may differ."""


def local_source(root):
    folders = [root / "teachers" / f"t{number}" for number in range(3)]
    return LocalSource(load_teachers(folders))


@pytest.mark.parametrize("accumulation", [2, 8])
def test_accumulation_does_not_change_ten_sgd_steps(tiny_root, accumulation):
    source = local_source(tiny_root)
    names = []
    for parts in (1, accumulation):
        name = f"accumulation-{accumulation}-{parts}"
        config = tiny.distill_config(
            name, "teachers.txt", **EXACT, training__accumulation=parts, data__augment=None
        )
        run(config, tiny_root, source=source)
        names.append(name)
    source.close()
    first, second = (last_weights(tiny_root, name) for name in names)
    assert_close(first, second, 1e-5)
    one, other = (train_lines(tiny_root, name) for name in names)
    for mine, theirs in zip(one, other, strict=True):
        for key in ("loss", "grad_norm"):
            if key in mine:
                assert mine[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5)


def _worker(rank, rendezvous, root, config):
    join_group(rank, rendezvous)
    source = local_source(root)
    run(config, root, ProcessGroup(torch.device("cpu")), source)
    source.close()
    torch.distributed.destroy_process_group()


def test_two_workers_take_the_same_ten_sgd_steps_as_one(tiny_root):
    source = local_source(tiny_root)
    run(tiny.distill_config("workers-1", "teachers.txt", **EXACT), tiny_root, source=source)
    source.close()
    two = tiny.distill_config("workers-2", "teachers.txt", **EXACT)
    in_two_processes(_worker, tiny_root, two)
    assert_close(last_weights(tiny_root, "workers-1"), last_weights(tiny_root, "workers-2"), 1e-5)
    one, other = (train_lines(tiny_root, f"workers-{world}") for world in (1, 2))
    assert [line["loss"] for line in one if "loss" in line] == pytest.approx(
        [line["loss"] for line in other if "loss" in line], abs=1e-5
    )
    valid = [
        [line["error_rate_ctc"] for line in lines if line["kind"] == "valid"]
        for lines in (one, other)
    ]
    assert valid[0] == valid[1]
    summaries = [RunFolder(tiny_root, f"workers-{world}").summary() for world in (1, 2)]
    assert summaries[0]["ties"] == summaries[1]["ties"]


@pytest.mark.parametrize("kind", ["train", "distill"])
@pytest.mark.parametrize("killed_at", [1, 4, 5])
def test_a_resumed_run_ends_with_exactly_the_weights_of_an_uninterrupted_one(
    tiny_root, monkeypatch, kind, killed_at
):
    options = {"training__checkpoint_every_updates": 2, "training__schedule": {"type": "new_bob"}}
    names = (f"whole-{kind}-{killed_at}", f"resumed-{kind}-{killed_at}")
    configs = [
        tiny.train_config(name, **options)
        if kind == "train"
        else tiny.distill_config(name, "teachers.txt", **options)
        for name in names
    ]
    source = local_source(tiny_root) if kind == "distill" else None
    run(configs[0], tiny_root, source=source)
    take_update = loop.take_update

    def killed(student, progress, update):
        if update.index == killed_at:
            raise KeyboardInterrupt
        return take_update(student, progress, update)

    monkeypatch.setattr(loop, "take_update", killed)
    with pytest.raises(KeyboardInterrupt):
        run(configs[1], tiny_root, source=source)
    monkeypatch.setattr(loop, "take_update", take_update)
    run(configs[1], tiny_root, source=source)
    first, second = (last_weights(tiny_root, name) for name in names)
    assert all(torch.equal(first[name], second[name]) for name in first)
    one, other = (train_lines(tiny_root, name) for name in names)
    assert one == other
    best = [load_file(tiny_root / "runs" / name / "model" / "model.safetensors") for name in names]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_a_finished_run_is_not_trained_again(tiny_root):
    config = tiny.train_config("twice", training__epochs=1)
    first = run(config, tiny_root)
    lines = train_lines(tiny_root, "twice")
    assert run(config, tiny_root) == first
    assert train_lines(tiny_root, "twice") == lines


def test_a_run_folder_of_another_configuration_is_refused_with_the_difference(tiny_root):
    RunFolder(tiny_root, "other").open(tiny.train_config("other"))
    changed = tiny.train_config("other", training__epochs=3)
    with pytest.raises(RunFolderError, match=r"training\.epochs: 2 before, 3 now"):
        RunFolder(tiny_root, "other").open(changed)


def test_metrics_of_updates_that_are_repeated_are_dropped_first(tmp_path):
    run_folder = RunFolder(tmp_path, "x")
    for update in (1, 2, 3):
        run_folder.metrics({"update": update})
    run_folder.forget_after(2)
    assert [line["update"] for line in read_json_lines(run_folder.path / "metrics.jsonl")] == [1, 2]


def test_a_torn_last_line_is_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"update": 1}) + '\n{"upda')
    assert read_json_lines(path) == [{"update": 1}]


def test_lines_that_ran_together_are_left_out_and_told_of_once(tmp_path, caplog):
    path = tmp_path / "e.jsonl"
    path.write_text('{"update": 1}\n{"upda{"update": 2}\n\n"\xe9"\n{"update": 3}\n')
    for _ in range(2):
        assert read_json_lines(path) == [{"update": 1}, {"update": 3}]
    assert read_json_lines(path, having="3") == [{"update": 3}]
    assert read_json_lines(path, last_bytes=17) == [{"update": 3}]
    assert [r.getMessage() for r in caplog.records] == [f"{path}: 2 torn lines are left out"]


def test_a_run_folder_of_an_older_version_goes_on_with_the_new_defaults(tiny_root):
    config = tiny.train_config("older")
    run_folder = RunFolder(tiny_root, "older").open(config)
    path = run_folder.path / "config.json"
    content = json.loads(path.read_text())
    del content["data"]["source_column"]
    path.write_text(json.dumps(content))
    run_folder.open(config)
