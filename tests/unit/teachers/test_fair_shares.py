import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from batching_doubles import Batcher, FakeClock, Passes, later, run, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.teachers.batching import MicroBatcher
from kd_ray.teachers.batching.filling import Limits, Waiting
from kd_ray.teachers.batching.schedule import Schedule

Item = Waiting[str, int]


class Machine:
    """A schedule whose passes take one second each; keeps a log of who was served."""

    def __init__(self, max_size: int = 8, **options: Any) -> None:
        limits = Limits(max_size, options.pop("max_padded", None))
        self.schedule: Schedule[str, int] = Schedule(limits, **options)
        self.time_s = 0.0
        self.arrivals = 0
        self.passes: list[list[Item]] = []
        self.cost: Counter[str] = Counter()

    def add(self, job: str, queue: str = "t", size: int = 1, length: int = 0, **more: Any) -> Item:
        self.arrivals += 1
        options = {"priority": 0, "due_s": self.time_s, "expires_s": float("inf"), **more}
        item: Item = Waiting(
            key=queue,
            payload=self.arrivals,
            job=job,
            size=size,
            length=length,
            arrived=self.arrivals,
            arrived_s=self.time_s,
            **options,
        )
        self.schedule.add(item)
        return item

    def step(self) -> list[Item]:
        batch = self.schedule.next_batch(self.time_s)
        self.passes.append(batch)
        for item in batch:
            self.cost[item.job] += item.cost
        self.time_s += 1
        return batch

    def jobs(self) -> list[list[str]]:
        return [sorted(item.job for item in batch) for batch in self.passes]


def keep_busy(machine: Machine, new_item: Callable[[str, str], Item], passes: int) -> None:
    """Run passes; what is served is followed by a new item of the same job in the same queue."""
    for _ in range(passes):
        for item in machine.step():
            new_item(item.job, item.key)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32),
    st.tuples(*[st.tuples(st.integers(1, 8), st.integers(1, 900)) for _ in range(3)]),
    st.integers(1, 4),
    st.booleans(),
)
def test_weights_give_shares_of_cost_whatever_the_costs(seed, largest, queues, bounded):
    """Weights 1 : 2 : 4, items of random sizes and lengths, each job with a pass's worth waiting.

    With less than that in a queue the room that is left goes to the others: no pass idles in part.
    """
    draw = random.Random(seed)
    machine = Machine(max_size=16, max_padded=8000 if bounded else None)
    weights = {"a": 1, "b": 2, "c": 4}
    limits = dict(zip(weights, largest, strict=True))

    def new_item(job: str, queue: str) -> Item:
        max_size, max_length = limits[job]
        return machine.add(job, queue, draw.randint(1, max_size), draw.randint(1, max_length))

    for job, weight in weights.items():
        machine.schedule.shares.set_weight(job, weight)
        for number in range(20 * queues):
            new_item(job, f"t{number % queues}")
    # Long enough for the dearest job to be served many times with the smallest share.
    dearest = max(size * length for size, length in largest)
    while min(machine.cost[job] for job in weights) < 40 * dearest and len(machine.passes) < 5000:
        keep_busy(machine, new_item, passes=50)
    total = sum(machine.cost.values())
    for job, weight in weights.items():
        assert machine.cost[job] / total == pytest.approx(weight / 7, rel=0.05)


def test_a_job_with_a_hundred_times_the_items_cannot_starve_a_small_one():
    machine = Machine(max_size=8)
    for _ in range(1000):
        machine.add("large")
    machine.step()
    machine.step()
    small = [machine.add("small") for _ in range(20)]
    while any(item.waits for item in small):
        machine.step()
    # It comes in where the last pass began, a pass before the large one; from there on by halves.
    assert machine.jobs()[2:] == [["small"] * 8, *[["large"] * 4 + ["small"] * 4] * 3]


def test_a_small_job_in_a_queue_of_its_own_waits_for_one_pass_at_most():
    machine = Machine(max_size=8)
    for number in range(2000):
        machine.add("large", f"t{number % 20}")
    machine.step()
    for _ in range(10):
        item = machine.add("small", "another")
        machine.step()
        if item.waits:
            machine.step()
        assert not item.waits


def test_a_small_job_waits_for_one_pass_at_most_under_load():
    async def test() -> None:
        clock, passes = FakeClock(), Passes(gated=True)
        batcher: Batcher = MicroBatcher(passes, max_size=8, clock=clock)

        async def small() -> int:
            return sum([await batcher.submit("t", 1, job="small") for _ in range(20)])

        work = [later(batcher.submit("t", 0, job="large")) for _ in range(2000)]
        await settle()
        work.append(later(small()))
        await settle()
        # Each of its items waits for the pass that runs when it comes, and shares the next one.
        for _ in range(2 * 20 + 1):
            await clock.advance(1.0)
            passes.gate.set()
            await settle()
        assert work[-1].done()
        waits = batcher.statistics_by_job["small"].waits
        assert waits.count == 20
        assert waits.max_s <= 1.0
        await batcher.close()
        await asyncio.gather(*work, return_exceptions=True)

    run(test)


