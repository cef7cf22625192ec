import pytest

from kd_ray.teachers.policies.scaling import (
    Grow,
    HostLoad,
    PoolSample,
    ScaleLimits,
    Shrink,
    Stay,
    judge_replicas,
    judge_scale,
)

LIMITS = ScaleLimits(min_hosts=0, max_hosts=8)


def sample(at_s, queued, *, jobs=1, waiting=0, missed=0):
    hosts = tuple(HostLoad(f"h{i}", each, int(each > 0)) for i, each in enumerate(queued))
    return PoolSample(at_s, hosts, jobs, waiting, missed)


def steady(queued, seconds=20, **settings):
    return [sample(at, queued, **settings) for at in range(seconds + 1)]


@pytest.mark.parametrize(
    ("history", "expected", "reason"),
    [
        (steady([1, 1]), Stay, "between"),
        (steady([3, 3]), Grow(1, ""), "at least 3.00 s queued per host for 10 s"),
        (steady([5, 5]), Grow(2, ""), "5.00"),
        (steady([40, 40]), Grow(2, ""), "40.00"),
        (steady([4] * 8), Stay, "max_hosts is reached"),
        (steady([3, 3])[:8], Stay, "seen for 7 s"),
        ([*steady([3, 3]), sample(21, [1, 1])], Stay, "between"),
        (steady([0.5, 0.5], missed=1), Grow(1, ""), "11 deadlines missed"),
        (steady([0, 0], missed=1), Stay, "11 deadlines missed"),
        (steady([0.06, 0.1, 0]), Shrink(("h2",), ""), "2 hosts would have at most 0.08 s"),
        (steady([0.15]), Stay, "the fewest while jobs run"),
        (steady([0.3, 0.1]), Stay, "between"),
        (steady([0, 0], 299, jobs=0), Shrink(("h0",), ""), "1 hosts would have"),
        (steady([0, 0], 300, jobs=0), Shrink(("h0", "h1"), ""), "no job for 300 s"),
        ([*steady([0, 0], 300, jobs=0), sample(301, [0.1, 0.1])], Stay, "between"),
        ([sample(0, [], jobs=0)], Stay, "no hosts and no jobs"),
        ([sample(0, [], jobs=1)], Grow(1, ""), "1 jobs, 0 requests and no hosts"),
        ([sample(0, [], jobs=0, waiting=2)], Grow(1, ""), "2 requests and no hosts"),
        ([sample(0, [0] * 9)], Shrink(("h0",), ""), "max_hosts is 8"),
    ],
)
def test_the_number_of_hosts_follows_the_queue(history, expected, reason):
    decision = judge_scale(history, LIMITS)
    assert type(decision) is (expected if isinstance(expected, type) else type(expected))
    if not isinstance(expected, type):
        assert decision.hosts == expected.hosts
    assert reason in decision.reason
    assert "\n" not in decision.reason


def test_a_change_is_given_time():
    decision = judge_scale(steady([9, 9], 40), LIMITS, last_change_s=15)
    assert decision == Stay("25 s since the last change, cooldown_s is 30")
    assert isinstance(judge_scale(steady([9, 9], 40), LIMITS, last_change_s=10), Grow)


def test_min_hosts_are_kept_and_restored_without_waiting():
    limits = ScaleLimits(min_hosts=2, max_hosts=4)
    assert judge_scale([sample(0, [0])], limits, last_change_s=0).hosts == 1
    assert isinstance(judge_scale(steady([0, 0], 400, jobs=0), limits), Stay)
    assert judge_scale(steady([0, 0, 0], 400, jobs=0), limits).hosts == ("h0",)


def test_a_steady_load_settles():
    """Work of 6 s that comes each time: the pool grows to where it fits, and stays there."""
    count, sizes = 1, []
    for _ in range(10):
        decision = judge_scale(steady([6 / count] * count), LIMITS)
        if isinstance(decision, Grow):
            count += decision.hosts
        elif isinstance(decision, Shrink):
            count -= len(decision.hosts)
        sizes.append(count)
    assert sizes[-8:] == [3] * 8


def test_limits_that_contradict_are_refused():
    with pytest.raises(ValueError, match=r"min_hosts \(3\) must be from 0 to max_hosts \(2\)"):
        ScaleLimits(min_hosts=3, max_hosts=2)
    with pytest.raises(ValueError, match=r"shrink_below_s \(3\) must be below grow_above_s \(2\)"):
        ScaleLimits(min_hosts=0, max_hosts=2, shrink_below_s=3)


@pytest.mark.parametrize(
    ("busy", "current", "hosts", "copies"),
    [
        (0.0, 1, 4, 1),
        (0.7, 1, 4, 1),
        (0.71, 1, 4, 2),
        (1.4, 1, 4, 2),
        (2.0, 1, 4, 3),
        (9.0, 1, 4, 4),
        (0.6, 2, 4, 2),
        (0.48, 2, 4, 1),
        (1.3, 3, 4, 3),
        (0.1, 4, 4, 1),
    ],
)
def test_hot_teachers_get_copies_that_do_not_come_and_go(busy, current, hosts, copies):
    judged = judge_replicas({5: busy}, hosts=hosts, current={5: current})
    assert judged.copies == {5: copies}
    again = judge_replicas({5: busy}, hosts=hosts, current=judged.copies)
    assert again.copies == judged.copies


def test_copies_against_the_loss_of_hosts():
    judged = judge_replicas({0: 0.1, 1: 2.0}, hosts=3, at_least=2)
    assert judged.copies == {0: 2, 1: 3}
    assert judged.reason.endswith("hot teachers (busy share): 1 (2.00): 3")
    assert judge_replicas({0: 0.1}, hosts=1, at_least=2).copies == {0: 1}
    with pytest.raises(ValueError, match="got 0 hosts"):
        judge_replicas({}, hosts=0)
