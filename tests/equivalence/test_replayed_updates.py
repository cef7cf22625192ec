"""Skipped updates of every kind of student: the run goes on, and `kd-ray replay` repeats them."""

import pytest
import tiny
from tiny_runs import run, train_lines

from kd_ray.config.commands import TrainConfig
from kd_ray.config.load import check_as
from kd_ray.students import loop
from kd_ray.students.replay import replay_update

READER = {"type": "text_to_text", "encoder": tiny.ATTENTION, "decoder": tiny.ATTENTION}


def reader_config(name):
    """A student that reads phones, and writes them."""
    texts = {"data__source_column": "phones", "data__source_tokens": "data/tokens.json"}
    content = tiny.train_config(name, **texts).model_dump(mode="json")
    changes = {"model": READER, "loss": {"ctc_weight": 0.0}}
    return check_as(TrainConfig, {**content, **changes}, "test")


def failed_updates(root, name):
    return sorted((root / "runs" / name / "failed_updates").iterdir())


def test_a_student_of_text_goes_on_behind_a_skipped_update_which_can_be_replayed(
    tiny_root, monkeypatch
):
    # The first update counts as failed, though its figures are finite: they can be compared.
    answers = iter([False])
    monkeypatch.setattr(loop.math, "isfinite", lambda value: next(answers, True))
    run(reader_config("reader"), tiny_root)
    monkeypatch.undo()
    assert [line["update"] for line in train_lines(tiny_root, "reader") if "loss" in line] == [
        1, 2, 3, 4, 5, 6
    ]  # fmt: skip
    (folder,) = failed_updates(tiny_root, "reader")
    assert (folder / "replay.yaml").is_file()
    result = replay_update(folder)
    assert result.loss == result.recorded_loss
    assert result.grad_norm == pytest.approx(result.recorded_grad_norm, rel=1e-6)
    assert len(result.utterances) == 8


def test_a_replay_leaves_the_encoder_out_for_as_long_as_the_run_did(tiny_root, monkeypatch):
    config = tiny.train_config(
        "frozen-at-first", training__epochs=1, training__freeze_encoder_updates=2
    )
    monkeypatch.setattr(loop.math, "isfinite", lambda value: False)
    run(config, tiny_root)
    monkeypatch.undo()
    for folder in failed_updates(tiny_root, "frozen-at-first"):
        result = replay_update(folder)
        assert result.grad_norm == pytest.approx(result.recorded_grad_norm, rel=1e-6)


def test_a_diverged_student_is_validated_and_stopped_by_its_skipped_updates(tiny_root):
    """Finite weights, but too large ones: what it writes in validation is worth nothing."""
    config = tiny.train_config(
        "diverged-for-long", training__max_skipped_updates=3,
        training__optimizer={"type": "adam", "lr": 1e36}, training__schedule={"type": "constant"},
    )  # fmt: skip
    with pytest.raises(loop.TrainingStopped, match="4 updates in a row"):
        run(config, tiny_root)
    kinds = [line["kind"] for line in train_lines(tiny_root, "diverged-for-long")]
    assert "valid" in kinds