def test_an_idle_job_saves_up_no_credit():
    machine = Machine(max_size=1)
    backlog = deque(machine.add("busy") for _ in range(300))
    machine.add("idle")
    for _ in range(200):
        machine.step()
    for _ in range(50):
        machine.add("idle")
    machine.cost.clear()
    for _ in range(40):
        machine.step()
    assert abs(machine.cost["idle"] - machine.cost["busy"]) <= 1
    assert backlog[-1].waits


def test_work_that_nobody_else_wanted_is_not_held_against_a_job_once_all_was_idle():
    machine = Machine(max_size=4)
    for _ in range(100):
        machine.add("early")
    while machine.step():
        pass
    for _ in range(20):
        machine.add("early")
        machine.add("late")
    machine.cost.clear()
    for _ in range(5):
        machine.step()
    assert machine.cost == {"early": 10, "late": 10}


def test_what_is_cancelled_is_not_charged():
    machine = Machine(max_size=1)
    given_up = [machine.add("fickle", length=1000) for _ in range(50)]
    for item in given_up:
        machine.schedule.remove(item)
    for _ in range(20):
        machine.add("fickle", length=10)
        machine.add("steady", length=10)
    for _ in range(20):
        machine.step()
    assert machine.cost == {"fickle": 100, "steady": 100}


def test_a_new_weight_counts_from_the_next_item():
    machine = Machine(max_size=1)
    for _ in range(200):
        machine.add("a")
        machine.add("b")
    machine.schedule.shares.set_weight("a", 3)
    for _ in range(40):
        machine.step()
    assert machine.cost == {"a": 30, "b": 10}
    machine.schedule.shares.forget("a")
    machine.cost.clear()
    for _ in range(40):
        machine.step()
    assert machine.cost == {"a": 20, "b": 20}


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_no_positive_number_is_refused(weight):
    async def test() -> None:
        batcher: Batcher = MicroBatcher(Passes(), max_size=8, clock=FakeClock())
        with pytest.raises(ValueError, match="job 'asr': weight must be a number above 0"):
            batcher.set_weight("asr", weight)

    run(test)


def test_jobs_that_are_gone_leave_nothing_behind():
    machine = Machine(max_size=4)
    for number in range(500):
        while machine.schedule.units_by_job.get("steady", 0) < 20:
            machine.add("steady", length=100)
        machine.add(f"trial {number}", length=100, priority=number % 3)
        machine.step()
        assert len(list(machine.schedule.shares.flows)) < 60
    while machine.step():
        pass
    assert not machine.schedule
    assert not list(machine.schedule.shares.flows)


def test_a_lower_priority_only_gets_the_room_that_is_left():
    machine = Machine(max_size=4)
    for _ in range(6):
        machine.add("search", priority=0)
    for _ in range(6):
        machine.add("training", priority=1)
    for _ in range(3):
        machine.step()
    assert machine.jobs() == [
        ["training"] * 4,
        ["search"] * 2 + ["training"] * 2,
        ["search"] * 4,
    ]


def serve(machine: Machine, passes: int) -> Sequence[Item]:
    return [item for _ in range(passes) for item in machine.step()]


def test_strict_priority_can_starve_and_patience_ends_it():
    for patience_s, served in [(None, 0), (10.0, 20)]:
        machine = Machine(max_size=1, patience_s=patience_s)
        for _ in range(100):
            machine.add("search", "s")
        for _ in range(100):
            machine.add("training", "t", priority=1)
        assert {item.job for item in serve(machine, 10)} == {"training"}
        machine.cost.clear()
        serve(machine, 40)
        # What has waited too long shares the highest priority; it does not take it over.
        assert machine.cost["search"] == served
        assert machine.cost["training"] == 40 - served


def test_what_waited_too_long_follows_when_a_higher_priority_appears():
    machine = Machine(max_size=1, patience_s=5.0)
    for _ in range(30):
        machine.add("search", "s")
        machine.add("training", "t", priority=1)
    serve(machine, 10)
    for _ in range(30):
        machine.add("urgent", "u", priority=2)
    machine.cost.clear()
    serve(machine, 30)
    # Both have waited long enough by then, one way or the other.
    assert min(machine.cost.values()) >= 9
    while machine.step():
        pass
    assert sum(len(batch) for batch in machine.passes) == 90


