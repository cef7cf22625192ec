"""A run whose number of workers changes on the way learns what an uninterrupted one learns."""

import pytest
import tiny
import torch
from test_imitation_runs import PLAIN, imitate, source_of
from tiny_runs import assert_close, in_two_processes, join_group, last_weights, run, train_lines
from traced_updates import trace_of, traced

from kd_ray.evaluation.run_folder import RunFolder
from kd_ray.students.collective import ProcessGroup

ELASTIC = {"workers": {"count": {"min": 1, "max": 2}}, "training__checkpoint_every_updates": 2}
TEACHERS = [f"teachers/t{number}" for number in range(3)]
STOPS = (5, 8)
"""Before these updates (from 0) the group ends; the first one loses an update by it."""


class Stopped(Exception):
    """In place of a lost node."""


def with_masks(name):
    """Dropout, masks on the audio, and weights of teachers that belong to whole requests."""
    return tiny.distill_config(
        name, TEACHERS,
        **{
            **tiny.PLAIN_SGD, **ELASTIC,
            "training__epochs": 4,
            "model__encoder__dropout": 0.2,
            "model__decoder__dropout": 0.2,
            "teachers__strategy": {"type": "weighted", "scope": "batch"},
        },
    )  # fmt: skip


def with_rollouts(name, experts):
    """The student's own prefixes: some in flight where the group ends, some read again later."""
    return imitate(
        name, experts, **{**PLAIN, **ELASTIC}, training__epochs=4,
        distillation={
            "beta": {"type": "linear"},
            "staleness": 1,
            "rollout": {"max_length": 6, "reuse_updates": 4, "decoding": "sample"},
        },
    )  # fmt: skip


def configs_of(kind, experts):
    return [with_masks(f"{kind}-masks"), with_rollouts(f"{kind}-rollouts", experts)]


def train(root, config, collective=None, *, stop=None):
    """Train until the end, or until update `stop`."""

    def allow(index):
        if index == stop:
            raise Stopped

    source = source_of(root, config.teachers.list)
    try:
        with traced(root / "traces" / config.name, allow):
            run(config, root, collective, source)
    except Stopped:
        pass
    finally:
        source.close()


def _worker(rank, rendezvous, root, configs, stop):
    join_group(rank, rendezvous)
    for config in configs:
        train(root, config, ProcessGroup(torch.device("cpu")), stop=stop)
    torch.distributed.destroy_process_group()


def train_with_two(root, configs, *, stop=None):
    in_two_processes(_worker, root, configs, stop)


@pytest.fixture(scope="module")
def runs(tiny_root):
    """Both settings, with 1 worker from beginning to end, and with 2, then 1, then 2."""
    experts = tiny.make_experts(tiny_root)
    for config in configs_of("whole", experts):
        train(tiny_root, config)
    changing = configs_of("changing", experts)
    train_with_two(tiny_root, changing, stop=STOPS[0])
    for config in changing:
        train(tiny_root, config, stop=STOPS[1])
    train_with_two(tiny_root, changing)
    return tiny_root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masks", "rollouts"])
def test_two_then_one_then_two_workers_learn_what_one_learns(runs, kind):
    whole, changing = (
        trace_of(runs / "traces" / f"{name}-{kind}") for name in ("whole", "changing")
    )
    assert [each["world"] for each in whole] == [1] * 12
    assert [each["world"] for each in changing] == [2] * 4 + [1] * 4 + [2] * 4
    for mine, theirs in zip(whole, changing, strict=True):
        assert mine["ids"] == theirs["ids"]
        assert mine["micro_batches"] == theirs["micro_batches"]
        assert sorted(name for rows in mine["micro_batches"] for name in rows) == sorted(
            mine["ids"]
        )
    first, second = (train_lines(runs, f"{name}-{kind}") for name in ("whole", "changing"))
    assert [line["update"] for line in first] == [line["update"] for line in second]
    for mine, theirs in zip(first, second, strict=True):
        for key in ("loss", "replaced_share", "rollout_reused_share", "error_rate"):
            if key in mine:
                assert mine[key] == pytest.approx(theirs[key], abs=1e-5), (mine["update"], key)
    assert_close(last_weights(runs, f"whole-{kind}"), last_weights(runs, f"changing-{kind}"), 1e-5)
    summaries = [RunFolder(runs, f"{name}-{kind}").summary() for name in ("whole", "changing")]
    assert summaries[0]["ties"] == summaries[1]["ties"]
    assert summaries[0]["updates"] == summaries[1]["updates"] == 12


@pytest.mark.slow
def test_the_test_has_something_to_see(runs):
    lines = [line for line in train_lines(runs, "whole-rollouts") if line["kind"] == "train"]
    assert max(line["replaced_share"] for line in lines) > 0.5
    assert max(line.get("rollout_reused_share", 0.0) for line in lines) > 0
