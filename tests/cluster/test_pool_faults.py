"""Faults of a pool under load: no answer is lost, none is wrong, and each decision is told once.

A load asks all the time and compares every answer with the local result over the teachers that it
names. The hosts are stood up again after each test.
"""

import contextlib
import functools
import logging
import os
import signal as signals

import pytest
import ray
from doubles import load_fake_teachers, request
from fault_doubles import Switches, load_switched
from pool_help import FOUR, SETTINGS, Events, attach, is_gone, until

from kd_ray.bench.load import Load, ask_locally
from kd_ray.bench.small_teachers import save_small_teachers, small_requests
from kd_ray.cluster.pool import PoolStartError, TeacherPool
from kd_ray.config.strategies import Average, Best, TopM, Weighted
from kd_ray.teachers.teacher import load_teachers

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

STRATEGIES = (Weighted(), Best(), Average(), TopM(m=2, scale=0.1))


@pytest.fixture(scope="module")
def questions():
    requests = [request(seed, 2 + seed % 3, strategy=STRATEGIES[seed % 4]) for seed in range(12)]
    return ask_locally(requests, load_fake_teachers(FOUR, "cpu"))


@pytest.fixture(scope="module")
def standing(local_ray, tmp_path_factory):
    """Two hosts, each with all four teachers, that misbehave by switch."""
    switches = Switches(tmp_path_factory.mktemp("switches"))
    events = Events()
    settings = {"hosts": 2, "replicas": 2, "max_deaths": 20, "hung_after_s": 10}
    with TeacherPool.start(
        FOUR,
        SETTINGS.model_copy(update=settings),
        load=functools.partial(load_switched, switches=str(switches.folder)),
        on_event=events,
    ) as pool:
        pool.switches, pool.events = switches, events
        yield pool


@pytest.fixture
def pool(standing, caplog):
    """All hosts are up, and nothing was told yet."""
    until(lambda: all(standing._keeper.arrivals.values()))
    standing.switches.clear()
    standing.events.clear()
    caplog.set_level(logging.INFO, logger="kd_ray")
    yield standing
    standing.switches.clear()


@contextlib.contextmanager
def under_load(pool, questions, **settings):
    """A client whose load runs; what it tells when it ends must be sound."""
    source, events = attach(pool, **{"recover_s": 30, "retry_after_s": 5, **settings})
    with Load(source, questions, in_flight=4, per_s=80) as load:
        wait_for_answers(load, 8)
        yield load.tally, source, events
        wait_for_answers(load, 8)
    source.close()
    assert load.tally.sound, load.tally.problems
    assert load.tally.gone == 0


def wait_for_answers(load, more):
    before = load.tally.right
    until(lambda: load.tally.right >= before + more or load.tally.problems)


def host_names(pool):
    return [host.name for host in pool.address.hosts]


def pid_of(pool, name):
    return pool._keeper.arrivals[name].pid


def status_of(pool, name):
    return ray.get(pool._keeper.named[name].status.remote())


def told(caplog, *words):
    """The log lines that hold all of these words."""
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if all(word in line for word in words)]


@pytest.mark.parametrize(
    "how", ["between passes", pytest.param("in a pass", marks=pytest.mark.slow)]
)
def test_killed(pool, questions, caplog, how):
    name = host_names(pool)[0]
    pid = pid_of(pool, name)
    deaths, respawns = (pool._keeper.counts[key] for key in ("deaths", "respawns"))
    with under_load(pool, questions, quorum=1.0) as (tally, source, events):
        if how == "in a pass":
            # As the kernel does where memory is full.
            pool.switches.set("host-0", 2, "killed")
        else:
            os.kill(pid, signals.SIGKILL)
        until(lambda: "host_died" in pool.events.kinds)
        pool.switches.clear()
        until(lambda: source.counts.get("hosts_back") == 1)
    assert tally.shortened == 0
    assert is_gone(pid)
    assert source.counts["hosts_left_out"] == 1
    assert source.counts["retries"] == events.kinds.count("teachers_asked_elsewhere") >= 1
    assert [kind for kind in events.kinds if "elsewhere" not in kind] == [
        "teacher_host_left_out",
        "teacher_host_back",
    ]
    until(lambda: pool.events.kinds == ["host_died", "host_started_again"])
    assert pool._keeper.counts["deaths"] == deaths + 1
    assert pool._keeper.counts["respawns"] == respawns + 1
    reason = pool.events[0][1]["reason"]
    assert "Actor" in reason
    assert len(told(caplog, reason)) == 1
    assert len(told(caplog, f"host {name} left out", events[0][1]["reason"])) == 1
    assert len(told(caplog, f"host {name} is up again")) == 1


