import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.teachers.batching.fairness import Shares
from kd_ray.teachers.batching.filling import Limits, Waiting
from kd_ray.teachers.batching.schedule import Schedule

Item = Waiting[str, int]


def item(number: int, length: int, size: int = 1, job: str = "") -> Item:
    return Waiting(
        key="t",
        payload=number,
        job=job,
        size=size,
        length=length,
        priority=0,
        arrived=number,
        arrived_s=0.0,
        due_s=0.0,
        expires_s=float("inf"),
    )


def passes_over(lengths: list[int], limits: Limits, backlog: int) -> list[list[Item]]:
    """Serve items that arrive in this order, `backlog` of them waiting as long as there are any."""
    schedule: Schedule[str, int] = Schedule(limits)
    coming = [item(number, length) for number, length in enumerate(lengths, start=1)]
    passes: list[list[Item]] = []
    while coming or schedule:
        while coming and schedule.units < backlog:
            schedule.add(coming.pop(0))
        passes.append(schedule.next_batch(0.0))
    return passes


def padding(passes: list[list[Item]]) -> float:
    """Share of the padded area that is padding."""
    padded = sum(len(batch) * max(each.length for each in batch) for batch in passes)
    return 1 - sum(each.length for batch in passes for each in batch) / padded


def speech_lengths(count: int) -> list[int]:
    """Frames of 10 ms, about as long as read speech: median 6 s, 1 to 30 s."""
    draw = random.Random(7)
    return [min(3000, max(100, int(draw.lognormvariate(6.4, 0.6)))) for _ in range(count)]


@pytest.mark.parametrize(
    ("backlog", "at_most"), [(64, 0.45), (128, 0.33), (512, 0.33)], ids=lambda value: str(value)
)
def test_companions_of_like_length_save_padding(backlog, at_most):
    lengths = speech_lengths(4000)
    sorted_by_length = padding(passes_over(lengths, Limits(32), backlog))
    first_come = padding(passes_over(lengths, Limits(32, max_passed_over=0), backlog))
    # Measured: 0.65 first come, first served; 0.43 with two passes waiting, 0.31 with four or more.
    assert first_come > 0.6
    assert sorted_by_length < at_most


def most_passed_over(passes: list[list[Item]]) -> int:
    """Counted afresh: passes that took somebody younger, for the item that saw most of them."""
    seen: dict[int, int] = {}
    waiting = {each.arrived for batch in passes for each in batch}
    for batch in passes:
        waiting -= {each.arrived for each in batch}
        youngest = max(each.arrived for each in batch)
        for number in waiting:
            if number < youngest:
                seen[number] = seen.get(number, 0) + 1
    return max(seen.values(), default=0)


@pytest.mark.parametrize("bound", [0, 1, 8])
def test_nobody_is_passed_over_more_often_than_allowed(bound):
    lengths = speech_lengths(1500)
    patient = passes_over(lengths, Limits(4, look_ahead=256, max_passed_over=10**6), 256)
    bounded = passes_over(lengths, Limits(4, look_ahead=256, max_passed_over=bound), 256)
    assert most_passed_over(bounded) <= bound < most_passed_over(patient)


def test_an_item_that_does_not_fit_is_not_overtaken_for_ever():
    """Held back for its size, not its length; the way is barred to those behind it."""
    schedule: Schedule[str, int] = Schedule(Limits(4, max_passed_over=2))
    schedule.add(item(1, 10, size=2))
    large = item(2, 10, size=4)
    schedule.add(large)
    for number in range(3, 30):
        schedule.add(item(number, 10, size=2))
    sizes = []
    while large.waits:
        sizes.append([each.size for each in schedule.next_batch(0.0)])
    # The oldest leads its job's pass: the second pass is its own.
    assert sizes == [[2, 2], [4]]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.integers(0, 50)),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 12),
    st.none() | st.integers(1, 200),
    st.integers(1, 20),
    st.integers(0, 4),
)
def test_passes_keep_both_bounds_and_lose_nothing(
    work, max_size, max_padded, look_ahead, max_passed_over
):
    schedule: Schedule[str, int] = Schedule(
        Limits(max_size, max_padded, look_ahead, max_passed_over)
    )
    for number, (job, size, length) in enumerate(work, start=1):
        schedule.add(item(number, length, size, job))
    done = []
    while schedule:
        batch = schedule.next_batch(0.0)
        rows = sum(each.size for each in batch)
        padded = rows * max(each.length for each in batch)
        assert len(batch) == 1 or rows <= max_size
        assert len(batch) == 1 or max_padded is None or padded <= max_padded
        assert all(each.passed_over <= max_passed_over for each in batch)
        done += [each.arrived for each in batch]
    assert sorted(done) == list(range(1, len(work) + 1))
    assert schedule.units == 0
    assert not schedule.units_by_key
    assert not schedule.units_by_job


def test_a_queue_is_full_when_its_padded_area_is():
    schedule: Schedule[str, int] = Schedule(Limits(32, max_padded=1000))
    for number in (1, 2, 3):
        waiting = item(number, 400)
        waiting.due_s = 100.0
        schedule.add(waiting)
        batch = schedule.next_batch(0.0)
        assert [each.arrived for each in batch] == ([1, 2] if number == 3 else [])


def test_whose_turn_it_is_comes_first_and_picks_its_companions():
    schedule: Schedule[str, int] = Schedule(Limits(3))
    for number, length in enumerate([500, 100, 110, 480, 90, 530], start=1):
        schedule.add(item(number, length))
    taken = [[each.length for each in schedule.next_batch(0.0)] for _ in range(2)]
    assert taken == [[500, 480, 530], [100, 110, 90]]


def test_each_job_picks_among_its_own_and_pays_its_own_part():
    schedule: Schedule[str, int] = Schedule(Limits(4))
    for number, (job, length) in enumerate(
        [("a", 100), ("b", 300), ("b", 110), ("a", 400), ("a", 105), ("b", 90)], start=1
    ):
        schedule.add(item(number, length, job=job))
    batch = schedule.next_batch(0.0)
    assert sorted((each.job, each.length) for each in batch) == [
        ("a", 100),
        ("a", 105),
        ("b", 90),
        ("b", 110),
    ]
    starts = {flow.job: flow.start for flow in schedule.shares.flows}
    assert starts == {"a": 205.0, "b": 200.0}


def test_virtual_time_follows_the_slowest_that_waits():
    shares = Shares()
    slow, fast = shares.flow(0, "slow"), shares.flow(0, "fast")
    shares.enter(slow)
    shares.enter(fast)
    shares.charge(fast, 10.0)
    shares.charge(slow, 4.0)
    shares.settle()
    new = shares.flow(0, "new")
    shares.enter(new)
    assert new.start == 4.0
    other_priority = shares.flow(1, "new")
    shares.enter(other_priority)
    assert other_priority.start == 0.0
