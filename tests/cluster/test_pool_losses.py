"""Losses that take a while: jobs, nodes, checkpoints and memory, each of a pool under load."""

import json
import os
import signal as signals
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from doubles import load_fake_teachers, request
from pool_help import FOUR, SETTINGS, Events, attach, is_alive, is_gone, statuses, until

from kd_ray.bench.load import Load, ask_locally
from kd_ray.bench.small_teachers import save_small_teachers, small_requests
from kd_ray.bench.soak.processes import descendants
from kd_ray.cluster.pool import PoolSource, TeacherPool, service
from kd_ray.cluster.pool import attach as attach_job
from kd_ray.cluster.pool.plan import PoolSpec
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import PoolSource as PoolSection
from kd_ray.teachers.teacher import load_teachers

TESTS = Path(__file__).resolve().parents[1]
PROGRAMS = Path(__file__).with_name("programs")

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def program(name, *arguments, **variables):
    """One of the programs in a process of its own, with some variables of the environment."""
    paths = [TESTS, TESTS / "cluster", TESTS.parent]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        **variables,
    }
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, PROGRAMS / f"{name}.py", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def result_of(process, timeout_s=900):
    output, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def test_a_killed_job_is_forgotten_and_its_own_hosts_end(local_ray):
    hosts = {"hosts": 2, "cpus_per_host": 0.25, "replicas": 2}
    config = PoolConfig.model_validate(
        {
            "command": "pool",
            "name": "robbed",
            "teachers": {"list": "unused"},
            "hosts": hosts,
            "lease_s": 10,
        }
    )
    service.up(PoolSpec(config, tuple(map(str, FOUR)), load=load_fake_teachers))
    child = program("killed_job", ray.get_runtime_context().gcs_address, "robbed")
    questions = ask_locally([request(seed) for seed in range(8)], load_fake_teachers(FOUR, "cpu"))
    attachment = attach_job(PoolSection(name="robbed"), job="other")
    source = PoolSource(attachment.address, job="other")
    with Load(source, questions, per_s=20) as load:
        own = json.loads(child.stdout.readline())

        def known():
            """By both hosts."""
            both = statuses("robbed")
            assert len(both) == 2
            return [job for status in both for job in status.jobs]

        until(lambda: known().count("killed") == 2)
        child.kill()
        child.wait()
        assert all(is_gone(pid) for pid in own)
        until(lambda: "killed" not in known())
        before = load.tally.right
        until(lambda: load.tally.right >= before + 20)
    assert load.tally.sound, load.tally.problems
    assert load.tally.shortened == 0
    status = service.status("robbed")
    assert [job.name for job in status.jobs] == ["other"]
    lost = [event["job"] for event in status.events if event["kind"] == "job_lost"]
    assert lost == ["killed"]
    assert status.deaths == 0
    source.close()
    attachment.close()
    service.down("robbed")
    left = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    assert not [name for name in left if "kd_ray-pool" in name or "robbed" in name]


@pytest.mark.long
def test_nothing_stays_behind_a_killed_job_with_a_private_ray():
    child = program("killed_job", "local")
    assert len(json.loads(child.stdout.readline())) == 2
    below = descendants(child.pid)
    assert len(below) > 4
    child.kill()
    child.wait()
    # Ray's agents look for their raylet only now and then.
    until(lambda: not any(map(is_alive, below)), within_s=240)


@pytest.mark.long
def test_a_node_is_lost_and_another_comes():
    found = result_of(program("node_lost"))
    for kind in ("copies", "no_copies"):
        pool = found[kind]
        assert pool["sound"], pool["tally"]
        assert pool["tally"]["gone"] == 0
        # On a busy machine a host that is well may be late, too, and is left out for a while.
        left_out = pool["counts"]["hosts_left_out"]
        assert left_out == pool["counts"]["hosts_back"] >= 1
        assert pool["client"].count("teacher_host_left_out") == left_out
        assert pool["client"].count("teacher_host_back") == left_out
        assert pool["pool"].count("host_started_again") >= 1
        assert found["new_node"] in pool["nodes"]
    assert found["copies"]["tally"]["shortened"] == 0
    assert found["no_copies"]["tally"]["shortened"] > 0
    shortened = found["no_copies"]["client"].count("signal_shortened")
    assert shortened == found["no_copies"]["client"].count("signal_whole_again") >= 1


def test_ray_ends_a_host_for_its_memory(tmp_path):
    """It comes back with less room."""
    found = result_of(program("memory_kill", tmp_path))
    assert found["sound"], found["tally"]
    assert found["tally"]["shortened"] == found["tally"]["gone"] == 0
    assert "teacher_host_left_out" in found["client"]
    assert "OutOfMemoryError" in found["reasons"][0]
    assert "started again in 1 s with 0.70 of its bytes for teachers" in found["reasons"][0]


def test_a_host_comes_back_without_a_teacher_whose_checkpoint_broke(local_ray, tmp_path):
    folders = save_small_teachers(tmp_path, 3)
    questions = ask_locally(small_requests(8), load_teachers(folders))
    events = Events()
    settings = SETTINGS.model_copy(update={"hosts": 1, "max_deaths": 4, "recover_s": 150})
    with TeacherPool.start(folders, settings, on_event=events) as pool:
        source, client_events = attach(pool)
        with Load(source, questions, per_s=20) as load:
            until(lambda: load.tally.right >= 10)
            weights = folders[1] / "model.safetensors"
            (folders[1] / "new").write_bytes(weights.read_bytes()[:100])
            (folders[1] / "new").rename(weights)
            os.kill(pool.address.hosts[0].pid, signals.SIGKILL)
            until(lambda: "signal_shortened" in client_events.kinds)
            before = load.tally.right
            until(lambda: load.tally.right >= before + 20)
            (status,) = [ray.get(handle.status.remote()) for handle in pool._keeper.handles]
        source.close()
    assert load.tally.sound, load.tally.problems
    assert load.tally.gone == 0
    assert load.tally.shortened > 0
    assert events.kinds == ["host_died", "host_started_again"]
    told = [details for kind, details in client_events if kind == "teacher_quarantined"]
    assert [details["teacher"] for details in told] == ["t1"]
    assert "model.safetensors" in told[0]["reason"] or "digest" in told[0]["reason"]
    assert status.quarantined == {1: told[0]["reason"]}
