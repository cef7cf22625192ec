"""Pools that run by themselves: jobs come and go, share teachers and what those said."""

import dataclasses
import functools
import os
import signal as signals
import time
from pathlib import Path

import pytest
import ray
import tiny
import torch
from doubles import load_after_deaths, load_fake_teachers, request
from pool_help import (
    FOUR,
    assert_same_signal,
    is_gone,
    local_signal,
    statuses,
    until,
)
from safetensors.torch import load_file

from kd_ray.cluster.pool import PoolError, PoolSource, PoolStartError, attach, service
from kd_ray.cluster.pool.address import NAMESPACE
from kd_ray.cluster.pool.manager import PoolDraining
from kd_ray.cluster.pool.plan import PoolSpec
from kd_ray.cluster.trainer import run_training
from kd_ray.commands.pool_status import as_plain, show
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import PoolSource as PoolSection
from kd_ray.config.strategies import Average, Best, Weighted
from kd_ray.core.contracts import Fusion
from kd_ray.evaluation.run_folder import read_json_lines
from kd_ray.teachers.local_source import LocalSource

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def config(name, **changes):
    hosts = {"hosts": 2, "cpus_per_host": 0.25, "cache_mib": 16}
    return PoolConfig.model_validate(
        {
            "command": "pool",
            "name": name,
            "teachers": {"list": "unused"},
            "hosts": hosts | changes.pop("hosts", {}),
            "lease_s": 3,
            **changes,
        }
    )


def up(name, folders=FOUR, **changes):
    spec = PoolSpec(config(name, **changes), tuple(map(str, folders)), load=load_fake_teachers)
    return service.up(spec)


def section(name, **changes):
    return PoolSection(type="pool", name=name, recover_s=30, **changes)


def actors():
    return [a["name"] for a in ray.util.list_named_actors(all_namespaces=True)
            if a["namespace"] == NAMESPACE]  # fmt: skip


def passes(name):
    return sum(status.batches.passes for status in statuses(name))


def kinds(name):
    return [event["kind"] for event in service.status(name).events]


@pytest.fixture(scope="module")
def shared(local_ray):
    up("shared")
    yield "shared"
    service.down("shared", force=True)
    assert not [name for name in actors() if "shared" in name]


