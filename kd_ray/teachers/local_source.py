"""Teachers in the student's own process: the pool's host on a thread instead of an actor."""

import asyncio
import concurrent.futures
import dataclasses
import math
import threading
from collections.abc import Sequence
from typing import Generic, cast

from kd_ray.core.contracts import (
    Answer,
    Answer_co,
    Generate,
    PendingSignal,
    Request,
    Score,
    TeachersInfo,
)
from kd_ray.core.costs import SourceCosts
from kd_ray.teachers.answers import Ledger, OnEvent, check_request
from kd_ray.teachers.host import ScoringTeacher, TeacherHost
from kd_ray.teachers.transcriber import Transcriber


class LocalSource:
    """A `TeacherSource` whose teachers work on a worker thread of this process.

    Requests are never mixed, so answers repeat bit for bit. There is no deadline: nobody else can
    take a local teacher's place.

    Args:
        teachers: in the order of the list.
        max_batch_utterances: of one forward pass; larger requests are split.
        quorum: smallest share of teachers that must answer (one may be quarantined).
        transcriber: writes what text teachers read, where a request carries no texts.
        on_event: where faults and decisions are written down.
    """

    def __init__(
        self,
        teachers: Sequence[ScoringTeacher],
        *,
        max_batch_utterances: int = 32,
        quorum: float = 0.5,
        transcriber: Transcriber | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._host = TeacherHost(
            teachers,
            batching="per_request",
            max_batch_utterances=max_batch_utterances,
            transcriber=transcriber,
        )
        self._info = TeachersInfo(
            teachers=self._host.infos, source="local", recognizer=self._host.recognizer
        )
        self._ledger = Ledger(self._info.teachers, quorum, on_event)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="local-teachers", daemon=True
        )
        self._thread.start()

    @property
    def counts(self) -> dict[str, int]:
        """Requests, signals and losses so far."""
        return dict(self._ledger.counts)

    def costs(self) -> SourceCosts:
        """What the answers took; no bytes travel."""
        return self._ledger.costs

    def ask(self, request: Request[Answer]) -> PendingSignal[Answer]:
        """Hand the request to the worker thread; returns at once."""
        check_request(request, len(self._info.teachers))
        if not self._thread.is_alive():
            raise RuntimeError("this local source is closed")
        self._ledger.counts["requests"] += 1
        return _LocalPending(asyncio.run_coroutine_threadsafe(self._signal(request), self._loop))

    def describe(self) -> TeachersInfo:
        """Who answers."""
        return self._info

    def close(self) -> None:
        """Give up what is in flight and stop the thread; a second call does nothing."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _signal(self, request: Request[Answer]) -> Answer:
        question = cast(Score | Generate, request)
        answer = await self._host.answer(dataclasses.replace(question, deadline_s=math.inf))
        self._ledger.receive(answer)
        return self._ledger.conclude(request, [answer])

    async def _stop(self) -> None:
        open_requests = asyncio.all_tasks() - {asyncio.current_task()}
        for task in open_requests:
            task.cancel()
        await asyncio.gather(*open_requests, return_exceptions=True)
        await self._host.close()


class _LocalPending(Generic[Answer_co]):
    """An answer that the worker thread is making."""

    def __init__(self, future: "concurrent.futures.Future[Answer_co]") -> None:
        self._future = future

    def result(self, timeout_s: float) -> Answer_co:
        """Wait for it; `TimeoutError` when it takes longer."""
        try:
            return self._future.result(timeout_s)
        except TimeoutError:
            if self._future.done():
                raise
            raise TimeoutError(
                f"local teachers did not answer within {timeout_s:g} s; they are slower than that "
                "on this machine, or something else takes its CPUs"
            ) from None

    def cancel(self) -> None:
        """Give the answer up; a forward pass that runs already is finished."""
        self._future.cancel()
