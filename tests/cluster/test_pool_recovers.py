"""Losses that a pool makes good: replicas, hosts that are started again, teachers that return."""

import dataclasses
import functools
import os
import signal as signals
import time
from pathlib import Path

import pytest
from doubles import load_after_deaths, request
from pool_help import (
    FOUR,
    SETTINGS,
    Events,
    assert_same_signal,
    attach,
    is_gone,
    local_signal,
    start,
    stopped,
    until,
)

from kd_ray.cluster.pool import PoolSource, PoolStartError, TeacherPool
from kd_ray.cluster.pool.address import arrays_bytes
from kd_ray.core.contracts import TeachersGone

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SLOW = [Path(f"fakes/{seed}-slow-0.4") for seed in (1, 2, 3, 4)]


def pids(pool):
    return {host.name: host.pid for host in pool.address.hosts}


@pytest.fixture(scope="module")
def two_copies(local_ray):
    """Two hosts, each with all four teachers; hosts are started again."""
    events = Events()
    with start(SLOW, hosts=2, replicas=2, max_deaths=4, hung_after_s=8, on_event=events) as pool:
        pool.events = events
        yield pool


def test_a_copy_answers_for_a_host_that_dies_and_the_host_comes_back(two_copies):
    source, events = attach(two_copies, recover_s=30, quorum=1.0)
    assert [host.teachers for host in two_copies.address.hosts] == [(0, 1, 2, 3)] * 2
    one = request(1)
    assert_same_signal(source.ask(one).result(30), local_signal(SLOW, one, range(4)))
    waiting = [source.ask(request(seed)) for seed in range(2, 6)]
    time.sleep(0.3)
    killed = two_copies.address.hosts[0]
    os.kill(killed.pid, signals.SIGKILL)
    for seed, pending in zip(range(2, 6), waiting, strict=True):
        # Every teacher, none twice: the weights are those of all four.
        assert_same_signal(pending.result(30), local_signal(SLOW, request(seed), range(4)))
    assert source.counts["hosts_left_out"] == 1
    assert source.counts["retries"] >= 1
    assert "shortened_signals" not in source.counts
    assert events.kinds[0] == "teacher_host_left_out"
    assert "teachers_asked_elsewhere" in events.kinds
    until(lambda: source.counts.get("hosts_back") == 1)
    assert "started again" in events[-1][1]["reason"]
    # The client hears it from the host itself, maybe before the keeper looks again.
    until(lambda: two_copies.events.kinds == ["host_died", "host_started_again"])
    until(lambda: two_copies._keeper.restarts[killed.name] is not None)
    assert two_copies._keeper.restarts[killed.name].reason == two_copies.events[0][1]["reason"]
    both = [source.ask(request(seed)) for seed in range(10, 13)]
    for seed, pending in zip(range(10, 13), both, strict=True):
        assert_same_signal(pending.result(30), local_signal(SLOW, request(seed), range(4)))
    source.close()


def test_a_host_that_hangs_is_ended_and_started_again(two_copies):
    source, events = attach(two_copies, recover_s=30, deadline_s=20, retry_after_s=4)
    died = two_copies.events.kinds.count("host_died")
    back = two_copies.events.kinds.count("host_started_again")
    hung = two_copies.address.hosts[1]
    os.kill(hung.pid, signals.SIGSTOP)
    one = request(1)
    started = time.monotonic()
    assert_same_signal(source.ask(one).result(30), local_signal(SLOW, one, range(4)))
    # Neither its deadline nor its end, but the time after which a copy is asked.
    assert time.monotonic() - started < 15
    assert "deadline 4 s" in events[0][1]["reason"]
    until(lambda: two_copies.events.kinds.count("host_died") == died + 1)
    assert "silent" in two_copies.events[-1][1]["reason"]
    assert is_gone(hung.pid)
    until(lambda: two_copies.events.kinds.count("host_started_again") == back + 1)
    # On a busy machine the other one may have been late, too, and have come back.
    until(
        lambda: hung.name in [told["host"] for kind, told in events if kind == "teacher_host_back"]
    )
    source.close()


@pytest.mark.slow
def test_a_host_that_comes_back_is_asked_again_while_another_still_computes():
    with start([FOUR[0], Path("fakes/2-slow-25")], hosts=2, max_deaths=4) as pool:
        source, events = attach(pool, recover_s=150, deadline_s=60, quorum=1.0)
        one = request(1)
        quick = next(host for host in pool.address.hosts if host.teachers == (0,))
        with stopped(quick.pid):
            pending = source.ask(one)
            time.sleep(0.5)
            os.kill(quick.pid, signals.SIGKILL)
        signal = pending.result(200)
        assert_same_signal(signal, local_signal(FOUR[:2], one, range(2)))
        assert "teacher_host_back" in events.kinds
        source.close()


