"""Teachers' label strings that a student cannot learn by CTC are counted and told."""

import logging

import pytest
import tiny
from tiny_runs import run, run_until

from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.students import loop
from kd_ray.students.step import LEFT_OUT
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

# A frame of the student is as long as two of the teachers'.
FEW_FRAMES = {"model__encoder__time_strides": [4, 2], "training__epochs": 2}


@pytest.fixture
def source(tiny_root):
    made = LocalSource(load_teachers([tiny_root / f"teachers/t{each}" for each in range(3)]))
    yield made
    made.close()


def distilled(name, **changes):
    return tiny.distill_config(name, [f"teachers/t{each}" for each in range(3)], **changes)


def lines_and_kinds(root, name):
    folder = RunFolder(root, name).path
    lines = read_json_lines(folder / "metrics.jsonl")
    events = read_json_lines(folder / "events.jsonl") if (folder / "events.jsonl").exists() else []
    updates = [line for line in lines if line["kind"] == "train"]
    return updates, {event["kind"] for event in events}


def test_strings_that_need_more_frames_are_counted_and_told(tiny_root, source, caplog):
    caplog.set_level(logging.WARNING, logger="kd_ray")
    summary = run(distilled("few-frames", **FEW_FRAMES), tiny_root, source=source)
    lines, kinds = lines_and_kinds(tiny_root, "few-frames")
    counted = sum(line["strings_too_long"] for line in lines)
    assert counted == summary["signal"]["strings_too_long"] > 0
    assert 0.05 < summary["signal"]["share_of_strings_too_long"] <= 1
    assert "strings_too_long" in kinds
    assert "need more encoder frames than the student has" in caplog.text

    # A run that was resumed counts the same.
    config = distilled("few-frames-torn", **FEW_FRAMES, training__checkpoint_every_updates=1)
    run_until(4, config, tiny_root, source)
    assert run(config, tiny_root, source=source)["signal"]["strings_too_long"] == counted


def test_nothing_is_told_where_nothing_is_left_out(tiny_root, source, caplog):
    summary = run(distilled("enough-frames", training__epochs=1), tiny_root, source=source)
    _, kinds = lines_and_kinds(tiny_root, "enough-frames")
    assert summary["signal"]["share_of_strings_too_long"] <= 0.05
    assert "strings_too_long" not in kinds
    without = distilled("no-ctc", training__epochs=1, distillation__ctc_weight=0)
    run(without, tiny_root, source=source)
    lines, _ = lines_and_kinds(tiny_root, "no-ctc")
    assert not any(name in line for line in lines for name in LEFT_OUT)


def test_a_student_without_rollouts_looks_ahead(tiny_root, source, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "train", lambda student, progress: seen.append(student))
    monkeypatch.setattr("kd_ray.students.session.train", loop.train)
    for selector in ("never", "always"):
        config = distilled(
            f"looks-ahead-{selector}", training__lookahead=2, distillation__staleness=0,
            distillation__selector={"type": selector}, distillation__data_target="argmax",
            distillation__rollout_target="argmax",
        )  # fmt: skip
        run(config, tiny_root, source=source)
    assert [student.pipeline.lookahead for student in seen] == [2, 0]
