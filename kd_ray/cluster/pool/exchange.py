"""One request's way through a pool: asked, asked elsewhere where need be, merged on the hosts.

Each host answers with a small report, and keeps what its teachers say, fused, where it is. Hosts of
one node merge theirs, one host merges those of the nodes and makes the target, and only that comes
to the student. Every step can fail with its host: then another host does it.
"""

import asyncio
import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, cast

import numpy as np
import ray

from kd_ray.cluster.pool.address import HostAddress, HostReport, arrays_bytes
from kd_ray.cluster.pool.roster import HOST_GONE, Roster, one_line
from kd_ray.core import strategies
from kd_ray.core.contracts import Answer, Audio, Generate, Request, Score
from kd_ray.teachers.answers import Call, Ledger, asked_alone, merge_partials
from kd_ray.teachers.batching import Expired
from kd_ray.teachers.host import NotHere
from kd_ray.teachers.policies import LeaveOut, Proceed, judge_host

NO_AUDIO = Audio(np.zeros(0, dtype=np.int16), np.zeros(0, dtype=np.int64))
_LOOK_S = 0.5
"""How often what is asked is judged by the hosts that there are by then."""
_MERGE_S = 15.0
"""Longest wait for hosts to merge what they have, or for its bytes to arrive."""


@dataclass(frozen=True, eq=False)
class _Part:
    """What a host has said, and where its fused distributions lie."""

    host: HostAddress
    report: HostReport
    kept: "ray.ObjectRef[Any]"


@dataclass(frozen=True, eq=False)
class _Asked:
    """A host that has not answered yet."""

    host: HostAddress
    teachers: tuple[int, ...]
    reference: "ray.ObjectRef[Any]"
    kept: "ray.ObjectRef[Any]"
    since_s: float