def test_hung(pool, questions, caplog):
    name = host_names(pool)[1]
    pid = pid_of(pool, name)
    deaths = pool._keeper.counts["deaths"]
    with under_load(pool, questions, quorum=1.0, retry_after_s=2) as (tally, source, events):
        os.kill(pid, signals.SIGSTOP)
        until(lambda: "host_died" in pool.events.kinds)
    assert is_gone(pid)
    assert tally.shortened == 0
    # Nobody waited until it was ended.
    assert tally.longest_gap_s < 8
    assert source.counts["hosts_left_out"] >= 1
    left_out = [details for kind, details in events if kind == "teacher_host_left_out"]
    assert name in {details["host"] for details in left_out}
    assert "deadline 2 s" in left_out[0]["reason"]
    assert "silent for" in pool.events[0][1]["reason"]
    assert len(told(caplog, pool.events[0][1]["reason"])) == 1
    assert pool._keeper.counts["deaths"] == deaths + 1


def test_slow(pool, questions, caplog):
    """It is asked less and less often, but not ended, and answers again once it can."""
    name = host_names(pool)[0]
    pid = pid_of(pool, name)
    with under_load(pool, questions, quorum=1.0, retry_after_s=2) as (tally, source, events):
        for seed in (1, 2, 3, 4):
            pool.switches.set("host-0", seed, "late 4")
        until(lambda: events.kinds.count("teacher_host_back") >= 2)
        pool.switches.clear()
        until(lambda: source.counts["hosts_back"] == source.counts["hosts_left_out"])
        until(lambda: not source._roster._lapses)
    assert tally.shortened == 0
    assert pid_of(pool, name) == pid
    assert pool.events == []
    left_out = [details for kind, details in events if kind == "teacher_host_left_out"]
    assert {details["host"] for details in left_out} == {name}
    assert len(left_out) == source.counts["hosts_left_out"] <= 4
    for details in left_out:
        assert "deadline 2 s" in details["reason"]
    assert len(told(caplog, f"host {name} left out")) == len(left_out)


def test_memory_full_in_a_pass(pool, questions, caplog):
    with under_load(pool, questions) as (tally, source, events):
        for host in ("host-0", "host-1"):
            pool.switches.set(host, 2, "memory 1")
        until(lambda: source.counts.get("halved_passes", 0) >= 3)
        assert tally.shortened == 0
        # One utterance alone is too much: a copy answers.
        pool.switches.clear()
        pool.switches.set("host-0", 2, "memory 0")
        until(lambda: source.counts.get("teacher_failures", 0) >= 3)
        assert tally.shortened == 0
        pool.switches.set("host-1", 2, "memory 0")
        until(lambda: "signal_shortened" in events.kinds)
        pool.switches.clear()
        until(lambda: "signal_whole_again" in events.kinds)
    assert events.kinds.count("teacher_memory_full") == 1
    (halved,) = [details for kind, details in events if kind == "teacher_memory_full"]
    assert halved["teacher"] == "fake-2"
    assert "utterances at once: OutOfMemoryError: CUDA out of memory" in halved["reason"]
    assert len(told(caplog, "fake-2 answers by halves", halved["reason"])) == 1
    failed = [details for kind, details in events if kind == "teacher_failed"]
    assert "no memory for one utterance of" in failed[0]["reason"]
    assert len(told(caplog, "fake-2 did not answer")) == len(failed)
    # The teacher is not to blame.
    assert "teacher_quarantined" not in events.kinds
    assert [status_of(pool, name).quarantined for name in host_names(pool)] == [{}, {}]
    assert pool.events == []