@pytest.mark.slow
def test_a_request_at_a_hung_host_is_asked_again_where_another_comes_back():
    with start(FOUR, hosts=2, replicas=2, max_deaths=0) as pool:
        source, events = attach(pool, recover_s=90, deadline_s=60, retry_after_s=2)
        one, two = request(1), request(2)
        first, second = (host.pid for host in pool.address.hosts)
        with stopped(first):
            # One for each host.
            for each, waiting in [(each, source.ask(each)) for each in (one, two)]:
                assert_same_signal(waiting.result(30), local_signal(FOUR, each, range(4)))
            assert "teacher_host_left_out" in events.kinds
            os.kill(second, signals.SIGSTOP)
            pending, asked_s = source.ask(two), time.monotonic()
            time.sleep(1.0)
            assert not pending.done
        try:
            assert_same_signal(pending.result(60), local_signal(FOUR, two, range(4)))
            # Not the deadline of the host that has hung since.
            assert time.monotonic() - asked_s < 30
        finally:
            os.kill(second, signals.SIGCONT)
        source.close()


@pytest.mark.slow
def test_a_request_waits_for_the_only_host_with_its_teachers():
    events = Events()
    with start(FOUR, hosts=1, max_deaths=1, on_event=events) as pool:
        patient, patient_events = attach(pool, recover_s=150, quorum=1.0)
        short, _ = attach(pool, recover_s=1.0, quorum=1.0)
        os.kill(pool.address.hosts[0].pid, signals.SIGKILL)
        one = request(1)
        waiting, gone = patient.ask(one), short.ask(one)
        with pytest.raises(TeachersGone, match="0 of 4 teachers"):
            gone.result(30)
        assert_same_signal(waiting.result(200), local_signal(FOUR, one, range(4)))
        assert patient_events.kinds == ["teacher_host_left_out", "teacher_host_back"]
        until(lambda: events.kinds == ["host_died", "host_started_again"])
        # One death is allowed; the second is the last.
        os.kill(patient._roster.address.hosts[0].pid, signals.SIGKILL)
        until(lambda: events.kinds[-1] == "host_given_up")
        assert "given up at 2" in events[-1][1]["reason"]
        patient.close()
        short.close()


@pytest.mark.parametrize(
    "nodes", [("a", "a", "a", "a"), ("a", "a", "b", "b"), ("a", "a", "a", "b")]
)
def test_what_comes_to_the_student_is_the_same_through_any_tree(four_trees, nodes):
    hosts = tuple(
        dataclasses.replace(host, node=node)
        for host, node in zip(four_trees.address.hosts, nodes, strict=True)
    )
    source = PoolSource(dataclasses.replace(four_trees.address, hosts=hosts))
    one = request(5, 4)
    signal = source.ask(one).result(30)
    assert_same_signal(signal, local_signal(FOUR, one, range(4)))
    merges = sum(nodes.count(node) > 1 for node in set(nodes)) if len(set(nodes)) > 1 else 0
    assert (source.edges["nodes"] > 0) == (merges > 0)
    # One target, whatever the number of hosts, and what is known of four teachers.
    told = signal.weights_tokens, signal.weights_labels, signal.ctc_errors, signal.decoder_errors
    labels = arrays_bytes(signal.labels)
    more = labels + sum(each.nbytes for each in told) + signal.reference_lengths.nbytes
    assert source.edges["student"] == arrays_bytes(signal.tokens) + more
    source.close()


@pytest.fixture(scope="module")
def four_trees(local_ray):
    with start(FOUR, hosts=4) as pool:
        yield pool


def test_a_host_that_is_gone_when_partials_are_merged_is_no_loss(four_trees):
    source, events = attach(four_trees)
    one = request(6)
    first = four_trees.address.hosts[0]
    # The first two hosts to be asked to merge do not answer in time.
    with stopped(first.pid):
        source._roster.open_requests[first.name] = -5
        waiting = source.ask(one)
        with pytest.raises(TimeoutError):
            waiting.result(1.0)
    signal = waiting.result(60)
    assert_same_signal(signal, local_signal(FOUR, one, range(4)))
    assert events == []
    source.close()


def test_a_client_that_closes_gives_its_requests_up(two_copies):
    source, _ = attach(two_copies)
    pending = [source.ask(request(seed)) for seed in range(4)]
    source.close()
    for waiting in pending:
        with pytest.raises(RuntimeError, match="cancelled"):
            waiting.result(5)
    with pytest.raises(RuntimeError, match="closed"):
        source.ask(request(1))
    assert source.bytes_in_flight == 0


@pytest.mark.slow
def test_a_host_that_dies_while_it_loads_its_teachers_is_started_again(tmp_path):
    (tmp_path / "one death").touch()
    events = Events()
    settings = SETTINGS.model_copy(update={"hosts": 2, "max_deaths": 1})
    load = functools.partial(load_after_deaths, tmp_path)
    with TeacherPool.start(FOUR, settings, load=load, on_event=events) as pool:
        assert events.kinds == ["host_died"]
        assert "died while it loaded its teachers" in events[0][1]["reason"]
        source, _ = attach(pool, quorum=1.0)
        one = request(1)
        assert_same_signal(source.ask(one).result(30), local_signal(FOUR, one, range(4)))
        source.close()


@pytest.mark.slow
def test_a_host_that_dies_again_and_again_while_it_loads_is_given_up(tmp_path):
    for death in range(3):
        (tmp_path / str(death)).touch()
    settings = SETTINGS.model_copy(update={"hosts": 1, "max_deaths": 2})
    load = functools.partial(load_after_deaths, tmp_path)
    with pytest.raises(PoolStartError, match=r"(?s)could not load.*fakes/4\) after 3 attempts: "):
        TeacherPool.start(FOUR, settings, load=load)
    assert not list(tmp_path.iterdir())
