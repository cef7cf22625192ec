"""A run that was killed while it replaced `model/`: the older model is still there, under a dot."""

import pytest
import tiny
import torch

from kd_ray.evaluation.system import (
    UnusableSystem,
    load_system,
    read_teacher_list,
    resolve_checkpoint,
    system_name,
)
from kd_ray.models import checkpoint
from kd_ray.models.checkpoint import load_model, save_model
from kd_ray.teachers.cards import card_of


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """A run folder between the two renames of `save_model`."""
    tiny.make_corpus(tmp_path)
    (source,) = tiny.make_teachers(tmp_path, 1)
    loaded = load_model(tmp_path / source)
    run = tmp_path / "runs" / "student"
    save_model(run / "model", loaded.model, tokens=loaded.tokens, extra={})
    (run / "checkpoints").mkdir()
    (run / "config.json").write_text("{}")
    rename, renames = checkpoint.os.rename, []

    def fail(before, after):
        renames.append(before)
        if len(renames) == 2:
            raise KeyboardInterrupt
        rename(before, after)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "rename", fail)
        with pytest.raises(KeyboardInterrupt):
            save_model(run / "model", loaded.model, tokens=loaded.tokens, extra={})
    assert not (run / "model").exists()
    return run


@pytest.mark.parametrize("folder", ["runs/student", "runs/student/model"])
def test_it_is_a_system_named_as_its_run(killed, tmp_path, folder):
    system = load_system(tmp_path / folder)
    assert system.name == "student"
    assert system.bytes > 0
    assert system.digest == card_of(tmp_path / folder, 0).info.digest
    assert card_of(tmp_path / folder, 0).info.name == "student"
    model = load_model(tmp_path / "teachers" / "t0").model
    for name, value in system.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


@pytest.mark.parametrize("folder", ["runs/student", "runs/student/model", "runs/*"])
def test_it_can_be_a_teacher(killed, tmp_path, folder):
    (found,) = read_teacher_list([folder], tmp_path)
    assert system_name(found) == "student"


def test_the_next_model_takes_its_place(killed, tmp_path):
    loaded = load_model(tmp_path / "teachers" / "t0")
    save_model(killed / "model", loaded.model, tokens=loaded.tokens, extra={})
    assert resolve_checkpoint(killed) == killed / "model"
    assert not resolve_checkpoint(killed).name.startswith(".")
    assert sorted(path.name for path in killed.iterdir()) == ["checkpoints", "config.json", "model"]


def test_a_run_without_any_model_says_so(tmp_path):
    run = tmp_path / "runs" / "young"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    with pytest.raises(UnusableSystem, match="without a model yet"):
        resolve_checkpoint(run)
