"""A pool without processes: several hosts, requests that travel, partials merged, one target."""

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kd_ray.core.contracts import Request, TeachersInfo
from kd_ray.teachers.answers import Call, Ledger
from kd_ray.teachers.concluding import finish_partials
from kd_ray.teachers.host import ScoringTeacher, TeacherHost


class InProcessPool:
    """A `TeacherSource` over hosts that live here; teacher i is on host i modulo their number."""

    def __init__(self, teachers: Sequence[ScoringTeacher], hosts: int, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        everyone = range(len(teachers))
        self.hosts = [
            TeacherHost(
                teachers[first::hosts],
                indices=everyone[first::hosts],
                num_teachers=len(teachers),
                **settings,
            )
            for first in range(hosts)
        ]
        infos = sorted((i for host in self.hosts for i in host.infos), key=lambda i: i.index)
        self._info = TeachersInfo(tuple(infos), source="pool")
        self._ledger = Ledger(self._info.teachers, 1.0)

    def ask(self, request: Request[Any]) -> "Answered":
        travelled = pickle.loads(pickle.dumps(request))

        async def answers() -> Any:
            return await asyncio.gather(*(host.answer(travelled, Call()) for host in self.hosts))

        found = self._loop.run_until_complete(answers())
        partials = pickle.loads(pickle.dumps([answer.partial for answer in found]))
        fused = pickle.loads(pickle.dumps(finish_partials(partials)))
        reports = [replace(answer, partial=None) for answer in found]
        return Answered(self._ledger.conclude(request, reports, fused))

    def describe(self) -> TeachersInfo:
        return self._info

    def close(self) -> None:
        for host in self.hosts:
            self._loop.run_until_complete(host.close())
        self._loop.close()


class Answered:
    def __init__(self, signal: Any) -> None:
        self._signal = signal

    def result(self, timeout_s: float) -> Any:
        return self._signal

    def cancel(self) -> None:
        pass
