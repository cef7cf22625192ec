"""A host: several resident teachers that answer requests with one fused partial.

Plain Python and torch; `kd_ray.cluster.pool` makes an actor of it, `local_source` a thread.
Shapes: B utterances, U target positions, V vocabulary.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from torch import Tensor

from kd_ray.core import strategies
from kd_ray.core.contracts import (
    Generate,
    Labels,
    Score,
    TeacherInfo,
    TeacherOutput,
    Wanted,
    Writing,
    Written,
)
from kd_ray.core.written import best_of
from kd_ray.teachers.answers import Call, HostAnswer, check_request, merge_partials
from kd_ray.teachers.batching import BatchStatistics, Clock, LoopClock, MicroBatcher
from kd_ray.teachers.readers import Inputs, Reader
from kd_ray.teachers.rows import (
    Output,
    Work,
    fault_of,
    join_rows,
    pad_together,
    split_request,
    take_rows,
)
from kd_ray.teachers.transcriber import Transcriber

logger = logging.getLogger(__name__)

R = TypeVar("R")


class ScoringTeacher(Protocol):
    """What a host takes for granted about a teacher (`kd_ray.teachers.teacher.Teacher`)."""

    @property
    def info(self) -> TeacherInfo:
        """Who it is."""
        ...

    @property
    def reader(self) -> Reader:
        """Makes its inputs of a request."""
        ...

    def score(
        self,
        inputs: Tensor,
        lengths: Tensor,
        prefix: Labels,
        references: Labels | None,
        wanted: frozenset[Wanted],
    ) -> TeacherOutput:
        """Score a batch of padded inputs, as its reader makes them, with `lengths` (B,)."""
        ...

    def generate(
        self, inputs: Tensor, lengths: Tensor, prefix: Labels, writing: Writing
    ) -> Written:
        """Write a string for each row, beginning with its row of `prefix`."""
        ...


class _Scoring(NamedTuple):
    """What a teacher is to say about given prefixes."""

    wanted: frozenset[Wanted]
    with_references: bool


class _Queue(NamedTuple):
    """Work of one queue may share a forward pass."""

    teacher: int
    task: _Scoring | Writing
    request: int | None
    """Set where requests are never mixed."""


@dataclass(frozen=True, eq=False)
class _Done:
    """A teacher's output for one piece of work, and its share of the pass's seconds."""

    output: Output
    seconds: float


EVERYBODY = Call()
"""All teachers of the host, by their own numbers."""


class NotHere(LookupError):
    """A request named teachers that do not live on the host."""


@dataclass(frozen=True)
class HostStatus:
    """How a host is doing."""

    teachers: tuple[int, ...]
    quarantined: Mapping[int, str]
    open_requests: int
    queued_utterances: int
    batches: BatchStatistics


class TeacherHost:
    """Answers `Score` and `Generate` requests with the partial of its own teachers.

    Inputs are made once per request and distinct front end; utterances of several requests
    share a teacher's forward pass; passes run one at a time on a thread of their own, so that the
    event loop stays free. A teacher that answers with a number that is not finite is quarantined.

    Args:
        teachers: resident here.
        indices: their numbers in the pool; default 0, 1, ...
        num_teachers: of the whole pool; default `len(teachers)`.
        batching: `per_request` never mixes requests, so that answers repeat bit for bit.
        max_batch_utterances: of one forward pass; larger requests are split.
        batch_wait_ms: longest wait for companions; none while the host is idle.
        transcriber: writes what text teachers read, where a request carries no texts.
        clock: of the micro-batcher.
    """

    def __init__(
        self,
        teachers: Sequence[ScoringTeacher],
        *,
        indices: Sequence[int] | None = None,
        num_teachers: int | None = None,
        batching: Literal["per_request", "timed"] = "timed",
        max_batch_utterances: int = 32,
        batch_wait_ms: float = 2.0,
        transcriber: Transcriber | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not teachers:
            raise ValueError("a host needs at least one teacher")
        numbers = range(len(teachers)) if indices is None else indices
        self._teachers = dict(zip(numbers, teachers, strict=True))
        self._num_teachers = len(teachers) if num_teachers is None else num_teachers
        self._mix = batching == "timed"
        self._max_utterances = max_batch_utterances
        self._wait_s = batch_wait_ms / 1000 if self._mix else 0.0
        self._clock: Clock = clock or LoopClock()
        self._readers = {teacher.info.front_end_digest: teacher.reader for teacher in teachers}
        self._transcriber = transcriber
        self._quarantined: dict[int, str] = {}
        self._batcher: MicroBatcher[_Queue, Work, _Done | None] = MicroBatcher(
            self._pass, max_size=max_batch_utterances, clock=self._clock
        )
        # Passes have a thread to themselves; features and fusing of other requests go beside.
        self._passes = ThreadPoolExecutor(1, thread_name_prefix="teacher-pass")
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="teacher-helper")
        self._open_requests = 0
        self._requests = 0

    @property
    def infos(self) -> tuple[TeacherInfo, ...]:
        """The teachers that live here, numbered as in the pool."""
        return tuple(
            dataclasses.replace(teacher.info, index=index)
            for index, teacher in self._teachers.items()
        )

    @property
    def recognizer(self) -> TeacherInfo | None:
        """Who transcribes for text teachers, if anybody does."""
        return None if self._transcriber is None else self._transcriber.info

    @property
    def status(self) -> HostStatus:
        """Queue and counters."""
        return HostStatus(
            teachers=tuple(self._teachers),
            quarantined=dict(self._quarantined),
            open_requests=self._open_requests,
            queued_utterances=self._batcher.depth,
            batches=self._batcher.statistics,
        )

    async def answer(self, request: Score | Generate, call: Call = EVERYBODY) -> HostAnswer:
        """Answer with the partial over those teachers of this host that are in order.

        Args:
            request: about what.
            call: which teachers, and for whom.

        Raises:
            Expired: the request's deadline passed before its turn came.
            Exception: whatever a teacher raised; all requests of its pass get the same error.
        """
        check_request(request, call.num_teachers or self._num_teachers)
        expires_s = self._clock.now() + request.deadline_s
        self._requests += 1
        number = self._requests
        self._open_requests += 1
        try:
            numbers = self._numbers(request, call)
            asked = [index for index in numbers if index not in self._quarantined]
            texts, transcription_s = await self._texts(request, asked)
            inputs = await self._inputs(request, texts, asked)
            # The first request at an idle host waits for nobody, with any of its teachers.
            wait_s = 0.0 if self._batcher.idle else self._wait_s
            done = await _gather(
                [
                    self._ask_teacher(index, request, inputs, number, wait_s, expires_s)
                    for index in asked
                ]
            )
            conclude = self._conclude
            return await _run_in(
                self._helper, conclude, request, call, numbers, done, transcription_s
            )
        finally:
            self._open_requests -= 1

    async def merge(self, partials: Sequence[strategies.Partial]) -> strategies.Partial:
        """Join what several hosts made of one request."""
        return await _run_in(self._helper, merge_partials, partials)

    async def finish(self, partials: Sequence[strategies.Partial]) -> strategies.FusedTargets:
        """The target of what several hosts made of one request."""
        return await _run_in(self._helper, _finish, partials)

    def _numbers(self, request: Score | Generate, call: Call) -> dict[int, int]:
        """The teachers to ask, and what the asking job calls them."""
        asked = tuple(self._teachers) if call.teachers is None else call.teachers
        numbers = dict(zip(asked, call.numbers or asked, strict=True))
        absent = [index for index in asked if index not in self._teachers]
        if absent:
            raise NotHere(f"teachers {absent} do not live on this host, but {list(self._teachers)}")
        if isinstance(request, Generate) and request.teacher is not None:
            return {index: called for index, called in numbers.items() if called == request.teacher}
        return numbers

    async def close(self) -> None:
        """Give up open requests and stop the threads."""
        await self._batcher.close()
        self._passes.shutdown(wait=True, cancel_futures=True)
        self._helper.shutdown(wait=True, cancel_futures=True)

    async def _texts(
        self, request: Score | Generate, asked: Sequence[int]
    ) -> tuple[tuple[str, ...] | None, float]:
        """What text teachers read, and the seconds that it took to hear it."""
        reading = any(self._teachers[index].reader.reads == "text" for index in asked)
        if request.texts is not None or self._transcriber is None or not reading:
            return request.texts, 0.0
        return await _run_in(self._passes, self._transcribe, self._transcriber, request)

    def _transcribe(
        self, transcriber: Transcriber, request: Score | Generate
    ) -> tuple[tuple[str, ...], float]:
        started = time.perf_counter()
        waveforms = request.audio.waveforms() if len(request.audio.lengths) else []
        texts = transcriber(request.utterance_ids, waveforms, request.view, self._max_utterances)
        return texts, time.perf_counter() - started

    async def _inputs(
        self, request: Score | Generate, texts: tuple[str, ...] | None, asked: Sequence[int]
    ) -> dict[str, Inputs]:
        """What teachers read, by digest, each made once."""
        waveforms = request.audio.waveforms() if len(request.audio.lengths) else []
        digests = {self._teachers[index].info.front_end_digest for index in asked}
        return {
            digest: await _run_in(self._helper, self._readers[digest], waveforms, texts)
            for digest in sorted(digests)
        }

    async def _ask_teacher(
        self,
        index: int,
        request: Score | Generate,
        inputs: Mapping[str, Inputs],
        number: int,
        wait_s: float,
        expires_s: float,
    ) -> _Done | None:
        """One teacher's output for the whole request; None if it had to be quarantined."""
        task: _Scoring | Writing
        if isinstance(request, Generate):
            task = request.writing
        else:
            task = _Scoring(request.wanted, request.references is not None)
        queue = _Queue(index, task, None if self._mix else number)
        pieces = await _gather(
            [
                self._batcher.submit(
                    queue,
                    work,
                    size=work.size,
                    wait_s=wait_s,
                    expires_s=expires_s,
                    priority=request.priority,
                )
                for work in split_request(
                    request,
                    inputs[self._teachers[index].info.front_end_digest],
                    self._max_utterances,
                )
            ]
        )
        whole = [piece for piece in pieces if piece is not None]
        if len(whole) < len(pieces):
            return None
        return _Done(
            join_rows([piece.output for piece in whole]), sum(piece.seconds for piece in whole)
        )

    async def _pass(self, queue: _Queue, works: Sequence[Work]) -> Sequence[_Done | None]:
        """One forward pass of one teacher over the work of several requests."""
        if queue.teacher in self._quarantined:
            return [None] * len(works)
        output, seconds = await _run_in(self._passes, self._forward, queue, works)
        fault = fault_of(output)
        if fault is not None:
            name = self._teachers[queue.teacher].info.name
            logger.warning("teacher %s is quarantined on this host: %s", name, fault)
            self._quarantined[queue.teacher] = fault
            return [None] * len(works)
        size = sum(work.size for work in works)
        ends = np.cumsum([work.size for work in works])
        return [
            _Done(take_rows(output, int(end) - work.size, int(end)), seconds * work.size / size)
            for work, end in zip(works, ends, strict=True)
        ]

    def _forward(self, queue: _Queue, works: Sequence[Work]) -> tuple[Output, float]:
        """Run the teacher; its output is checked for size and numbered as in the pool."""
        started = time.perf_counter()
        teacher = self._teachers[queue.teacher]
        inputs, lengths = pad_together(works)
        prefix = Labels.of([string for work in works for string in work.prefix])
        output: Output
        if isinstance(queue.task, Writing):
            written = teacher.generate(inputs, lengths, prefix, queue.task)
            rows = len(written.teachers)
            output = dataclasses.replace(written, teachers=np.full(rows, queue.teacher))
        else:
            references = None
            if queue.task.with_references:
                strings = [string for work in works for string in work.references or ()]
                references = Labels.of(strings)
            scored = teacher.score(inputs, lengths, prefix, references, queue.task.wanted)
            rows = len(scored.positions)
            output = dataclasses.replace(scored, teacher=queue.teacher)
        if rows != len(lengths):
            raise RuntimeError(
                f"teacher {teacher.info.name} answered {rows} utterances of {len(lengths)}"
            )
        return output, time.perf_counter() - started

    def _conclude(
        self,
        request: Score | Generate,
        call: Call,
        numbers: Mapping[int, int],
        done: Sequence[_Done | None],
        transcription_s: float,
    ) -> HostAnswer:
        """Fuse the outputs of this host's teachers, numbered as the asking job does."""
        present = [one for one in done if one is not None]
        outputs = [_renumbered(one.output, numbers) for one in present]
        scored = tuple(each for each in outputs if isinstance(each, TeacherOutput))
        written = tuple(each for each in outputs if isinstance(each, Written))
        partial: strategies.Partial | Written | None = None
        fused: strategies.FusedTargets | None = None
        if isinstance(request, Score) and scored:
            total = self._num_teachers if call.num_teachers is None else call.num_teachers
            partial = local = strategies.local(scored, request.fusion, total)
            if call.finish and len(scored) == len(numbers):
                partial, fused = None, strategies.finish(local)
        elif written:
            partial = best_of(written)
        return HostAnswer(
            partial=partial,
            answered=(
                *(output.teacher for output in scored),
                *(int(output.teachers[0]) for output in written),
            ),
            quarantined={
                called: self._quarantined[index]
                for index, called in numbers.items()
                if index in self._quarantined
            },
            teacher_s=transcription_s + sum(one.seconds for one in present),
            outputs=tuple(outputs) if request.per_teacher else (),
            fused=fused,
        )


def _renumbered(output: Output, numbers: Mapping[int, int]) -> Output:
    if isinstance(output, TeacherOutput):
        return dataclasses.replace(output, teacher=numbers[output.teacher])
    called = np.array([numbers[index] for index in output.teachers.tolist()], dtype=np.int64)
    return dataclasses.replace(output, teachers=called)


def _finish(partials: Sequence[strategies.Partial]) -> strategies.FusedTargets:
    return strategies.finish(merge_partials(partials))


async def _run_in(
    executor: ThreadPoolExecutor, function: Callable[..., R], *arguments: object
) -> R:
    """Call a function on a thread of `executor`."""
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


async def _gather(work: Sequence[Coroutine[Any, Any, R]]) -> list[R]:
    """All results in order; waits for all of them before the first error is raised."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
