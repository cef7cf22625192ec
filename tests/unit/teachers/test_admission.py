"""A job with its cap of bytes at a host waits at the door; others do not."""

import asyncio
import dataclasses

import pytest
from batching_doubles import FakeClock, settle
from doubles import FakeTeacher, request, writing_request
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.teachers.admission import JobGate, held_bytes
from kd_ray.teachers.answers import Call
from kd_ray.teachers.batching import Expired
from kd_ray.teachers.budgets import JobBudgets
from kd_ray.teachers.host import TeacherHost


class Door:
    """A gate whose visitors leave when they are told to."""

    def __init__(self, cap):
        self.clock = FakeClock()
        self.budgets = JobBudgets(cap)
        self.gate = JobGate(self.budgets, self.clock)
        self.inside = []
        self.tasks = {}
        self.leave = {}

    def come(self, name, num_bytes, *, job="a", expires_s=100.0):
        self.leave[name] = asyncio.Event()

        async def visit():
            async with self.gate.inside(job, num_bytes, expires_s):
                self.inside.append(name)
                try:
                    await self.leave[name].wait()
                finally:
                    self.inside.remove(name)

        self.tasks[name] = asyncio.ensure_future(visit())

    async def go(self, name):
        self.leave[name].set()
        await self.tasks[name]
        await settle()


def run(test):
    asyncio.run(asyncio.wait_for(test(), 10))


def test_those_that_do_not_fit_wait_in_order_and_other_jobs_pass():
    async def test():
        door = Door(10)
        door.come(1, 6)
        door.come(2, 6)
        # It would fit, but nobody overtakes within a job.
        door.come(3, 2)
        door.come(4, 9, job="b")
        await settle()
        assert door.inside == [1, 4]
        assert door.gate.waiting == {"a": 2}
        await door.go(1)
        assert door.inside == [4, 2, 3]
        assert door.gate.waiting == {}
        for name in (2, 3, 4):
            await door.go(name)
        assert door.budgets.in_flight("a") == door.budgets.in_flight("b") == 0

    run(test)


def test_one_that_is_larger_than_the_cap_goes_in_alone():
    async def test():
        door = Door(10)
        door.come(1, 3)
        door.come(2, 50)
        await settle()
        assert door.inside == [1]
        await door.go(1)
        assert door.inside == [2]
        door.come(3, 1)
        await settle()
        assert door.inside == [2]
        await door.go(2)
        assert door.inside == [3]
        await door.go(3)

    run(test)


def test_the_deadline_counts_at_the_door():
    async def test():
        door = Door(10)
        door.come(1, 10)
        door.come(2, 10, expires_s=5.0)
        door.come(3, 10)
        await settle()
        await door.clock.advance(5.0)
        with pytest.raises(Expired, match=r"not let in .*'a' has 0.0 MiB .*max_job_mib"):
            await door.tasks[2]
        assert door.gate.waiting == {"a": 1}
        await door.go(1)
        assert door.inside == [3]
        await door.go(3)

    run(test)


def test_who_gives_up_at_the_door_makes_way():
    async def test():
        door = Door(10)
        for name, size in ((1, 6), (2, 10), (3, 4)):
            door.come(name, size)
        await settle()
        door.tasks[2].cancel()
        await settle()
        assert door.inside == [1, 3]
        # Let in, and given up in the same moment.
        door.come(4, 10)
        await settle()
        door.leave[1].set()
        door.leave[3].set()
        while door.gate.waiting:
            await asyncio.sleep(0)
        door.tasks[4].cancel()
        await settle()
        assert door.inside == []
        assert door.budgets.in_flight("a") == 0

    run(test)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 15), st.sampled_from(["go", "cancel"])),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_nobody_is_forgotten_and_the_cap_holds(visits, random):
    async def test():
        door = Door(10)
        for name, (job, size, _) in enumerate(visits):
            door.come(name, size, job=job)
        await settle()
        order = list(range(len(visits)))
        random.shuffle(order)
        for name in order:
            for job in "ab":
                here = [visits[each][1] for each in door.inside if visits[each][0] == job]
                assert sum(here) <= 10 or len(here) == 1
                assert door.budgets.in_flight(job) == sum(here)
            if visits[name][2] == "cancel":
                door.tasks[name].cancel()
            door.leave[name].set()
            await settle()
        await asyncio.gather(*door.tasks.values(), return_exceptions=True)
        went = {name for name, task in door.tasks.items() if not task.cancelled()}
        assert {name for name, visit in enumerate(visits) if visit[2] == "go"} <= went
        assert door.gate.waiting == {}
        assert door.budgets.in_flight("a") == door.budgets.in_flight("b") == 0

    run(test)


def test_what_a_request_holds_grows_with_teachers_positions_and_audio():
    one, infos = request(1, 4), [FakeTeacher(seed).info for seed in (1, 2, 3)]
    audio = one.audio.samples.nbytes
    positions = 4 * (int(one.references.lengths.max()) + 1)
    assert held_bytes(one, infos) == 2 * audio + positions * 7 * 4 * 4
    more = [*infos, FakeTeacher(4, num_mels=9).info]
    assert held_bytes(one, more) == 3 * audio + positions * 7 * 4 * 5
    labels = dataclasses.replace(one, wanted=frozenset({"labels"}))
    assert held_bytes(labels, infos) == 2 * audio
    written = writing_request(1)
    assert held_bytes(written, infos) == 2 * written.audio.samples.nbytes


def test_a_host_holds_back_a_job_above_its_cap_and_answers_all_of_it():
    teacher = FakeTeacher(1, pass_s=0.02)
    large = [request(seed, 4) for seed in range(6)]
    cap = held_bytes(large[0], [teacher.info])
    host = TeacherHost([teacher], max_job_bytes=cap)
    most, held = 0, []

    async def ask():
        nonlocal most
        asked = [asyncio.ensure_future(host.answer(one, Call(job="large"))) for one in large]
        small = asyncio.ensure_future(host.answer(request(9, 2), Call(job="small")))
        await small
        held.append(host.status.held)
        while not all(one.done() for one in asked):
            most = max(most, host.status.queued_utterances)
            await asyncio.sleep(0.001)
        await host.close()
        return [one.result() for one in asked]

    answers = asyncio.run(ask())
    assert all(answer.answered == (0,) for answer in answers)
    # No more than one of its requests was inside at any time; they waited, and were told of.
    assert most <= 4
    assert held[0]["large"] >= 3
    assert host.status.held == {}
    assert host.status.open_requests == 0


def test_a_request_that_expires_at_the_door_is_never_computed():
    teacher = FakeTeacher(1, pass_s=0.3)
    one = request(1, 4)
    host = TeacherHost([teacher], max_job_bytes=1)

    async def ask():
        first = asyncio.ensure_future(host.answer(one))
        late = asyncio.ensure_future(host.answer(dataclasses.replace(one, deadline_s=0.05)))
        with pytest.raises(Expired, match="max_job_mib"):
            await late
        await first
        await host.close()

    asyncio.run(ask())
    assert teacher.batch_sizes == [4]
