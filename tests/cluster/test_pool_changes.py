"""Pools that change while jobs run: teachers come, go and are replaced; hosts, too."""

import contextlib
import os
import signal as signals
import threading
from pathlib import Path

import pytest
import ray
from doubles import load_fake_teachers, request
from pool_help import Events, assert_same_signal, is_gone, local_signal, until

from kd_ray.cluster.pool import PoolError, PoolSource, attach, service
from kd_ray.cluster.pool.address import NAMESPACE, hosts_prefix, manager_name
from kd_ray.cluster.pool.changes import PoolChangeError
from kd_ray.cluster.pool.plan import PoolSpec
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import PoolSource as PoolSection

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

FIRST = ("fakes/1", "fakes/2", "fakes/3")


def spec(name, folders, **changes):
    hosts = {"hosts": 1, "cpus_per_host": 0.25}
    config = PoolConfig.model_validate(
        {
            "command": "pool",
            "name": name,
            "teachers": {"list": "unused"},
            "hosts": hosts | changes.pop("hosts", {}),
            "lease_s": 5,
            "handover_s": 20,
            **changes,
        }
    )
    return PoolSpec(config, tuple(folders), load=load_fake_teachers)


@contextlib.contextmanager
def job(name, digests=None, **settings):
    """A job that is attached, and its events."""
    section = PoolSection(type="pool", name=name, recover_s=60, **settings)
    attachment = attach(section, job="job", digests=digests)
    events = Events()
    source = PoolSource(attachment.address, on_event=events, job="job")
    yield source, events
    source.close()
    attachment.close()


class Asking:
    """Asks all the time, and keeps what came and the first error."""

    def __init__(self, source, rows=3):
        self.answers, self.error = [], None
        self._source, self._rows, self._stop = source, rows, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        seed = 100
        while not self._stop.is_set():
            seed += 1
            try:
                pending = [self._source.ask(request(seed, self._rows)) for _ in range(2)]
                self.answers += [(seed, each.result(60)) for each in pending]
            except Exception as error:
                self.error = error
                return

    def goes_on(self):
        """Five answers more."""
        many = len(self.answers)
        until(lambda: len(self.answers) > many + 4 or self.error is not None)
        if self.error is not None:
            raise self.error

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, *_):
        self._stop.set()
        self._thread.join()
        assert kind is not None or self.error is None, self.error


def hosts(name):
    return {host.name: host.pid for host in service.status(name).hosts}


def events_of(name):
    return [event["kind"] for event in service.status(name).events]


@pytest.fixture(scope="module")
def changing(local_ray):
    service.up(spec("changing", FIRST))
    yield "changing"
    service.down("changing", force=True)
    left = ray.util.list_named_actors(all_namespaces=True)
    assert not [actor for actor in left if "changing" in actor["name"]]


def test_teachers_are_replaced_added_and_removed_while_a_job_asks(changing):
    before = hosts(changing)
    with job(changing) as (source, events), Asking(source) as asking:
        asking.goes_on()
        changed = service.update(spec(changing, ("fakes/1", "again/2", "fakes/3", "fakes/6")))
        assert (changed.added, changed.replaced) == (("fakes/6",), (("fakes/2", "again/2"),))
        until(lambda: "teacher_replaced" in events.kinds)
        asking.goes_on()
        # One that cannot be loaded changes nothing.
        with pytest.raises(PoolChangeError, match=r"not changed.*fakes/7-missing"):
            service.update(spec(changing, ("fakes/1", "fakes/7-missing")))
        changed = service.update(spec(changing, ("fakes/1", "again/2", "fakes/6")))
        assert changed.removed == ("fakes/3",)
        until(lambda: "teacher_removed" in events.kinds)
        asking.goes_on()
    replaced = ["fakes/1", "again/2", "fakes/3"]
    kinds = {"before": 0, "replaced": 0, "removed": 0}
    for seed, signal in asking.answers:
        if len(signal.answered) == 2:
            kinds["removed"] += 1
            assert_same_signal(signal, local_signal(paths(replaced), request(seed), (0, 1)))
            continue
        digests = [old_or_new(signal, seed, FIRST), old_or_new(signal, seed, replaced)]
        kinds["before"] += digests[0]
        kinds["replaced"] += digests[1]
        assert any(digests), f"answer to {seed} is neither of the old nor of the new teachers"
    assert min(kinds.values()) > 4
    assert [info["teacher"] for kind, info in events if kind == "teacher_removed"] == ["fake-3"]
    assert hosts(changing) == before
    assert service.status(changing).teachers == 3
    # A manager that is started again knows what has changed.
    manager = ray.get_actor(manager_name(changing), namespace=NAMESPACE)
    os.kill(ray.get(manager.__ray_call__.remote(lambda self: os.getpid())), signals.SIGKILL)
    until(lambda: _version(changing) == 2, within_s=240)
    assert hosts(changing) == before
    assert service.status(changing).teachers == 3


def paths(folders):
    return [Path(folder) for folder in folders]


def old_or_new(signal, seed, folders):
    try:
        assert_same_signal(signal, local_signal(paths(folders), request(seed), range(len(folders))))
    except AssertionError:
        return False
    return True


def _version(name):
    try:
        status = service.status(name)
    except (PoolError, ray.exceptions.RayError):
        return None
    return status.version if status.state == "up" else None


@pytest.mark.slow
def test_new_hosts_take_over_from_the_old_ones(changing):
    service.update(spec(changing, FIRST))
    before = hosts(changing)
    with pytest.raises(PoolChangeError, match="hosts are not changed while they run"):
        service.update(spec(changing, FIRST, hosts={"batch_wait_ms": 1}))
    with pytest.raises(PoolError, match=r"kd-ray pool update.*--replace"):
        service.up(spec(changing, FIRST, hosts={"batch_wait_ms": 1}))
    mine = ["digest-1", "digest-2", "digest-3"]
    with job(changing, mine) as (source, events), Asking(source) as asking:
        asking.goes_on()
        service.up(spec(changing, FIRST, hosts={"batch_wait_ms": 1}), replace=True)
        asking.goes_on()
    for seed, signal in asking.answers:
        assert old_or_new(signal, seed, FIRST)
    assert source.counts.get("shortened_signals", 0) == 0
    assert events.kinds == []
    after = hosts(changing)
    assert not set(before) & set(after)
    assert all(name.startswith(hosts_prefix(changing)) for name in after)
    assert all(is_gone(pid) for pid in before.values())


@pytest.mark.slow
def test_hosts_come_when_work_waits_and_go_when_it_is_done():
    slow = ("fakes/1-slow-0.2", "fakes/2-slow-0.2")
    scaling = {"max_hosts": 2, "hold_s": 1, "cooldown_s": 1, "grow_above_s": 0.3}
    service.up(spec("growing", slow, scaling=scaling))
    try:
        with job("growing", deadline_s=120) as (source, _), Asking(source, rows=40) as asking:
            until(lambda: len(hosts("growing")) == 2, within_s=240)
            asking.goes_on()
        for seed, signal in asking.answers:
            one = request(seed, 40)
            assert_same_signal(signal, local_signal(paths(slow), one, range(2)))
        until(lambda: len(hosts("growing")) == 1)
        # Noted once the host is gone.
        until(lambda: events_of("growing").count("resized") == 2)
    finally:
        service.down("growing", force=True)
