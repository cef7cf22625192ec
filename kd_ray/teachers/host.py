"""A host: several resident teachers that answer requests with one fused partial.

Plain Python and torch; `kd_ray.cluster.pool` makes an actor of it, `local_source` a thread.
Shapes: B utterances, U target positions, V vocabulary.
"""

import asyncio
import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from kd_ray.core import strategies
from kd_ray.core.contracts import Generate, Score, TeacherInfo, Writing
from kd_ray.teachers.admission import JobGate, held_bytes
from kd_ray.teachers.answers import Call, HostAnswer, check_request, merge_partials
from kd_ray.teachers.batching import Clock, LoopClock, MicroBatcher, Ready
from kd_ray.teachers.budgets import JobBudgets
from kd_ray.teachers.concluding import Done, Silent, conclude, finish_partials
from kd_ray.teachers.costs import Costs, JobCost
from kd_ray.teachers.host_state import Asked, HostStatus, Known, Opened, Queue, Scoring
from kd_ray.teachers.inputs import InputMaker
from kd_ray.teachers.memory import PassTooLarge
from kd_ray.teachers.passes import Passes
from kd_ray.teachers.remembering import Memory
from kd_ray.teachers.residency import LoadFailed
from kd_ray.teachers.residents import AllLoaded, Residents, ScoringTeacher
from kd_ray.teachers.rows import (
    Work,
    fault_of,
    join_rows,
    take_rows,
)
from kd_ray.teachers.sweep import Ready as Waiting
from kd_ray.teachers.sweep import Sweep
from kd_ray.teachers.threads import HostThreads, gather
from kd_ray.teachers.transcriber import Transcriber

__all__ = ["EVERYBODY", "HostStatus", "NotHere", "ScoringTeacher", "TeacherHost"]

logger = logging.getLogger(__name__)

EVERYBODY = Call()
"""All teachers of the host, by their own numbers."""


class NotHere(LookupError):
    """A request named teachers that do not live on the host."""


