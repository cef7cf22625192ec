"""The client that students ask: requests go out on a thread of its own, answers are waited for."""

import asyncio
import concurrent.futures
import threading
from collections import Counter
from dataclasses import replace
from typing import Any, Generic

import numpy as np

from kd_ray.cluster.pool.address import PoolAddress
from kd_ray.cluster.pool.exchange import Exchange
from kd_ray.cluster.pool.roster import Roster
from kd_ray.core.contracts import Answer, Busy, Generate, Request, Score, TeachersInfo
from kd_ray.core.costs import SourceCosts
from kd_ray.teachers.answers import Ledger, OnEvent, check_request
from kd_ray.teachers.policies import Refuse, judge_admission

_MIB = 1 << 20


class PoolSource:
    """A `TeacherSource` over a running pool; every student worker makes its own.

    A host that died or missed its deadline is left out until it answers again; its teachers are
    asked on other hosts that have them, and missing where there are none.

    Args:
        address: of the pool.
        on_event: where faults and decisions are written down.
        job: who asks, where several jobs share the pool.
        data: digest of the data that utterance ids are of, for hosts that have a target store of
            it; empty: of none.
    """

    def __init__(
        self,
        address: PoolAddress,
        *,
        on_event: OnEvent | None = None,
        job: str = "",
        data: str = "",
    ) -> None:
        self.address = address
        self.settings = address.settings
        self.edges: Counter[str] = Counter()
        """Bytes that went from `hosts`, from `nodes` and to the `student`."""
        self._job, self._data = job, data
        self._ledger = Ledger(address.info.teachers, address.settings.quorum, on_event)
        self._max_bytes = int(address.settings.max_bytes_in_flight_mib * _MIB)
        self._bytes_in_flight = self._bytes_sent = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="pool-client", daemon=True
        )
        self._thread.start()
        self._roster = Roster(address, self._ledger)
        try:
            self._run(self._roster.open()).result()
        except BaseException:
            self.close()
            raise

    @property
    def counts(self) -> dict[str, int]:
        """Requests, signals and losses so far."""
        return dict(self._ledger.counts)

    def costs(self) -> SourceCosts:
        """What the answers took, with the bytes of every edge."""
        return replace(
            self._ledger.costs,
            bytes_sent=self._bytes_sent,
            bytes_hosts=self.edges["hosts"],
            bytes_nodes=self.edges["nodes"],
            bytes_student=self.edges["student"],
        )

    @property
    def bytes_in_flight(self) -> int:
        """Of requests that were neither collected nor cancelled."""
        return self._bytes_in_flight

    def ask(self, request: Request[Answer]) -> "PoolPending[Answer]":
        """Send the request to hosts that have the teachers for it; returns at once.

        Raises:
            Busy: the byte budget is used up; collect a pending signal first.
        """
        check_request(request, len(self.address.info.teachers))
        if not self._thread.is_alive():
            raise RuntimeError("this pool source is closed")
        size = request_bytes(request, self.address)
        with self._lock:
            decision = judge_admission(self._bytes_in_flight, size, self._max_bytes)
            if isinstance(decision, Refuse):
                self._ledger.counts["busy"] += 1
                raise Busy(
                    f"{decision.reason} (teachers.source.max_bytes_in_flight_mib); "
                    "collect a pending signal first"
                )
            self._bytes_in_flight += size
            self._bytes_sent += request.audio.samples.nbytes
            self._ledger.counts["requests"] += 1
        exchange = Exchange(
            request,
            self._roster,
            self._ledger,
            deadline_s=min(request.deadline_s, self.settings.deadline_s),
            job=self._job,
            weight=self.settings.weight,
            data=self._data,
        )
        return PoolPending(self, exchange, self._run(self._answer(exchange)), size)

    def describe(self) -> TeachersInfo:
        """Who answers, as the pool is now."""
        return self._roster.address.info

    def close(self) -> None:
        """Give up open requests and let go of the hosts; the pool itself goes on."""
        if self._loop.is_closed():
            return
        self._run(self._stop()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _answer(self, exchange: Exchange[Answer]) -> Answer:
        try:
            return await exchange.run()
        finally:
            self.edges.update(exchange.edges)

    async def _stop(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._roster.close()

    def _run(self, work: Any) -> "concurrent.futures.Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _release(self, size: int) -> None:
        with self._lock:
            self._bytes_in_flight -= size


class PoolPending(Generic[Answer]):
    """A signal, or another answer, that the hosts are making."""

    def __init__(
        self,
        source: PoolSource,
        exchange: Exchange[Answer],
        future: "concurrent.futures.Future[Answer]",
        size: int,
    ) -> None:
        self._source = source
        self._exchange = exchange
        self._future = future
        self._size = size
        self._open = True

    @property
    def done(self) -> bool:
        """Whether `result` returns, or raises, without waiting."""
        return self._future.done()

    def result(self, timeout_s: float) -> Answer:
        """Wait until every host answered, died or missed its deadline, and the answer is here.

        Raises:
            TeachersGone: fewer teachers than the quorum answered.
            TimeoutError: `timeout_s` is over but hosts still have time; ask again.
            Exception: what a teacher raised.
        """
        try:
            answer = self._future.result(timeout_s)
        except concurrent.futures.CancelledError:
            self._finish()
            raise RuntimeError("this request was cancelled before") from None
        except TimeoutError:
            if self._future.done():
                self._finish()
                # Its own error, or it came at this very moment.
                return self._future.result()
            waiting = ", ".join(self._exchange.waiting_for) or "the pool"
            deadline_s = self._source.settings.deadline_s
            raise TimeoutError(
                f"no answer from {waiting} within {timeout_s:g} s; hosts have {deadline_s:g} s "
                "(teachers.source.deadline_s) from being asked"
            ) from None
        except BaseException:
            self._finish()
            raise
        self._finish()
        return answer

    def cancel(self) -> None:
        """Give the answer up; hosts drop the work unless it runs already."""
        if self._open:
            self._source._ledger.counts["cancelled"] += 1
            self._future.cancel()
            self._finish()

    def _finish(self) -> None:
        """Its bytes are free again."""
        if self._open:
            self._open = False
            self._source._release(self._size)


def request_bytes(request: Request[Any], address: PoolAddress) -> int:
    """Bytes that a request keeps in the object store: what is sent, and every host's answer.

    The strings that `Generate` asks for are a few hundred bytes, and not counted.
    """
    assert isinstance(request, Score | Generate), "requests are Score or Generate"
    sent = request.audio.samples.nbytes + request.audio.lengths.nbytes
    references = request.references if isinstance(request, Score) else None
    for labels in (request.prefix, references):
        sent += 0 if labels is None else labels.ids.nbytes + labels.lengths.nbytes
    answered = 0
    if isinstance(request, Score) and "tokens" in request.wanted:
        prefix = request.decoder_prefix()
        positions = prefix.lengths.shape[0] * (int(prefix.lengths.max(initial=0)) + 1)
        vocabulary = max(teacher.vocabulary_size for teacher in address.info.teachers)
        dense = vocabulary * np.dtype(np.float32).itemsize
        # What several hosts keep until it is merged is dense, whatever is sent in the end.
        hosts = len(address.hosts)
        each = request.fusion.position_bytes(vocabulary) if hosts == 1 else hosts * dense
        if request.per_teacher:
            each += len(address.info.teachers) * dense
        answered = positions * each
    return int(sent + answered)
