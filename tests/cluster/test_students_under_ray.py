"""Students under Ray: a pool that loses a host, a worker group that loses a worker."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from source_losses import STRATEGIES, TOLERANCE, request_for, rows_of, update_loss

from kd_ray.cluster.pool import PoolSource, TeacherPool
from kd_ray.cluster.trainer import run_training
from kd_ray.commands.selftest import selftest
from kd_ray.config.sources import PoolSource as PoolSection
from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.report.run_status import read_status
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

pytestmark = pytest.mark.ray


def events_of(root, name):
    path = root / "runs" / name / "events.jsonl"
    return read_json_lines(path) if path.exists() else []


def updates_of(root, name):
    path = root / "runs" / name / "metrics.jsonl"
    lines = read_json_lines(path) if path.exists() else []
    return [line["update"] for line in lines if line["kind"] == "train"]


def wait_for(condition, timeout_s=180.0):
    until = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)


@pytest.fixture(scope="module")
def local_and_pool(local_ray, tiny_root):
    """The same three teachers in this process and on two hosts."""
    folders = [tiny_root / "teachers" / f"t{number}" for number in range(3)]
    local = LocalSource(load_teachers(folders))
    with TeacherPool.start(folders, PoolSection(hosts=2, cpus_per_host=0.1)) as pool:
        source = PoolSource(pool.address)
        yield local, source
        source.close()
    local.close()


def test_pool_and_local_give_the_same_loss(local_and_pool, tiny_root):
    rows = rows_of(tiny_root)[:7]
    for strategy in STRATEGIES:
        for dtype, tolerance in TOLERANCE.items():
            config = tiny.distill_config(
                "pool-loss",
                "teachers.txt",
                teachers__strategy=strategy,
                teachers__dtype=dtype,
                distillation__temperature=2.0,
            )
            request = request_for(config, tiny_root, rows)
            losses = [
                update_loss(config, tiny_root, request, each.ask(request).result(60.0))
                for each in local_and_pool
            ]
            assert losses[0] == pytest.approx(losses[1], abs=tolerance)


def test_reverse_kl_gives_the_same_loss_from_pool_and_local(local_and_pool, tiny_root):
    """Two hosts pass on mean log-probabilities, or under `top_m` distributions one by one."""
    rows = rows_of(tiny_root)[:7]
    for strategy in (*STRATEGIES, {"type": "top_m", "m": 2, "scale": 0.1}):
        for dtype, tolerance in TOLERANCE.items():
            config = tiny.distill_config(
                "pool-reverse",
                "teachers.txt",
                teachers__strategy=strategy,
                teachers__dtype=dtype,
                distillation={"divergence": "reverse_kl", "ctc_weight": 0.0, "temperature": 2.0},
            )
            request = request_for(config, tiny_root, rows)
            mine, theirs = (each.ask(request).result(60.0) for each in local_and_pool)
            assert mine.fusing == theirs.fusing == "geometric"
            assert len(theirs.answered) == 3
            np.testing.assert_allclose(mine.weights_tokens, theirs.weights_tokens, atol=1e-6)
            np.testing.assert_allclose(
                np.exp(mine.tokens.log_probs), np.exp(theirs.tokens.log_probs), atol=tolerance
            )
            losses = [update_loss(config, tiny_root, request, each) for each in (mine, theirs)]
            assert losses[0] == pytest.approx(losses[1], abs=tolerance)


def test_experts_in_the_pool_score_the_same_rollouts_as_in_this_process(local_ray, tiny_root):
    experts = tiny.make_experts(tiny_root)
    losses = {}
    for source in ({"type": "local"}, {"type": "pool", "hosts": 2, "batching": "per_request"}):
        name = f"imitate-{source['type']}"
        config = tiny.distill_config(
            name,
            experts,
            **tiny.PLAIN_SGD,
            teachers__source=source,
            teachers__reads="phones",
            teachers__strategy={"type": "average"},
            distillation={"preset": "imitkd_full", "beta": {"type": "linear"}, "staleness": 1},
        )
        run_training(config, tiny_root)
        lines = read_json_lines(tiny_root / "runs" / name / "metrics.jsonl")
        train = [line for line in lines if line["kind"] == "train"]
        losses[source["type"]] = [(line["loss"], line["replaced_share"]) for line in train]
    assert losses["local"][-1][1] > 0
    for mine, theirs in zip(losses["local"], losses["pool"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


ON_THE_FLY = {
    "teachers__reads": "asr_transcript",
    "teachers__recognizer": {"system": "teachers/t0"},
}


@pytest.mark.parametrize(
    ("preset", "more", "reads"),
    [
        pytest.param(
            "imitkd_transcripts",
            {"beta": {"type": "linear"}, "staleness": 1},
            ON_THE_FLY,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "checked_prefix",
            {"selector": {"metric": "chrf", "threshold": 0.15}},
            {},
            marks=pytest.mark.slow,
        ),
        # Its experts transcribe, score and write.
        pytest.param(
            "aggrevate",
            {"aggrevate": {"reward": "chrf", "action": "expert_argmax"}},
            ON_THE_FLY,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["transcripts", "checked_prefix", "aggrevate"],
)
def test_teachers_in_the_pool_transcribe_and_write_as_in_this_process(
    local_ray, tiny_root, preset, more, reads
):
    experts = tiny.make_experts(tiny_root)
    distillation = {"preset": preset, "rollout": {"max_length": 6, "decoding": "sample"}, **more}
    lines = {}
    for source in ({"type": "local"}, {"type": "pool", "hosts": 2, "batching": "per_request"}):
        config = tiny.distill_config(
            f"writing-{preset}-{source['type']}",
            experts,
            **tiny.PLAIN_SGD,
            training__max_updates=4,
            teachers__source=source,
            teachers__strategy={"type": "average"},
            distillation=distillation,
            **{"teachers__reads": "phones", **reads},
        )
        run_training(config, tiny_root)
        read = read_json_lines(tiny_root / "runs" / config.name / "metrics.jsonl")
        kept = ("loss", "replaced_share", "completion_reward", "end_action_share")
        lines[source["type"]] = [
            [line[name] for name in kept if name in line]
            for line in read
            if line["kind"] == "train"
        ]
    assert len(lines["local"]) == 4
    for mine, theirs in zip(lines["local"], lines["pool"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_student_equal_to_its_teacher_has_nothing_to_learn_from_any_source(local_ray, tiny_root):
    result = selftest(tiny.distill_config("self", "teachers.txt"), tiny_root)
    assert [check.source for check in result.checks] == ["local", "store", "pool"]
    assert result.ok, result


@pytest.mark.slow
def test_a_host_killed_while_a_student_trains_is_reported_and_the_run_ends_well(
    local_ray, tiny_root, monkeypatch
):
    pids = []
    start = TeacherPool.start.__func__

    def remember(cls, folders, settings, **options):
        pool = start(cls, folders, settings, **options)
        pids.extend(host.pid for host in pool.address.hosts)
        return pool

    monkeypatch.setattr(TeacherPool, "start", classmethod(remember))
    config = tiny.distill_config(
        "host-killed",
        "teachers.txt",
        teachers__source={"type": "pool", "hosts": 3, "cpus_per_host": 0.5, "quorum": 0.3},
        training__epochs=40,
    )

    def kill():
        wait_for(lambda: len(updates_of(tiny_root, "host-killed")) >= 5)
        os.kill(pids[1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = run_training(config, tiny_root)
    killer.join()
    assert summary["updates"] == 120
    lost = [e for e in events_of(tiny_root, "host-killed") if e["kind"] == "teacher_host_left_out"]
    assert len(lost) == 1
    missing = summary["signal"]["missing_teacher_answers"]
    assert 0 < missing <= 115


@pytest.mark.slow
def test_a_group_of_two_that_loses_a_worker_ends_like_one_worker(local_ray, tiny_root):
    """1 = 2 workers under Ray Train, even through a kill: the group resumes from its checkpoint."""
    exact = {
        **tiny.PLAIN_SGD,
        "training__epochs": 60,
        "training__checkpoint_every_updates": 3,
    }
    run_training(tiny.distill_config("alone", "teachers.txt", **exact), tiny_root)
    group = tiny.distill_config(
        "group", "teachers.txt", **exact, workers={"count": 2, "max_restarts": 2}
    )

    def kill():
        wait_for(lambda: len(updates_of(tiny_root, "group")) >= 8)
        started = [e for e in events_of(tiny_root, "group") if e["kind"] == "worker_started"]
        os.kill(next(e["pid"] for e in started if e["rank"] == 1), signal.SIGKILL)
        wait_for(started_again)

    seen = set()

    def started_again():
        seen.add(read_status(tiny_root / "runs" / "group", "group", whole=False).state)
        return len([e for e in events_of(tiny_root, "group") if e["kind"] == "resumed"]) > 0

    killer = threading.Thread(target=kill)
    killer.start()
    summary = run_training(group, tiny_root)
    killer.join()
    assert seen == {"running", "starting"}
    assert summary["workers"] == 2
    assert updates_of(tiny_root, "group") == updates_of(tiny_root, "alone") == list(range(1, 181))
    kinds = [event["kind"] for event in events_of(tiny_root, "group")]
    assert kinds.count("worker_started") == 4
    assert kinds.count("resumed") == 1
    weights = [
        load_file(
            sorted((tiny_root / "runs" / name / "checkpoints").glob("update-*"))[-1]
            / "model"
            / "model.safetensors"
        )
        for name in ("alone", "group")
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=1e-4, msg=name)
    assert RunFolder(tiny_root, "group").summary()["ties"]["utterances"] >= 24 * 60