def test_jobs_share_teachers_and_a_later_one_finds_the_cache_warm(shared, capsys):
    first, second = attach(section(shared), job="a"), attach(section(shared, weight=2), job="b")
    sources = [PoolSource(each.address, job=job) for each, job in ((first, "a"), (second, "b"))]
    requests = [request(seed, strategy=Weighted()) for seed in range(4)]
    pending = [source.ask(one) for one in requests for source in sources]
    for index, waiting in enumerate(pending):
        assert_same_signal(waiting.result(30), local_signal(FOUR, requests[index // 2], range(4)))
    status = service.status(shared)
    assert {job.name: job.weight for job in status.jobs} == {"a": 1.0, "b": 2.0}
    show(status)
    assert "pool shared: up" in capsys.readouterr().out
    plain = as_plain(status)
    costs = [plain["by_job"][job] for job in "ab"]
    assert sum(cost["rows"] for cost in costs) == 2 * 4 * 3 * 4
    assert all(cost["bytes_out"] > 0 for cost in costs)
    assert plain["by_job"]["a"]["utterances"] + plain["by_job"]["b"]["utterances"] > 0
    before = passes(shared)

    # Another strategy and temperature: no teacher computes anything.
    third = attach(section(shared), job="c")
    later = PoolSource(third.address, job="c")
    for seed in range(4):
        one = request(seed, strategy=Best())
        cooler = dataclasses.replace(one, fusion=Fusion(Average(), temperature=2.0))
        for each in (one, cooler):
            assert_same_signal(later.ask(each).result(30), local_signal(FOUR, each, range(4)))
    assert passes(shared) == before
    with pytest.raises(PoolError, match=r"in use by a, b, c.*--force"):
        service.down(shared)
    for each in (later, *sources, third, second, first):
        each.close()
    assert service.status(shared).jobs == ()


@pytest.mark.slow
def test_busy_hosts_are_shared_by_weight_and_a_small_job_is_not_starved():
    hosts = {"hosts": 1, "cache_mib": 0, "max_batch_utterances": 4}
    up("fair", [Path("fakes/1-slow-0.05")], hosts=hosts)
    jobs = {}
    for name, weight, window in (("large", 1.0, 24), ("small", 3.0, 8)):
        attachment = attach(section("fair", weight=weight), job=name)
        jobs[name] = (attachment, PoolSource(attachment.address, job=name), window)
    # Each always has so many requests open; all are alike.
    waiting = {name: [jobs[name][1].ask(request(1, 4)) for _ in range(jobs[name][2])]
               for name in jobs}  # fmt: skip
    expected = local_signal([Path("fakes/1")], request(1, 4), [0])
    served = dict.fromkeys(jobs, 0)
    begun, started = {}, time.monotonic()
    while time.monotonic() - started < 5:
        for name, (_, source, _window) in jobs.items():
            done = [each for each in waiting[name] if each.done]
            for each in done:
                assert_same_signal(each.result(1), expected)
            waiting[name] = [each for each in waiting[name] if each not in done]
            waiting[name] += [source.ask(request(1, 4)) for _ in done]
            # From when both have work that waits.
            if time.monotonic() - started > 1:
                begun.setdefault(name, served[name])
            served[name] += len(done)
        time.sleep(0.005)
    share = {name: served[name] - begun[name] for name in jobs}
    assert 0.65 < share["small"] / sum(share.values()) < 0.85
    assert statuses("fair")[0].batches.units_per_pass > 3
    for attachment, source, _ in jobs.values():
        source.close()
        attachment.close()
    service.down("fair")


def test_a_job_asks_some_of_the_teachers_in_its_own_order(shared):
    attachment = attach(section(shared), job="two", digests=["digest-4", "digest-2"])
    source = PoolSource(attachment.address, job="two")
    assert [info.name for info in source.describe().teachers] == ["fake-4", "fake-2"]
    one = request(11, strategy=Average())
    own = LocalSource(load_fake_teachers([FOUR[3], FOUR[1]], "cpu"))
    assert_same_signal(source.ask(one).result(30), own.ask(one).result(30))
    own.close()
    source.close()
    attachment.close()
    with pytest.raises(PoolError, match=r"lacks 1 of the 2 teachers.*fake-1 \(digest-1\)"):
        attach(section(shared), job="wrong", digests=["digest-1", "digest-9"])
    until(lambda: service.status(shared).jobs == ())


@pytest.mark.slow
def test_hosts_go_on_while_the_manager_is_away_and_it_finds_them_again(shared):
    attachment = attach(section(shared), job="patient")
    source = PoolSource(attachment.address, job="patient")
    hosts = {host.pid for host in attachment.address.hosts}
    manager = ray.get_actor("kd_ray-manager-shared", namespace=NAMESPACE)
    pid = ray.get(manager.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signals.SIGKILL)
    one = request(21)
    assert_same_signal(source.ask(one).result(30), local_signal(FOUR, one, range(4)))
    assert is_gone(pid)
    until(lambda: _state(shared) == "up", within_s=240)
    assert {host.pid for host in service.status(shared).hosts} == hosts
    # Its signs of life attach the job again.
    until(lambda: [job.name for job in service.status(shared).jobs] == ["patient"])
    source.close()
    attachment.close()


@pytest.mark.slow
def test_a_manager_that_comes_back_while_hosts_die_brings_the_pool_up(tmp_path):
    load = functools.partial(load_after_deaths, tmp_path)
    spec = PoolSpec(config("hunted", hosts={"max_deaths": 4}), tuple(map(str, FOUR)), load=load)
    address = service.up(spec)
    manager = ray.get_actor("kd_ray-manager-hunted", namespace=NAMESPACE)
    pid = ray.get(manager.__ray_call__.remote(lambda self: os.getpid()))
    (tmp_path / "one death").touch()
    for victim in (pid, address.hosts[0].pid):
        os.kill(victim, signals.SIGKILL)
    # The host that takes the place of the one that died, dies as well.
    attachment = attach(section("hunted"), job="unmoved")
    assert not list(tmp_path.iterdir())
    source = PoolSource(attachment.address, job="unmoved")
    one = request(22)
    assert_same_signal(source.ask(one).result(60), local_signal(FOUR, one, range(4)))
    assert "start_failed" not in kinds("hunted")
    assert "host_died" in kinds("hunted")
    source.close()
    attachment.close()
    service.down("hunted")


def _state(name):
    try:
        return service.status(name).state
    except (PoolError, ray.exceptions.RayError):
        return None


def test_a_job_that_falls_silent_is_given_up(shared):
    attachment = attach(section(shared), job="silent")
    attachment._stop.set()

    def lost():
        return [each["job"] for each in service.status(shared).events if each["kind"] == "job_lost"]

    # Not any of the jobs before it.
    until(lambda: "silent" in lost(), within_s=60)
    assert "silent" not in [job.name for job in service.status(shared).jobs]


def test_the_wrong_name_and_other_settings_are_refused(shared):
    with pytest.raises(PoolError, match=r"no pool 'shraed'.*running: 'shared'.*kd-ray pool up"):
        attach(section("shraed"), job="x")
    with pytest.raises(PoolError, match="no pool 'shraed'"):
        service.status("shraed")
    with pytest.raises(PoolError, match="runs already, with other settings or teachers"):
        up("shared", hosts={"cache_mib": 1})
    assert up("shared").info.teachers == address_of("shared").info.teachers


def address_of(name):
    manager = ray.get_actor(f"kd_ray-manager-{name}", namespace=NAMESPACE)
    return ray.get(manager.ready.remote(10))


@pytest.mark.slow
def test_hosts_that_nobody_needs_are_released_and_come_back():
    up("sleepy", hosts={"hosts": 1}, idle_release_s=1.5)
    until(lambda: service.status("sleepy").state == "asleep")
    until(lambda: not [name for name in actors() if name.startswith("kd_ray-pool-sleepy")])
    attachment = attach(section("sleepy"), job="early")
    source = PoolSource(attachment.address, job="early")
    one = request(1)
    assert_same_signal(source.ask(one).result(60), local_signal(FOUR, one, range(4)))
    assert service.drain("sleepy") == 1
    with pytest.raises(PoolDraining, match="takes no further jobs"):
        attach(section("sleepy"), job="late")
    source.close()
    attachment.close()
    service.down("sleepy")
    assert not [name for name in actors() if "sleepy" in name]


@pytest.mark.slow
def test_a_pool_that_cannot_start_leaves_nothing_behind():
    started = time.monotonic()
    with pytest.raises(PoolStartError, match=r"fakes/2-missing.*no such checkpoint"):
        up("broken", [Path("fakes/1"), Path("fakes/2-missing")], hosts={"hosts": 1})
    # Not by the time limit of a start.
    assert time.monotonic() - started < 250
    until(lambda: not [name for name in actors() if "broken" in name])


def test_distillations_attach_and_the_second_costs_no_teacher_computation(tiny_root):
    teachers = tuple(str(tiny_root / "teachers" / f"t{number}") for number in range(3))
    service.up(PoolSpec(config("tiny", hosts={"hosts": 1}), teachers))
    weights = {}
    for name, source in (
        ("from-local", {"type": "local"}),
        ("from-named", {"type": "pool", "name": "tiny"}),
        ("from-named-again", {"type": "pool", "name": "tiny"}),
    ):
        distill = tiny.distill_config(
            name, "teachers.txt", **tiny.PLAIN_SGD,
            teachers__source=source, training__epochs=2,
        )  # fmt: skip
        run_training(distill, tiny_root)
        model = tiny_root / "runs" / name / "model" / "model.safetensors"
        weights[name] = load_file(model)
        if name == "from-named":
            before = passes("tiny")
    for name in ("from-named", "from-named-again"):
        for key, expected in weights["from-local"].items():
            torch.testing.assert_close(weights[name][key], expected, atol=1e-4, rtol=1e-3)
    # One epoch's rows serve the second epoch, and the second run as a whole.
    assert passes("tiny") == before
    events = read_json_lines(tiny_root / "runs" / "from-named" / "events.jsonl")
    attached = [event for event in events if event["kind"] == "pool_attached"]
    assert [(event["pool"], event["teachers"]) for event in attached] == [("tiny", 3)]
    assert service.status("tiny").jobs == ()
    service.down("tiny")


def test_without_a_cluster_the_way_to_one_is_named(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(PoolError, match="ray start --head"):
        service.join_cluster()
