"""What a worker group is started with, without starting one."""

import pytest
import tiny
from ray.exceptions import ActorDiedError

from kd_ray.cluster import trainer
from kd_ray.evaluation.heartbeat import Heartbeat, Work, read_state, this_process
from kd_ray.evaluation.run_folder import RunFolder


@pytest.fixture
def started(monkeypatch):
    """Keyword arguments of Ray Train's trainer, by a stand-in that starts nothing."""
    given = {}
    monkeypatch.setattr(trainer, "ensure_ray", lambda **options: None)
    monkeypatch.setattr(trainer, "TorchTrainer", lambda worker, **options: given.update(options))
    return given


def test_workers_take_what_the_configuration_says(started, tmp_path):
    workers = {
        "count": 2, "cpus": 3, "resources_per_worker": {"students": 1},
        "label_selector": {"kd-ray-role": "students"},
    }  # fmt: skip
    config = tiny.train_config("placed", workers=workers)
    trainer._trainer(trainer.TrainingJob(config, tmp_path), RunFolder(tmp_path, "placed"))
    scaling = started["scaling_config"]
    assert scaling.num_workers == 2
    assert scaling.resources_per_worker == {"CPU": 3, "students": 1}
    assert scaling.label_selector == {"kd-ray-role": "students"}


def test_lost_workers_are_told_to_the_run_folder(started, tmp_path):
    run, config = RunFolder(tmp_path, "some"), tiny.train_config("some", workers={"count": 2})
    run.path.mkdir(parents=True)
    trainer._trainer(trainer.TrainingJob(config, tmp_path), run)
    with Heartbeat(run, "train", Work("training"), driver=this_process()):
        for callback in started["run_config"].callbacks:
            callback.after_exception(None, {1: OSError("lost"), 0: RuntimeError("first")})
        assert read_state(run.path).state == "starting"
        assert read_state(run.path).error == "RuntimeError: first"


def test_workers_may_go_anywhere_by_default(started, tmp_path):
    config = tiny.train_config("anywhere", workers={"count": 2})
    trainer._trainer(trainer.TrainingJob(config, tmp_path), RunFolder(tmp_path, "anywhere"))
    assert started["scaling_config"].resources_per_worker == {"CPU": 1}
    assert started["scaling_config"].label_selector is None


def test_a_group_that_may_change_is_asked_for_as_such(started, tmp_path):
    workers = {"count": {"min": 1, "max": 2, "look_every_s": 7}}
    config = tiny.train_config("some", workers=workers)
    trainer._trainer(trainer.TrainingJob(config, tmp_path), RunFolder(tmp_path, "some"))
    scaling = started["scaling_config"]
    assert (scaling.min_workers, scaling.max_workers) == (1, 2)
    assert scaling.elasticity_enabled
    assert scaling.elastic_resize_monitor_interval_s == 7


@pytest.mark.parametrize("what", ["workers", "hosts"])
def test_a_run_for_special_nodes_does_not_wait_in_a_private_ray(what, tiny_root, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    selector = {"kd-ray-role": "teachers"}
    config = (
        tiny.train_config("nowhere-workers", workers={"label_selector": selector})
        if what == "workers"
        else tiny.distill_config(
            "nowhere-hosts",
            "teachers.txt",
            teachers__source={"type": "pool", "label_selector": selector},
        )
    )
    with pytest.raises(ValueError, match="submit this as a job"):
        trainer.run_training(config, tiny_root)


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        # The first worker's collective broke off as the other one died.
        ({0: RuntimeError("closed by peer"), 1: ActorDiedError()}, "the group: 1 died"),
        ({0: RuntimeError("closed by peer"), 1: ValueError("bad manifest")}, "bad manifest"),
        ({0: OSError("no space left"), 1: RuntimeError("closed by peer")}, "no space left"),
        ({1: RuntimeError("stopped too"), 0: RuntimeError("no quorum")}, "no quorum"),
        ({}, "the group: 1 died"),
    ],
)
def test_the_cause_of_a_failure_comes_out(failures, expected):
    assert str(trainer.cause_of(failures, "the group: 1 died")) == expected
