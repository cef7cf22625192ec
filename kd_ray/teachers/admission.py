"""Requests of a job wait at a host's door while the job has its cap of bytes inside."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from kd_ray.core.contracts import Generate, Score, TeacherInfo
from kd_ray.teachers.batching import Clock, Expired
from kd_ray.teachers.budgets import JobBudgets
from kd_ray.teachers.policies import Admit

_FLOAT_BYTES = 4


def held_bytes(request: Score | Generate, teachers: Sequence[TeacherInfo]) -> int:
    """What a host holds for a request at most: features, outputs of these teachers and their mix.

    Features of 80 mels are as large as the audio itself; strings are not worth counting.
    """
    audio = request.audio.samples.nbytes * (1 + len({info.front_end_digest for info in teachers}))
    if isinstance(request, Generate) or "tokens" not in request.wanted:
        return audio
    prefix = request.decoder_prefix()
    positions = len(prefix.lengths) * (int(prefix.lengths.max(initial=0)) + 1)
    vocabulary = max((info.vocabulary_size for info in teachers), default=0)
    return audio + positions * vocabulary * _FLOAT_BYTES * (len(teachers) + 1)


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A request before the door."""

    num_bytes: int
    admitted: "asyncio.Future[None]"

    @property
    def is_in(self) -> bool:
        """Whether it was let in, not given up."""
        future = self.admitted
        return future.done() and not future.cancelled() and future.exception() is None


class JobGate:
    """Lets requests in, those of a job first come, first served, as far as its cap allows.

    What waits holds its audio and nothing else: neither features nor outputs are made for it, and
    it is in no queue. No job waits for another one. Lives on one event loop.

    Args:
        budgets: the caps.
        clock: by which requests expire.
    """

    def __init__(self, budgets: JobBudgets, clock: Clock) -> None:
        self._budgets = budgets
        self._clock = clock
        self._lines: dict[str, deque[_Waiting]] = {}

    @property
    def waiting(self) -> Mapping[str, int]:
        """Requests before the door, by job; jobs without any are left out."""
        return {job: len(line) for job, line in self._lines.items()}

    @asynccontextmanager
    async def inside(self, job: str, num_bytes: int, expires_s: float) -> AsyncIterator[None]:
        """Be let in, and take up `num_bytes` until the context ends.

        Raises:
            Expired: its time was over before there was room.
        """
        if job not in self._lines and self._fits(job, num_bytes):
            self._budgets.acquire(job, num_bytes)
        else:
            await self._wait(job, num_bytes, expires_s)
        try:
            yield
        finally:
            self._leave(job, num_bytes)

    async def _wait(self, job: str, num_bytes: int, expires_s: float) -> None:
        line = self._lines.setdefault(job, deque())
        waiting = _Waiting(num_bytes, asyncio.get_running_loop().create_future())
        line.append(waiting)
        timer = self._clock.call_at(expires_s, lambda: self._expire(job, waiting))
        try:
            await waiting.admitted
        except BaseException:
            if waiting.is_in:
                # Let in, and given up before it took notice.
                self._leave(job, num_bytes)
            else:
                self._admit(job)
            raise
        finally:
            timer.cancel()

    def _fits(self, job: str, num_bytes: int) -> bool:
        return isinstance(self._budgets.judge(job, num_bytes), Admit)

    def _leave(self, job: str, num_bytes: int) -> None:
        self._budgets.release(job, num_bytes)
        self._admit(job)

    def _admit(self, job: str) -> None:
        """Let in what fits now, in order; what was given up leaves the line."""
        line = deque(each for each in self._lines.pop(job, ()) if not each.admitted.done())
        while line and self._fits(job, line[0].num_bytes):
            self._budgets.acquire(job, line[0].num_bytes)
            line.popleft().admitted.set_result(None)
        if line:
            self._lines[job] = line

    def _expire(self, job: str, waiting: _Waiting) -> None:
        if not waiting.admitted.done():
            waiting.admitted.set_exception(
                Expired(
                    f"not let in within its deadline: job {job!r} has "
                    f"{self._budgets.in_flight(job) / 2**20:.1f} MiB in flight here, allowed are "
                    f"{self._budgets.cap(job) / 2**20:.1f} (max_job_mib)"
                )
            )