class Exchange(Generic[Answer]):
    """Gets one request answered.

    Args:
        request: what is asked; numbered by the job's own teachers.
        roster: the hosts.
        ledger: losses, and whether enough teachers answered.
        deadline_s: for a host, from being asked.
        job: who asks, and its share.
        data: digest of the data that it asks about.
    """

    def __init__(
        self,
        request: Request[Answer],
        roster: Roster,
        ledger: Ledger,
        *,
        deadline_s: float,
        job: str,
        weight: float,
        data: str = "",
    ) -> None:
        self._request = request
        self._roster = roster
        self._ledger = ledger
        self._deadline_s = deadline_s
        self._job, self._weight, self._data = job, weight, data
        self._alone = asked_alone(request)
        # As the pool was when the request began.
        self._address = roster.address
        self._places: list[int] = []
        self._open: dict[asyncio.Task[HostReport], _Asked] = {}
        self._parts: list[_Part] = []
        self._tried: dict[int, set[str]] = {}
        self.edges: dict[str, int] = {"hosts": 0, "nodes": 0, "student": 0}
        """Bytes that came from `hosts`, from merging `nodes`, and to the `student`."""

    @property
    def waiting_for(self) -> list[str]:
        """Names of hosts that have not answered."""
        return [asked.host.name for asked in self._open.values()]

    async def run(self) -> Answer:
        """The answer.

        Raises:
            TeachersGone: fewer teachers than the quorum answered.
            Exception: what a teacher raised.
        """
        try:
            with self._roster.acting() as self._address:
                count = len(self._ledger.teachers)
                numbers = range(count) if self._alone is None else [self._alone]
                self._places = [self._address.place(number) for number in numbers]
                while True:
                    await self._collect()
                    fused = await self._fused()
                    if fused is not _LOST:
                        break
            answers = [part.report.answer for part in self._in_order()]
            return self._ledger.conclude(
                self._request, answers, cast(strategies.FusedTargets | None, fused)
            )
        finally:
            for task, asked in self._open.items():
                task.cancel()
                ray.cancel(asked.reference)
                self._roster.open_requests[asked.host.name] -= 1
            self._open.clear()

    async def _collect(self) -> None:
        """Ask until every teacher has answered, or those that have are all that can be had."""
        audio: Any = None
        give_up_s: float | None = None
        returns = self._roster.returns
        while True:
            found = self._roster.route(self._missing(), self._tried)
            for name, teachers in found.hosts.items():
                audio = ray.put(self._request.audio) if audio is None else audio
                self._ask(self._roster.named(name), teachers, audio)
            hopeful = self._reachable()
            if self._enough(hopeful):
                give_up_s = None
                if not self._open and not found.hosts:
                    return
            else:
                # Too few, whatever the others say, unless a lost host comes back in time.
                give_up_s = give_up_s or time.monotonic() + self._address.settings.recover_s
                left_s = give_up_s - time.monotonic()
                if returns != self._roster.returns and left_s > 0:
                    # One is back: it may be asked once more, whoever was asked before.
                    returns = self._roster.returns
                    self._tried.clear()
                    continue
                if left_s <= 0 or not self._roster.may_return(self._missing()):
                    self._ledger.require(self._numbers(hopeful), only=self._alone)
                if not self._open:
                    await self._roster.await_change(left_s)
                    self._tried.clear()
                    continue
            if self._open:
                await self._await_some()

    def _ask(self, host: HostAddress, teachers: Sequence[int], audio: Any) -> None:
        handle = self._roster.handle(host)
        assert handle is not None, "only hosts that can be asked are routed to"
        address = self._address
        everything = set(teachers) == set(self._places)
        call = Call(
            teachers=tuple(teachers),
            numbers=tuple(address.numbers(teachers)),
            num_teachers=len(address.info.teachers),
            job=self._job,
            weight=self._weight,
            finish=everything,
            data=self._data,
        )
        for index in teachers:
            self._tried.setdefault(index, set()).add(host.name)
        try:
            reference, kept = handle.answer.options(num_returns=2).remote(
                audio, question_of(self._request, self._deadline_s, address.settings.priority), call
            )
        except HOST_GONE as error:
            self._roster.leave_out(host, one_line(error))
            return
        self._roster.open_requests[host.name] += 1
        task = asyncio.create_task(_await(reference))
        self._open[task] = _Asked(host, tuple(teachers), reference, kept, time.monotonic())

    async def _await_some(self) -> None:
        """Wait for a host to answer, fail or be late."""
        now = time.monotonic()
        first_due_s = min(asked.since_s + self._patience_s(asked) for asked in self._open.values())
        # Another host may come back meanwhile; who waits for a sole copy then waits for less.
        done, _ = await asyncio.wait(
            self._open,
            timeout=min(_LOOK_S, max(0.0, first_due_s - now)),
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in done:
            self._take(task, self._forget(task))
        for task, asked in list(self._open.items()):
            waited_s = time.monotonic() - asked.since_s
            decision = judge_host(None, waited_s, self._patience_s(asked))
            if isinstance(decision, LeaveOut):
                self._forget(task)
                task.cancel()
                ray.cancel(asked.reference)
                self._roster.leave_out(asked.host, decision.reason, late=True)
                self._note_retries(asked.host, asked.teachers, decision.reason)

    def _patience_s(self, asked: _Asked) -> float:
        """How long a host has: less where others could answer in its place."""
        found = self._roster.route(asked.teachers, self._tried)
        if found.nowhere:
            return self._deadline_s
        sooner = self._address.settings.retry_after_s or self._deadline_s / 2
        return min(self._deadline_s, sooner)

    def _take(self, task: "asyncio.Task[HostReport]", asked: _Asked) -> None:
        """Keep an answer; other hosts are asked for teachers that it lacks."""
        try:
            report = task.result()
        except (*HOST_GONE, Expired) as error:
            reason = str(error) if isinstance(error, Expired) else one_line(error)
            self._roster.leave_out(asked.host, reason)
            return self._note_retries(asked.host, asked.teachers, reason)
        except NotHere as error:
            return self._note_retries(asked.host, asked.teachers, str(error))
        self._ledger.receive(report.answer)
        if report.answer.answered:
            self._parts.append(_Part(asked.host, report, asked.kept))
            self.edges["hosts"] += report.kept_bytes
        place = self._address.place
        answered = set(map(place, report.answer.answered))
        silent = [index for index in asked.teachers if index not in answered]
        self._roster.answered(asked.host, map(place, report.answer.quarantined))
        reasons = [*report.answer.failed.values(), *report.answer.quarantined.values()]
        reason = reasons[0] if reasons else "its teachers could not answer"
        return self._note_retries(asked.host, silent, reason)

    def _note_retries(self, host: HostAddress, teachers: Sequence[int], reason: str) -> None:
        """Tell of those teachers that another host will be asked for."""
        nowhere = set(self._roster.route(teachers, self._tried).nowhere)
        again = [index for index in teachers if index not in nowhere]
        if again:
            self._ledger.retried(host.name, self._numbers(again), reason)

    def _forget(self, task: "asyncio.Task[HostReport]") -> _Asked:
        asked = self._open.pop(task)
        self._roster.open_requests[asked.host.name] -= 1
        return asked

    def _answered(self) -> set[int]:
        place = self._address.place
        return {place(number) for part in self._parts for number in part.report.answer.answered}

    def _missing(self) -> list[int]:
        """Teachers that have not answered and are not being asked."""
        here = self._answered().union(*(asked.teachers for asked in self._open.values()))
        return [index for index in self._places if index not in here]

    def _reachable(self) -> list[int]:
        """Teachers that have answered or still may."""
        return sorted(self._answered().union(*(asked.teachers for asked in self._open.values())))

    def _enough(self, teachers: Iterable[int]) -> bool:
        decision = self._ledger.judge(self._numbers(teachers), only=self._alone)
        return isinstance(decision, Proceed)

    def _numbers(self, teachers: Iterable[int]) -> list[int]:
        return self._address.numbers(teachers)

    def _in_order(self) -> list[_Part]:
        """By name, so that sums are the same whoever was first."""
        return sorted(self._parts, key=lambda part: (_numbered(part.host.name), part.host.teachers))

    async def _fused(self) -> "strategies.FusedTargets | _Lost | None":
        """Merge what hosts keep, on the hosts; `_LOST` if some of it is gone, and forgotten."""
        parts = self._in_order()
        if not isinstance(self._request, Score) or not parts:
            return None
        if len(parts) == 1 and parts[0].report.finished:
            along = parts[0].report.answer.fused
            if along is not None:
                return self._received(along)
            return await self._fetch(parts, parts[0].kept)
        nodes: dict[str, list[_Part]] = {}
        for part in parts:
            nodes.setdefault(part.host.node, []).append(part)
        asked: set[str] = set()
        for _ in range(2):
            try:
                return await self._merge(list(nodes.values()), asked)
            except (*HOST_GONE, TimeoutError):
                continue
        # No host could; this process can, if it gets hold of the partials.
        return await self._merge_here(parts)

    async def _merge(
        self, nodes: Sequence[Sequence[_Part]], asked: set[str]
    ) -> strategies.FusedTargets:
        """On one host of each node, then on one of them all; hosts in `asked` come last."""
        settings = self._address.settings
        patience_s = min(_MERGE_S, settings.retry_after_s or self._deadline_s / 2)
        kept, sizes = [], []
        for group in nodes:
            if len(group) == 1 or len(nodes) == 1:
                kept += [part.kept for part in group]
                continue
            merging = self._helper(group, asked).merge.options(num_returns=2)
            size, merged = merging.remote(*(part.kept for part in group))
            kept.append(merged)
            sizes.append(size)
        root = self._helper(max(nodes, key=len), asked)
        fused = await asyncio.wait_for(_await(root.finish.remote(*kept)), patience_s)
        for size in sizes:
            self.edges["nodes"] += await asyncio.wait_for(_await(size), patience_s)
        return self._received(fused)

    def _received(self, fused: strategies.FusedTargets) -> strategies.FusedTargets:
        self.edges["student"] += arrays_bytes(fused)
        return fused

    def _helper(self, group: Sequence[_Part], asked: set[str]) -> Any:
        """A live host, of this node if there is one; noted in `asked`, should it be silent."""
        here = {part.host.name for part in group}
        alive = sorted(
            self._roster.alive(),
            key=lambda host: (
                host.name in asked,
                host.name not in here,
                self._roster.open_requests[host.name],
            ),
        )
        if not alive:
            raise ray.exceptions.RayActorError(error_msg="no host is left to merge on")
        asked.add(alive[0].name)
        return self._roster.handle(alive[0])

    async def _merge_here(self, parts: Sequence[_Part]) -> "strategies.FusedTargets | _Lost":
        partials = []
        for part in parts:
            try:
                partials.append(await asyncio.wait_for(_await(part.kept), _MERGE_S))
            except (*HOST_GONE, TimeoutError) as error:
                self._parts.remove(part)
                self._roster.leave_out(part.host, one_line(error))
        if len(partials) < len(parts):
            self._tried.clear()
            return _LOST
        return strategies.finish(merge_partials(partials))

    async def _fetch(
        self, parts: Sequence[_Part], reference: Any
    ) -> "strategies.FusedTargets | _Lost":
        try:
            return self._received(await asyncio.wait_for(_await(reference), _MERGE_S))
        except (*HOST_GONE, TimeoutError) as error:
            for part in parts:
                self._parts.remove(part)
                self._roster.leave_out(part.host, one_line(error))
            self._tried.clear()
            return _LOST


class _Lost:
    """Partials that are gone with their node."""


_LOST = _Lost()


def question_of(request: Request[Any], deadline_s: float, priority: int = 0) -> Score | Generate:
    """A request without its audio, which travels beside it, and numbered by its `Call`.

    Its priority is above or below that of other requests of its job, whose own is `priority`.
    """
    question = cast(Score | Generate, request)
    return dataclasses.replace(
        question,
        audio=NO_AUDIO,
        deadline_s=deadline_s,
        priority=request.priority + priority,
    )


def _numbered(name: str) -> tuple[int, str]:
    """Sorts host-10 behind host-9."""
    tail = name.rsplit("-", 1)[-1]
    return (int(tail) if tail.isdigit() else 0, name)


async def _await(reference: Any) -> Any:
    return await reference