def test_nan(pool, questions, caplog):
    """Last: hosts keep the teacher in quarantine."""
    with under_load(pool, questions) as (tally, source, events):
        pool.switches.set("host-0", 3, "nan")
        until(lambda: source.counts.get("teachers_quarantined") == 1)
        # The quarantine is counted first.
        started, before = tally.right, source.counts.get("retries", 0)
        until(lambda: tally.right >= started + 40)
        # A copy answers, and is asked at once from then on.
        assert tally.shortened == 0
        assert source.counts["retries"] - before <= 4
        pool.switches.set("host-1", 3, "nan")
        until(lambda: "signal_shortened" in events.kinds)
    assert tally.shortened > 0
    assert events.kinds.count("teacher_quarantined") == source.counts["teachers_quarantined"] == 1
    (quarantined,) = [details for kind, details in events if kind == "teacher_quarantined"]
    assert quarantined["teacher"] == "fake-3"
    assert "were not finite" in quarantined["reason"]
    assert len(told(caplog, "fake-3 quarantined", quarantined["reason"])) == 1
    for name in host_names(pool):
        assert "were not finite" in status_of(pool, name).quarantined[2]
    assert pool.events == []


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Checkpoints, and what their teachers say to some requests."""
    folders = save_small_teachers(tmp_path_factory.mktemp("real"), 4)
    return folders, ask_locally(small_requests(8), load_teachers(folders))


def damage(folder):
    """Replace the weights by something else, as a copy that was cut short does."""
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    new = folder / "new"
    new.write_bytes(whole[: len(whole) // 2])
    new.rename(weights)
    return whole


def test_a_checkpoint_breaks_while_teachers_take_turns(real, caplog):
    folders, questions = real
    caplog.set_level(logging.INFO, logger="kd_ray")
    size = max((folder / "model.safetensors").stat().st_size for folder in folders)
    settings = SETTINGS.model_copy(update={"hosts": 1, "memory_mib": 2.2 * size / 2**20})
    with (
        TeacherPool.start(folders, settings) as pool,
        under_load(pool, questions) as (tally, source, events),
    ):
        whole = damage(folders[1])
        until(lambda: "teacher_quarantined" in events.kinds)
        (status,) = [ray.get(handle.status.remote()) for handle in pool._handles]
    (folders[1] / "model.safetensors").write_bytes(whole)
    assert tally.shortened > 0
    told_of = set(events.kinds)
    assert {"signal_shortened", "teacher_quarantined"} <= told_of
    # A first attempt to load it is told too, unless it finds at once that the file is another one;
    # an answer that was begun before the damage may come after one that lacks the teacher.
    assert told_of <= {
        "signal_shortened", "signal_whole_again", "teacher_failed", "teacher_quarantined",
    }  # fmt: skip
    assert ("teacher_failed" in told_of) == (source.counts.get("teacher_failures", 0) > 0)
    assert source.counts["teachers_quarantined"] == 1
    (quarantined,) = [details for kind, details in events if kind == "teacher_quarantined"]
    assert quarantined["teacher"] == "t1"
    assert "CheckpointError" in quarantined["reason"]
    assert status.quarantined == {1: quarantined["reason"]}
    assert len(told(caplog, "t1 quarantined", quarantined["reason"])) == 1


@pytest.mark.slow
def test_a_pool_does_not_start_with_a_checkpoint_that_it_cannot_name(real):
    folders, _ = real
    whole = damage(folders[2])
    try:
        with pytest.raises(PoolStartError, match=r"t2.*model\.safetensors"):
            TeacherPool.start(folders, SETTINGS.model_copy(update={"hosts": 1}))
    finally:
        (folders[2] / "model.safetensors").write_bytes(whole)
