"""Managers of named pools that die in the middle of something, and what is found after them."""

import contextlib
import os
import signal as signals
import threading

import pytest
import ray
from doubles import LoadWhenFree, request
from pool_help import FOUR, assert_same_signal, local_signal, until

from kd_ray.bench.small_teachers import save_small_teachers
from kd_ray.cluster.pool import PoolError, PoolSource, attach, service
from kd_ray.cluster.pool.address import NAMESPACE, hosts_prefix, manager_name
from kd_ray.cluster.pool.finding import Kept, hosts_of
from kd_ray.cluster.pool.hosts import HostStarter
from kd_ray.cluster.pool.plan import PoolSpec, first_plan
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import PoolSource as PoolSection

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

LEASE_S = 3
FOLDERS = tuple(map(str, FOUR))


def config(name, **changes):
    return PoolConfig.model_validate(
        {
            "command": "pool",
            "name": name,
            "teachers": {"list": "unused"},
            "hosts": {"hosts": 1, "cpus_per_host": 0.25},
            "lease_s": LEASE_S,
            "handover_s": 5,
            **changes,
        }
    )


def manager_of(name):
    return ray.get_actor(manager_name(name), namespace=NAMESPACE)


def kill_manager(name):
    """Its process; Ray starts another."""
    pid = ray.get(manager_of(name).__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signals.SIGKILL)


def state(name):
    with contextlib.suppress(PoolError):
        return service.status(name).state


def kinds(name):
    return [event["kind"] for event in service.status(name).events]


@pytest.mark.long
def test_a_change_that_was_cut_short_leaves_no_hosts_behind(tmp_path):
    name, wait = "torn", tmp_path / "wait"
    load = LoadWhenFree(wait)
    spec = PoolSpec(config(name), FOLDERS, load=load)
    service.up(spec)
    old, new = (f"{hosts_prefix(name)}{number}" for number in (0, 1))
    assert hosts_of(name) == [old]
    wait.touch()
    changed = threading.Thread(target=service.up, args=(spec,), kwargs={"replace": True})
    changed.start()
    until(lambda: new in hosts_of(name))
    loading = ray.get_actor(new, namespace=NAMESPACE)
    kill_manager(name)
    # The next manager ends what its pool is not to have, and Ray asks it for the change again.
    until(lambda: new not in hosts_of(name) or ray.get_actor(new, namespace=NAMESPACE) != loading)
    wait.unlink()
    changed.join(120)
    assert not changed.is_alive()
    until(lambda: hosts_of(name) == [new])
    assert [host.name for host in service.status(name).hosts] == [new]

    # One that clients may know of goes once they had time to follow.
    starter = HostStarter(spec.config.hosts, load, namespace=NAMESPACE, detached=True)
    other = f"{hosts_prefix(name)}7"
    plan = first_plan(f"{hosts_prefix(name)}7-", FOUR, spec.config.hosts, [1] * 4)
    (placed,) = plan.hosts.values()
    plan = type(plan)(plan.prefix, plan.teachers, {other: placed})
    stray = starter.start_host(plan, other)
    ray.get([stray.arrive.remote(), stray.keep.remote(Kept(spec, plan))])
    assert set(hosts_of(name)) == {new, other}
    kill_manager(name)
    until(lambda: hosts_of(name) == [new])
    until(lambda: state(name) == "up")
    assert "host_died" in kinds(name)
    service.down(name)
    assert hosts_of(name) == []


