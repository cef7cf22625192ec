import dataclasses
import os
import signal as signals
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from doubles import VOCABULARY, load_fake_teachers, request, writing_request
from doubles import request as score_request
from pool_help import FOUR, assert_same_signal, attach, is_gone, local_signal, start, stopped

from kd_ray.cluster.pool import PoolSource, PoolStartError
from kd_ray.cluster.pool.address import arrays_bytes
from kd_ray.config.strategies import Average, Best, TopM, Weighted
from kd_ray.core.contracts import Busy, TeachersGone
from kd_ray.teachers.local_source import LocalSource

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def one_host(local_ray):
    with start(FOUR, hosts=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def four_hosts(local_ray):
    """The first two teachers are quick, the third and fourth take 0.3 s a pass."""
    folders = [Path("fakes/1"), Path("fakes/2"), Path("fakes/3-slow-0.3"), Path("fakes/4-slow-0.3")]
    with start(folders, hosts=4) as pool:
        yield pool


@pytest.fixture(scope="module")
def local():
    source = LocalSource(load_fake_teachers(FOUR, "cpu"))
    yield source
    source.close()


def geometric(one):
    return dataclasses.replace(one, fusion=dataclasses.replace(one.fusion, fusing="geometric"))


def likeliest_two(one):
    return dataclasses.replace(one, fusion=dataclasses.replace(one.fusion, top_k=2))


REQUESTS = [
    *[request(seed, strategy=Weighted()) for seed in range(3)],
    request(3, 5, strategy=Best()),
    request(4, 1, strategy=Average(), references=False, prefix=True),
    request(5, 4, strategy=Weighted(scope="batch"), prefix=True),
    geometric(request(6, strategy=Weighted())),
    geometric(request(7, 4, strategy=TopM(m=3, scale=0.1))),
    likeliest_two(request(8, 4, strategy=Weighted())),
    likeliest_two(request(9, 4, strategy=TopM(m=3, scale=0.1))),
]


@pytest.mark.parametrize("hosts", ["one_host", "four_hosts"])
def test_pool_of_any_number_of_hosts_says_what_local_teachers_say(request, hosts, local):
    pool = request.getfixturevalue(hosts)
    source, events = attach(pool)
    names = [teacher.index for teacher in source.describe().teachers]
    assert names == [0, 1, 2, 3]
    assert source.describe().source == "pool"
    pending = [source.ask(one) for one in REQUESTS]
    for one, waiting in zip(REQUESTS, pending, strict=True):
        assert_same_signal(waiting.result(30), local.ask(one).result(30))
    assert source.bytes_in_flight == 0
    assert events == []
    source.close()


@pytest.mark.parametrize("hosts", ["one_host", "four_hosts"])
def test_what_a_pool_writes_is_what_local_teachers_write(request, hosts, local):
    source, events = attach(request.getfixturevalue(hosts))
    for one in (
        writing_request(1, per_teacher=True),
        writing_request(2, 5, prefix=False),
        writing_request(3, 4, teacher=2),
    ):
        mine, expected = source.ask(one).result(30), local.ask(one).result(30)
        assert mine.answered == expected.answered
        assert [len(mine.outputs), mine.utterance_ids] == [len(expected.outputs), one.utterance_ids]
        for name in ("teachers", "mean_log_probs"):
            np.testing.assert_array_equal(getattr(mine.best, name), getattr(expected.best, name))
        np.testing.assert_array_equal(mine.best.strings.ids, expected.best.strings.ids)
        np.testing.assert_array_equal(mine.best.strings.lengths, expected.best.strings.lengths)
    assert source.bytes_in_flight == 0
    assert events == []
    source.close()


@pytest.mark.parametrize("hosts", ["one_host", "four_hosts"])
def test_what_comes_to_the_student_holds_k_tokens_a_position(request, hosts):
    whole, short = request_pair = score_request(30, 5), likeliest_two(score_request(30, 5))
    source, _ = attach(request.getfixturevalue(hosts))
    sizes = []
    for one in request_pair:
        before = source.edges["student"]
        source.ask(one).result(30)
        sizes.append(source.edges["student"] - before)
    positions = len(whole.references.lengths) * (int(whole.references.lengths.max()) + 1)
    each = [one.fusion.position_bytes(VOCABULARY) for one in (whole, short)]
    assert each == [28, 20]
    assert sizes[0] - sizes[1] == positions * (each[0] - each[1])
    source.close()


def test_a_target_too_large_to_travel_with_a_host_s_report_is_fetched(one_host, local):
    source, events = attach(one_host)
    one = request(9, 500)
    signal = source.ask(one).result(30)
    # What is smaller came along in the tests above.
    assert arrays_bytes(signal.tokens) > 64 << 10
    assert_same_signal(signal, local.ask(one).result(30))
    assert source.edges["student"] == source.edges["hosts"] > arrays_bytes(signal.tokens)
    assert events == []
    source.close()


@pytest.mark.slow
def test_student_workers_attach_by_the_address_alone(one_host, local):
    @ray.remote(num_cpus=0)
    def work(address, one):
        source = PoolSource(address)
        return source.ask(one).result(30)

    one = request(7)
    assert_same_signal(ray.get(work.remote(one_host.address, one)), local.ask(one).result(30))


def test_a_killed_host_in_mid_request_is_left_out_and_the_rest_answers():
    folders = [Path("fakes/1"), Path("fakes/2-slow-1.5"), Path("fakes/3")]
    with start(folders, hosts=2) as pool:
        assert [host.teachers for host in pool.address.hosts] == [(0, 2), (1,)]
        lenient, events = attach(pool, quorum=0.5)
        strict, strict_events = attach(pool, quorum=1.0)
        one = request(1)
        before = lenient.ask(one).result(30)
        assert_same_signal(before, local_signal(folders, one, [0, 1, 2]))

        waiting, strict_waiting = lenient.ask(one), strict.ask(one)
        time.sleep(0.3)
        os.kill(pool.address.hosts[1].pid, signals.SIGKILL)

        signal = waiting.result(30)
        assert_same_signal(signal, local_signal(folders, one, [0, 2]))
        np.testing.assert_array_equal(signal.weights_tokens[1], 0)
        assert events.kinds == ["teacher_host_left_out", "signal_shortened"]
        assert events[0][1]["teachers"] == ["fake-2"]

        # Not asked again, told once, counted each time.
        assert lenient.ask(request(2)).result(30).answered == (0, 2)
        assert len(events) == 2
        assert lenient.counts == {
            "requests": 3,
            "signals": 3,
            "hosts_left_out": 1,
            "shortened_signals": 2,
        }

        with pytest.raises(TeachersGone, match=r"2 of 3 teachers.*fake-2 \(.*host-1"):
            strict_waiting.result(30)
        assert strict_events.kinds == ["teacher_host_left_out", "teachers_gone"]
        # Without hope of a quorum nobody is waited for.
        started = time.monotonic()
        with pytest.raises(TeachersGone):
            strict.ask(request(3)).result(30)
        assert time.monotonic() - started < 5
        assert strict.bytes_in_flight == lenient.bytes_in_flight == 0

        late, late_events = attach(pool)
        assert late.ask(request(4)).result(30).answered == (0, 2)
        assert late_events.kinds[0] == "teacher_host_left_out"

    assert is_gone(pool.address.hosts[0].pid)
    with pytest.raises(TeachersGone):
        PoolSource(pool.address).ask(one).result(10)
    pool.close()


def test_a_hung_host_misses_its_deadline_and_is_left_out(four_hosts):
    source, events = attach(four_hosts, deadline_s=8)
    hung = four_hosts.address.hosts[1]
    with stopped(hung.pid):
        one = request(1)
        waiting = source.ask(one)
        with pytest.raises(TimeoutError, match=hung.name):
            waiting.result(0.7)
        started = time.monotonic()
        signal = waiting.result(30)
        # Other clients of this pool give hosts 30 s.
        assert time.monotonic() - started < 20
        assert_same_signal(signal, local_signal(FOUR, one, [0, 2, 3]))
        assert "deadline 8 s" in events[0][1]["reason"]
        # The next request does not wait for it.
        started = time.monotonic()
        assert source.ask(request(2)).result(30).answered == (0, 2, 3)
        assert time.monotonic() - started < 7
    assert events.kinds == ["teacher_host_left_out", "signal_shortened"]
    # It was slow, not dead: who attaches later finds it.
    later, later_events = attach(four_hosts)
    assert later.ask(request(3)).result(30).answered == (0, 1, 2, 3)
    assert later_events == []


def test_a_source_over_its_byte_budget_is_busy_until_something_is_collected(four_hosts):
    one = request(1)
    source, _ = attach(four_hosts, max_bytes_in_flight_mib=0.02)
    pending = []
    with pytest.raises(Busy, match="max_bytes_in_flight_mib"):  # noqa: PT012
        for _ in range(20):
            pending.append(source.ask(one))
    assert 1 <= len(pending) < 20
    assert 0 < source.bytes_in_flight <= 0.02 * (1 << 20)
    pending[0].result(30)
    pending.append(source.ask(one))
    for waiting in pending[1:]:
        waiting.cancel()
    assert source.bytes_in_flight == 0
    with pytest.raises(RuntimeError, match="cancelled"):
        pending[1].result(1)
    assert source.ask(one).result(30).answered == (0, 1, 2, 3)


def test_asking_does_not_block(four_hosts):
    source, _ = attach(four_hosts)
    started = time.monotonic()
    pending = [source.ask(request(seed)) for seed in range(4)]
    assert time.monotonic() - started < 1
    for waiting in pending:
        waiting.result(30)


def test_a_teachers_nan_is_told_and_its_error_travels():
    folders = [Path("fakes/1"), Path("fakes/2-nan"), Path("fakes/3")]
    with start(folders, hosts=1) as pool:
        source, events = attach(pool)
        signal = source.ask(request(1)).result(30)
        assert signal.answered == (0, 2)
        assert events.kinds == ["teacher_quarantined", "signal_shortened"]
        assert events[0][1]["teacher"] == "fake-2"
        strict, _ = attach(pool, quorum=1.0)
        with pytest.raises(TeachersGone, match=r"fake-2 \(outputs"):
            strict.ask(request(1)).result(30)
        with pytest.raises(ValueError, match="reference"):
            source.ask(request(1, references=False, prefix=True)).result(30)
        assert source.bytes_in_flight == 0


def test_a_teacher_that_cannot_be_loaded_stops_the_start_and_is_named():
    before = len(ray.util.list_named_actors(all_namespaces=True))
    with pytest.raises(PoolStartError, match=r"fakes/2-missing.*no such checkpoint"):
        start([Path("fakes/1"), Path("fakes/2-missing")], hosts=1)
    assert len(ray.util.list_named_actors(all_namespaces=True)) == before


def test_a_pool_larger_than_the_cluster_says_so():
    with pytest.raises(PoolStartError, match=r"asks for 64 CPU.*4 CPU.*teachers\.source\.hosts"):
        start(FOUR, cpus_per_host=64, start_timeout_s=1)
