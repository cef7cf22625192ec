"""Several jobs at one host: they share passes, and priorities go first."""

import asyncio
import threading

import numpy as np
from batching_doubles import FakeClock
from doubles import FakeTeacher, request

from kd_ray.teachers.answers import Call
from kd_ray.teachers.host import TeacherHost


class Stepped(FakeTeacher):
    """Each of its passes waits until the test lets it go on."""

    def __init__(self, seed=1):
        super().__init__(seed)
        self.gate = threading.Semaphore(0)

    def score(self, *arguments):
        assert self.gate.acquire(timeout=10)
        return super().score(*arguments)


class Jobs:
    """Asks a host whose teacher is stepped, and sees who is served when."""

    def __init__(self, **settings):
        self.teacher = Stepped()
        self.clock = FakeClock()
        self.host = TeacherHost([self.teacher], clock=self.clock, **settings)
        self.done = []
        self.tasks = []
        self.queued = 0

    async def come(self, job, seed, rows, priority=0):
        """Ask, and return when the work is in the queue (or in the first pass)."""

        async def answer():
            answer = await self.host.answer(request(seed, rows, priority=priority), Call(job=job))
            self.done.append(job)
            return answer

        self.tasks.append(asyncio.ensure_future(answer()))
        if len(self.tasks) == 1:
            await until(lambda: self.host.status.batches.passes == 1)
        else:
            self.queued += rows
            await until(lambda: self.host.status.queued_utterances == self.queued)

    async def step(self, served):
        """One pass more is over; `served` requests come back."""
        before, passes = len(self.done), self.host.status.batches.passes
        self.teacher.gate.release()
        await until(lambda: len(self.done) == before + served)
        await until(lambda: not self.queued or self.host.status.batches.passes > passes)
        self.queued = self.host.status.queued_utterances

    async def close(self):
        for _ in self.tasks:
            self.teacher.gate.release()
        answers = await asyncio.gather(*self.tasks)
        await self.host.close()
        return answers


async def until(condition):
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not happen within 10 s")


def test_requests_of_different_jobs_share_a_pass():
    async def go():
        jobs = Jobs(batch_wait_ms=0)
        await jobs.come("x", 0, 1)
        for seed in (1, 2, 3):
            await jobs.come(f"job {seed}", seed, 2)
        return jobs, await jobs.close()

    jobs, answers = asyncio.run(go())
    assert jobs.teacher.batch_sizes == [1, 6]
    for seed, answer in zip((1, 2, 3), answers[1:], strict=True):
        alone = asyncio.run(TeacherHost([FakeTeacher(1)]).answer(request(seed, 2)))
        np.testing.assert_allclose(
            answer.partial.probabilities, alone.partial.probabilities, atol=1e-6
        )
        assert jobs.host.status.jobs[f"job {seed}"].units_per_pass == 6


def test_a_job_of_low_priority_delays_one_of_high_priority_by_one_pass_at_most():
    async def go():
        jobs = Jobs(batch_wait_ms=0, max_batch_utterances=4)
        for seed in range(5):
            await jobs.come("search", seed, 4, priority=-1)
        for seed in (10, 11):
            # A pass of the search runs; four more of its requests wait.
            await jobs.come("training", seed, 3)
            await jobs.step(1)
            assert jobs.done[-1] == "search"
            await jobs.step(1)
            assert jobs.done[-1] == "training"
        await jobs.close()
        return jobs

    jobs = asyncio.run(go())
    assert jobs.teacher.batch_sizes == [4, 3, 4, 3, 4, 4, 4]


def test_work_of_low_priority_does_not_wait_for_ever():
    async def go():
        jobs = Jobs(batch_wait_ms=0, max_batch_utterances=4, patience_s=5.0)
        await jobs.come("training", 0, 3)
        await jobs.come("search", 1, 4, priority=-1)
        for seed in range(2, 6):
            await jobs.come("training", seed, 3)
        await jobs.step(1)
        await jobs.step(1)
        assert "search" not in jobs.done
        await jobs.clock.advance(6.0)
        await jobs.step(1)
        await jobs.step(1)
        await jobs.step(1)
        assert "search" in jobs.done
        await jobs.close()

    asyncio.run(go())