def test_settings_that_hosts_know_nothing_of_are_changed_and_outlive_the_manager():
    name = "reset"
    before, after = (
        PoolSpec(config(name, idle_release_s=seconds, scaling={"min_hosts": 1, "max_hosts": most}),
                 FOLDERS, load=LoadWhenFree(FOUR[0] / "never"))
        for seconds, most in ((500, 1), (600, 2))
    )  # fmt: skip
    service.up(before)
    try:
        update = service.update(after)
        assert (update.added, update.removed, update.kept) == ((), (), len(FOUR))
        scaler = lambda manager: manager._scaler and manager._scaler._scaling.max_hosts  # noqa: E731
        assert ray.get(manager_of(name).__ray_call__.remote(scaler)) in (None, 2)
        until(lambda: ray.get(manager_of(name).__ray_call__.remote(scaler)) == 2)
        kill_manager(name)
        until(lambda: state(name) == "up")
        # As the file says now, not as it said when the pool was started.
        service.up(after)
        with pytest.raises(PoolError, match="runs already, with other settings"):
            service.up(before)
    finally:
        service.down(name, force=True)


def test_hosts_without_a_manager_are_not_taken_for_another_pools_and_can_be_ended():
    name = "orphans"
    specs = [PoolSpec(config(name), FOLDERS[:count], load=LoadWhenFree(FOUR[0] / "never"))
             for count in (2, 3)]  # fmt: skip
    service.up(specs[0])
    ray.kill(manager_of(name), no_restart=True)
    until(lambda: name not in service.names())
    with pytest.raises(PoolError, match="runs already, with other settings or teachers"):
        service.up(specs[1])
    service.up(specs[0])
    ray.kill(manager_of(name), no_restart=True)
    until(lambda: name not in service.names())
    assert hosts_of(name)
    service.down(name)
    assert hosts_of(name) == []
    with pytest.raises(PoolError, match="there is no pool"):
        service.down(name)


def test_a_job_that_comes_back_wakes_the_pool_and_a_broken_checkpoint_does_not_keep_it_down(
    tmp_path,
):
    name = "roused"
    folders = save_small_teachers(tmp_path, 2)
    service.up(PoolSpec(config(name, idle_release_s=1.5), tuple(map(str, folders))))
    # Silent for so long that it is given up, and the hosts with it.
    lease = ray.get(manager_of(name).attach.remote("drowsy", 1.0))
    until(lambda: state(name) == "asleep")
    assert "job_lost" in kinds(name)
    weights = folders[1] / "model.safetensors"
    (folders[1] / "new").write_bytes(weights.read_bytes()[:100])
    (folders[1] / "new").rename(weights)
    alive = threading.Event()

    def signs_of_life():
        while not alive.wait(LEASE_S / 3):
            manager_of(name).renew.remote(lease.number, "drowsy", 1.0)

    thread = threading.Thread(target=signs_of_life)
    thread.start()
    try:
        until(lambda: state(name) == "up")
        (host,) = service.status(name).hosts
        assert list(host.status.quarantined) == [1]
        assert [job.name for job in service.status(name).jobs] == ["drowsy"]
        # It goes on as one that was never away, and so does a new one.
        attachment = attach(PoolSection(type="pool", name=name), job="early")
        assert [info.name for info in attachment.address.info.teachers] == ["t0", "t1"]
        attachment.close()
    finally:
        alive.set()
        thread.join()
        service.down(name, force=True)


def test_jobs_wait_as_long_as_the_start_takes(tmp_path):
    name, wait = "patient", tmp_path / "wait"
    wait.touch()
    spec = PoolSpec(config(name), FOLDERS, load=LoadWhenFree(wait))
    starting = threading.Thread(target=service.up, args=(spec,))
    starting.start()
    until(lambda: hosts_of(name))
    # Longer than the lease: it gives no sign of life before it has one.
    threading.Timer(3 * LEASE_S, wait.unlink).start()
    attachment = attach(PoolSection(type="pool", name=name), job="waiting")
    assert [job.name for job in service.status(name).jobs] == ["waiting"]
    assert "job_lost" not in kinds(name)
    source = PoolSource(attachment.address, job="waiting")
    one = request(1)
    assert_same_signal(source.ask(one).result(30), local_signal(FOUR, one, range(4)))
    source.close()
    attachment.close()
    starting.join(60)
    service.down(name)