def test_patience_of_all_items_of_a_large_backlog_keeps_shares_fair():
    machine = Machine(max_size=8, patience_s=1.0)
    for number in range(2000):
        machine.add("large", f"t{number % 5}", priority=0)
    serve(machine, 20)
    machine.cost.clear()
    small = [machine.add("small", "t0", priority=0) for _ in range(16)]
    for _ in range(16):
        machine.step()
        if not any(item.waits for item in small):
            break
    assert not any(item.waits for item in small)
    assert len(machine.passes) - 20 <= 6


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["asr", "st", "search"]),
            st.sampled_from("ab"),
            st.integers(1, 5),
            st.integers(0, 40),
            st.integers(0, 2),
            st.sampled_from(["done", "cancelled", "expired"]),
        ),
        max_size=40,
    ),
    st.booleans(),
)
def test_the_books_of_the_jobs_add_up(work, forget):
    async def test() -> None:
        clock, passes = FakeClock(), Passes(gated=True)
        batcher: Batcher = MicroBatcher(passes, max_size=8, patience_s=1.5, clock=clock)
        blocker = later(batcher.submit("other", 0, job="asr"))
        await settle()
        tasks = [
            later(
                batcher.submit(
                    queue,
                    number,
                    size=size,
                    length=length,
                    job=job,
                    priority=priority,
                    expires_s=0.5 if fate == "expired" else float("inf"),
                )
            )
            for number, (job, queue, size, length, priority, fate) in enumerate(work)
        ]
        await settle()
        by_job, by_queue = Counter[str](), Counter[str]()
        for job, queue, size, *_ in work:
            by_job[job] += size
            by_queue[queue] += size
        assert batcher.depth_by_job == by_job
        assert batcher.depth_by_queue == by_queue
        for task, (*_, fate) in zip(tasks, work, strict=True):
            if fate == "cancelled":
                task.cancel()
        await clock.advance(1.0)
        while not blocker.done() or not all(task.done() for task in tasks):
            await clock.advance(1.0)
            passes.gate.set()
            await settle()
        if forget:
            batcher.forget("st")
            assert "st" not in batcher.statistics_by_job
        await asyncio.gather(*tasks, return_exceptions=True)
        total, jobs = batcher.statistics, batcher.statistics_by_job
        done = [("asr", "other", 1, 0, 0, "done"), *[each for each in work if each[-1] == "done"]]
        books = [*jobs.values(), batcher.statistics_of_the_gone]
        for name in ("items", "units", "cost", "cancelled", "expired"):
            assert sum(getattr(job, name) for job in books) == getattr(total, name)
        assert total.items == len(done) == sum(job.waits.count for job in books)
        assert total.units == sum(size for _, _, size, *_ in done)
        assert total.cost == sum(size * (length or 1) for _, _, size, length, *_ in done)
        assert total.expired == sum(each[-1] == "expired" for each in work)
        assert total.cancelled == sum(each[-1] == "cancelled" for each in work)
        assert total.passes == len(passes.seen)
        assert total.padded >= total.cost
        assert jobs["asr"].units == 1 + sum(each[2] for each in done[1:] if each[0] == "asr")
        assert batcher.depth_by_job == {}

    run(test)


def test_a_job_is_told_the_size_of_the_passes_it_rode_in():
    async def test() -> None:
        batcher: Batcher = MicroBatcher(Passes(), max_size=8, clock=FakeClock())
        await asyncio.gather(
            batcher.submit("a", 1, size=2, length=10, job="asr"),
            batcher.submit("a", 2, size=4, length=10, job="st"),
        )
        await batcher.submit("a", 3, size=2, length=5, job="asr")
        asr, st_job = batcher.statistics_by_job["asr"], batcher.statistics_by_job["st"]
        assert (asr.passes, asr.units, asr.cost, asr.units_per_pass) == (2, 4, 30, 4.0)
        assert (st_job.passes, st_job.units, st_job.cost, st_job.units_per_pass) == (1, 4, 40, 6.0)
        assert batcher.statistics.units_per_pass == 4.0
        assert batcher.statistics.padded == 6 * 10 + 2 * 5

    run(test)


def test_statistics_of_many_jobs_stay_small_and_lose_nothing():
    async def test() -> None:
        batcher: Batcher = MicroBatcher(Passes(), max_size=8, clock=FakeClock())
        for number in range(600):
            await batcher.submit("a", number, job=f"trial {number}")
        assert len(batcher.statistics_by_job) == 256
        assert batcher.statistics_of_the_gone.items == 600 - 256
        assert batcher.statistics.items == 600

    run(test)
