"""Who hears of updates: TensorBoard files, as TensorBoard itself reads them."""

import math

import pytest
import tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import run, run_until, train_lines

from kd_ray.students.reporters import Several, TensorBoard


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def line(update, **figures):
    return {"kind": "train", "update": update, "epoch": 1, **figures}


def test_points_are_means_over_updates(tmp_path):
    with TensorBoard(tmp_path, 2, 0) as board:
        for update, loss in ((1, 4.0), (2, 2.0), (3, 1.0), (4, math.nan), (5, 7.0)):
            board.metrics(line(update, loss=loss, student_s=0.5))
        board.metrics({"kind": "valid", "update": 5, "epoch": 1, "error_rate": 12.0, "seconds": 3})
    found = read(tmp_path)
    assert found["train/loss"] == [(2, 3.0), (4, 1.0), (5, 7.0)]
    assert found["time/student_s"] == [(2, 0.5), (4, 0.5), (5, 0.5)]
    assert found["valid/error_rate"] == [(5, 12.0)]
    assert "valid/seconds" not in found


def test_what_was_told_is_there_when_the_process_is_killed(tmp_path):
    board = TensorBoard(tmp_path, 1, 0)
    board.metrics(line(1, loss=4.0))
    assert read(tmp_path)["train/loss"] == [(1, 4.0)]
    board.__exit__(None, None, None)


def test_a_resumed_run_has_every_step_once(tmp_path):
    with TensorBoard(tmp_path, 1, 0) as board:
        for update in range(1, 8):
            board.metrics(line(update, loss=float(update)))
    # The last checkpoint was after update 4.
    with TensorBoard(tmp_path, 1, 4) as board:
        for update in range(5, 10):
            board.metrics(line(update, loss=float(10 * update)))
    assert read(tmp_path)["train/loss"] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0), (6, 60.0), (7, 70.0), (8, 80.0),
        (9, 90.0),
    ]  # fmt: skip


def test_a_training_writes_what_its_metrics_say_also_when_it_is_resumed(tiny_root):
    config = tiny.train_config("boarded", training__tensorboard_every_updates=1)
    run_until(4, config, tiny_root, None)
    run(config, tiny_root)
    found = read(tiny_root / "runs" / "boarded" / "tensorboard")
    lines = train_lines(tiny_root, "boarded")
    updates = [each for each in lines if each["kind"] == "train"]
    assert [step for step, _ in found["train/loss"]] == [each["update"] for each in updates]
    for name in ("loss", "lr", "grad_norm", "tokens"):
        assert [value for _, value in found[f"train/{name}"]] == pytest.approx(
            [each[name] for each in updates]
        )
    valid = [each for each in lines if each["kind"] == "valid"]
    assert [value for _, value in found["valid/error_rate_ctc"]] == pytest.approx(
        [each["error_rate_ctc"] for each in valid]
    )
    assert {"time/data_s", "time/teacher_wait_s", "time/student_s"} <= set(found)


def test_without_the_key_there_is_no_folder(tiny_root):
    run(tiny.train_config("unboarded", training__epochs=1), tiny_root)
    assert not (tiny_root / "runs" / "unboarded" / "tensorboard").exists()


def test_a_scheduled_share_of_the_teachers_is_a_figure(tiny_root):
    from kd_ray.teachers.local_source import LocalSource
    from kd_ray.teachers.teacher import load_teachers

    config = tiny.distill_config(
        "scheduled",
        "teachers.txt",
        distillation__gold_weight={"start": 0.0, "final": 0.5},
    )
    source = LocalSource(load_teachers([tiny_root / f"teachers/t{n}" for n in range(3)], "cpu"))
    run(config, tiny_root, source=source)
    alphas = [each["alpha"] for each in train_lines(tiny_root, "scheduled") if "alpha" in each]
    assert alphas[0] == pytest.approx(1.0)
    assert alphas == sorted(alphas, reverse=True)


def test_several_hear_everything_in_order():
    heard = []

    class Ear:
        def __init__(self, name):
            self.name = name

        def metrics(self, values):
            heard.append((self.name, values["update"]))

        def event(self, kind, **details):
            heard.append((self.name, kind, details))

    both = Several([Ear("a"), Ear("b")])
    both.metrics(line(3))
    both.event("skipped_update", update=3)
    assert heard == [
        ("a", 3), ("b", 3),
        ("a", "skipped_update", {"update": 3}), ("b", "skipped_update", {"update": 3}),
    ]  # fmt: skip