class TeacherHost:
    """Answers `Score` and `Generate` requests with the partial of its own teachers.

    Inputs are made once per request and distinct front end; utterances of several requests
    share a teacher's forward pass; passes run one at a time on a thread of their own, so that the
    event loop stays free. A teacher that answers with a number that is not finite, or that cannot
    be loaded, is quarantined.

    Args:
        teachers: that live here; those of a sequence are numbered 0, 1, ... or by `indices`.
        indices: numbers in the pool of a sequence of teachers.
        num_teachers: of the whole pool; default: as many as live here.
        batching: `per_request` never mixes requests, so that answers repeat bit for bit.
        max_batch_utterances: of one forward pass; larger requests are split.
        max_batch_frames: padded area of one forward pass, utterances times the longest (frames,
            or source tokens of text teachers); None: any.
        batch_wait_ms: longest wait for companions; none while the host is idle.
        memory: of what teachers said; None: none.
        max_job_bytes: that open requests of one job may hold; more of them wait.
        patience_s: work that has waited longer counts as of the highest priority that waits.
        window: requests that may still join the visit of a teacher, where teachers take turns.
        transcriber: writes what text teachers read, where a request carries no texts.
        clock: of the micro-batcher.
    """

    def __init__(
        self,
        teachers: Residents | Sequence[ScoringTeacher],
        *,
        indices: Sequence[int] | None = None,
        num_teachers: int | None = None,
        batching: Literal["per_request", "timed"] = "timed",
        max_batch_utterances: int = 32,
        max_batch_frames: int | None = None,
        batch_wait_ms: float = 2.0,
        memory: Memory | None = None,
        max_job_bytes: int = 2 << 30,
        patience_s: float = 15.0,
        window: int = 8,
        transcriber: Transcriber | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._residents = (
            AllLoaded(teachers, indices) if isinstance(teachers, Sequence) else teachers
        )
        # Also of teachers that left: work of theirs may still be under way.
        self._infos = dict(self._residents.infos)
        self._here = set(self._infos)
        if not self._infos:
            raise ValueError("a host needs at least one teacher")
        self._num_teachers = len(self._infos) if num_teachers is None else num_teachers
        self._mix = batching == "timed"
        self._max_utterances = max_batch_utterances
        self._wait_s = batch_wait_ms / 1000 if self._mix else 0.0
        self._clock: Clock = clock or LoopClock()
        self._threads = HostThreads()
        self._transcriber = transcriber
        self._inputs = InputMaker(
            self._residents.reader, transcriber, max_batch_utterances, self._threads
        )
        self._memory = Memory() if memory is None else memory
        self._gate = JobGate(JobBudgets(max_job_bytes), self._clock)
        loaded = self._residents.status
        self._quarantined = {} if loaded is None else dict(loaded.failed)
        # The order of visits counts pieces of work, of which a request makes one per teacher.
        self._sweep = Sweep(window * len(self._infos)) if self._residents.pages else None
        self._batcher: MicroBatcher[Queue, Work, Done | Silent] = MicroBatcher(
            self._pass,
            max_size=max_batch_utterances,
            max_padded=max_batch_frames,
            patience_s=patience_s,
            choose=None if self._sweep is None else self._choose,
            clock=self._clock,
        )
        self._run = Passes(self._residents)
        self._costs = Costs()
        self._busy_s: defaultdict[int, float] = defaultdict(float)
        self._requests = 0
        self._pieces = 0
        # Who comes and who goes, one after the other: a teacher may leave while it is loaded.
        self._moving = asyncio.Lock()
        self._folders: dict[int, Path] = {}

    @property
    def infos(self) -> tuple[TeacherInfo, ...]:
        """The teachers that live here, numbered as in the pool."""
        return tuple(
            dataclasses.replace(self._infos[index], index=index) for index in sorted(self._here)
        )

    @property
    def recognizer(self) -> TeacherInfo | None:
        """Who transcribes for text teachers, if anybody does."""
        return None if self._transcriber is None else self._transcriber.info

    @property
    def status(self) -> HostStatus:
        """Queue and counters."""
        return HostStatus(
            teachers=tuple(sorted(self._here)),
            quarantined=dict(self._quarantined),
            open_requests=self._costs.open_requests,
            queued_utterances=self._batcher.depth,
            batches=self._batcher.statistics,
            jobs=self._batcher.statistics_by_job,
            costs=self._costs.by_job,
            busy_s={index: self._busy_s[index] for index in sorted(self._here)},
            errors=dict(self._costs.errors),
            cache=self._memory.outputs,
            residency=self._residents.status,
            fused=self._memory.fused,
            stored=self._memory.stored,
            held=self._gate.waiting,
        )

    async def answer(self, request: Score | Generate, call: Call = EVERYBODY) -> HostAnswer:
        """Answer with the partial over those teachers of this host that are in order.

        Args:
            request: about what.
            call: which teachers, and for whom.

        Raises:
            NotHere: none of the teachers that were asked for lives here.
            Expired: the request's deadline passed before its turn came.
            Exception: whatever a teacher raised; all requests of its pass get the same error.
        """
        num_teachers = call.num_teachers or self._num_teachers
        check_request(request, num_teachers)
        numbers = self._numbers(request, call)
        expires_s = self._clock.now() + request.deadline_s
        self._batcher.set_weight(call.job, call.weight)
        with self._costs.answering(call.job, self._clock.now) as cost:
            size = held_bytes(request, [self._infos[index] for index in numbers])
            async with self._gate.inside(call.job, size, expires_s):
                answer = await self._answer(Asked(request, call, numbers, num_teachers, expires_s))
            cost.rows = len(request.utterance_ids) * len(answer.answered)
            cost.known_rows = answer.known_rows
            cost.teacher_s, cost.loads = answer.teacher_s, answer.loads
            cost.bytes_in = request.audio.samples.nbytes
        return answer

    async def _answer(self, asked: Asked) -> HostAnswer:
        """Of what is remembered, and of teachers for the rest."""
        sound = [index for index in asked.numbers if index not in self._quarantined]
        request, transcription_s = await self._inputs.with_texts(
            asked.request, [self._infos[index] for index in sound]
        )
        asked = asked._replace(request=request)
        if len(sound) < len(asked.numbers):
            answer = await self._ask_teachers(asked)
        else:
            teachers = {called: self._infos[index] for index, called in asked.numbers.items()}
            answer = await self._memory.answer(
                asked, teachers, self._ask_teachers, self._threads.helper.call
            )
        return dataclasses.replace(answer, teacher_s=answer.teacher_s + transcription_s)

    async def _ask_teachers(self, asked: Asked) -> HostAnswer:
        """The answer of those teachers that are in order."""
        request, call, numbers = asked.request, asked.call, asked.numbers
        sound = [index for index in numbers if index not in self._quarantined]
        self._requests += 1
        number = self._requests
        known = await self._look_up(request, call, sound)
        here = {index: self._infos[index] for index in self._here}
        inputs = await self._inputs.make(request, known, here)
        # The first request at an idle host waits for nobody, with any of its teachers.
        wait_s = 0.0 if self._batcher.idle else self._wait_s
        opened = Opened(request, call, known, inputs, number, wait_s, asked.expires_s)
        answers = await gather([self._ask_teacher(index, opened) for index in sound])
        return await self._threads.helper.call(
            lambda: conclude(
                request, call, numbers,
                dict(zip(sound, answers, strict=True)),
                num_teachers=asked.num_teachers,
                quarantined=dict(self._quarantined),
            ),
        )  # fmt: skip

    async def merge(self, partials: Sequence[strategies.Partial]) -> strategies.Partial:
        """Join what several hosts made of one request."""
        return await self._threads.helper.call(merge_partials, partials)

    async def finish(self, partials: Sequence[strategies.Partial]) -> strategies.FusedTargets:
        """The target of what several hosts made of one request."""
        return await self._threads.helper.call(finish_partials, partials)

    async def add(self, folders: Mapping[int, Path]) -> None:
        """Teachers come to live here, all or none; requests go on meanwhile.

        Raises:
            ValueError: a number is that of another teacher already.
            Exception: what is wrong with a folder, or what its teacher raised when loaded.
        """
        async with self._moving:
            for index in self._here.intersection(folders):
                mine = self._folders.get(index, folders[index])
                if mine != folders[index]:
                    raise ValueError(f"teacher {index} is {mine} here, not {folders[index]}")
            new = {index: folder for index, folder in folders.items() if index not in self._here}
            added: list[int] = []
            try:
                for index, folder in new.items():
                    await self._threads.helper.call(self._residents.add, index, folder)
                    added.append(index)
            except BaseException:
                for index in added:
                    self._residents.remove(index)
                raise
            self._infos.update({index: self._residents.infos[index] for index in added})
            self._here.update(added)
            self._folders.update(new)

    async def remove(self, indices: Iterable[int]) -> None:
        """Teachers leave; passes that run end in peace. Nothing happens to unknown ones."""
        async with self._moving:
            for index in self._here.intersection(indices):
                self._here.discard(index)
                self._folders.pop(index, None)
                self._quarantined.pop(index, None)
                self._residents.remove(index)
                self._memory.forget_teacher(self._infos[index].answers_digest)

    def count_bytes_out(self, job: str, count: int) -> None:
        """What was sent for a job, as the process around this host knows it."""
        self._costs.add(job, JobCost(bytes_out=count))

    def forget_job(self, job: str) -> None:
        """A job has gone; what was done for it is counted among the gone."""
        self._batcher.forget(job)

    async def close(self) -> None:
        """Give up open requests and stop the threads."""
        await self._batcher.close()
        self._threads.close()

    def _numbers(self, request: Score | Generate, call: Call) -> dict[int, int]:
        """The teachers to ask, and what the asking job calls them."""
        here = sorted(self._here)
        asked = tuple(here) if call.teachers is None else call.teachers
        numbers = dict(zip(asked, call.numbers or asked, strict=True))
        if asked and not self._here.intersection(asked):
            raise NotHere(f"teachers {list(asked)} do not live on this host, but {here}")
        # Who asks before it has heard that a teacher left gets the answer of the others.
        numbers = {index: called for index, called in numbers.items() if index in self._here}
        if isinstance(request, Generate) and request.teacher is not None:
            return {index: called for index, called in numbers.items() if called == request.teacher}
        return numbers

    async def _look_up(self, request: Score | Generate, call: Call, sound: Sequence[int]) -> Known:
        """What is remembered of each teacher's answer."""
        infos = {index: self._infos[index] for index in sound}
        if self._memory.is_empty:
            return self._memory.look_up(request, call, infos)
        return await self._threads.memory.call(self._memory.look_up, request, call, infos)

    async def _ask_teacher(self, index: int, opened: Opened) -> Done | Silent:
        """One teacher's output for the whole request, or why it could not be had."""
        request, info, found = opened.request, self._infos[index], opened.known.found[index]
        cached = len(found.rows) - len(found.missing)
        if not found.missing:
            return Done(found.whole(None, index), 0.0, cached)
        if info.front_end_digest not in opened.inputs:
            return Silent()
        task: Scoring | Writing
        if isinstance(request, Generate):
            task = request.writing
        else:
            task = Scoring(request.wanted, request.references is not None)
        queue = Queue(index, task, None if self._mix else opened.number)
        inputs = opened.inputs[info.front_end_digest]
        works = found.works(request, inputs, opened.known.made, self._max_utterances)
        self._pieces += len(works)
        pieces = await gather(
            [
                self._batcher.submit(
                    queue,
                    work,
                    size=work.size,
                    length=int(work.lengths.max()),
                    job=opened.call.job,
                    wait_s=opened.wait_s,
                    expires_s=opened.expires_s,
                    priority=request.priority,
                )
                for work in works
            ]
        )
        for piece in pieces:
            if isinstance(piece, Silent):
                return piece
        whole = [piece for piece in pieces if isinstance(piece, Done)]
        fresh = join_rows([piece.output for piece in whole])
        self._memory.keep(info, opened.known, found.missing, fresh)
        seconds = sum(piece.seconds for piece in whole)
        loads = sum(piece.loads for piece in whole)
        full = next((piece.full for piece in whole if piece.full), None)
        return Done(found.whole(fresh, index), seconds, cached, loads, full)

    def _choose(self, ready: Sequence[Ready[Queue]]) -> Queue:
        """Where teachers take turns: the queue of the teacher whose turn it is."""
        if not self._residents.in_turns:
            return min(ready, key=lambda each: each.rank).key
        assert self._sweep is not None
        waiting = [
            Waiting(each.key.teacher, each.rank.arrived, -each.rank.below, each.oldest_s)
            for each in ready
        ]
        visit = self._sweep.next(waiting, self._pieces)
        assert visit is not None, "there is at least one ready queue"
        mine = [each for each in ready if each.key.teacher == visit.teacher]
        return min(mine, key=lambda each: each.rank).key

    async def _pass(self, queue: Queue, works: Sequence[Work]) -> Sequence[Done | Silent]:
        """One forward pass of one teacher over the work of several requests."""
        if queue.teacher in self._quarantined:
            return [Silent(self._quarantined[queue.teacher])] * len(works)
        try:
            run = await self._threads.passes.call(self._run, queue, works)
        except LoadFailed as error:
            if queue.teacher not in self._here:
                return [Silent()] * len(works)
            self._costs.errors["LoadFailed"] += 1
            if error.final:
                self._quarantine(queue.teacher, error.reason)
            return [Silent(error.reason)] * len(works)
        except PassTooLarge as error:
            return [Silent(str(error))] * len(works)
        fault = fault_of(run.output)
        if fault is not None:
            self._quarantine(queue.teacher, fault)
            return [Silent(fault)] * len(works)
        self._busy_s[queue.teacher] += run.seconds
        size = sum(work.size for work in works)
        ends = np.cumsum([work.size for work in works])
        return [
            Done(
                take_rows(run.output, int(end) - work.size, int(end)),
                seconds=run.seconds * work.size / size,
                loads=run.loads * work.size / size,
                full=run.full,
            )
            for work, end in zip(works, ends, strict=True)
        ]

    def _quarantine(self, index: int, reason: str) -> None:
        name = self._infos[index].name
        logger.warning("teacher %s is quarantined on this host: %s", name, reason)
        self._quarantined[index] = reason
        self._costs.errors["quarantined"] += 1
        self._memory.forget_teacher(self._infos[index].answers_digest)
