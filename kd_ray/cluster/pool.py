"""The teacher pool: hosts as Ray actors, and the client that students ask.

`TeacherPool` starts and owns the hosts; its address is plain data, from which any process of the
job makes a `PoolSource`.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, cast

import numpy as np
import ray

from kd_ray.cluster.hosts import (
    HostAddress,
    HostHandle,
    HostStarter,
    Loader,
    PoolAddress,
    PoolStartError,
    kill_hosts,
    load_from_folders,
)
from kd_ray.config.teachers import PoolSource as PoolSettings
from kd_ray.core.contracts import (
    Answer,
    Audio,
    Busy,
    Generate,
    Request,
    Score,
    TeachersInfo,
)
from kd_ray.teachers.answers import HostAnswer, Ledger, OnEvent, asked_alone, check_request
from kd_ray.teachers.batching import Expired
from kd_ray.teachers.policies import LeaveOut, Refuse, judge_admission, judge_host
from kd_ray.teachers.transcriber import TranscriberSpec

__all__ = ["PoolAddress", "PoolPending", "PoolSource", "PoolStartError", "TeacherPool"]

logger = logging.getLogger(__name__)

_MIB = 1 << 20
_TRANSFER_S = 15.0
"""Longest wait for the bytes of an answer that a host has given."""
_NO_AUDIO = Audio(np.zeros(0, dtype=np.int16), np.zeros(0, dtype=np.int64))
# What Ray reports when the process or node of a host, or an answer kept there, is gone.
_HOST_GONE = (
    ray.exceptions.RayActorError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
)


class TeacherPool:
    """Owns the host actors of a job: `start` makes them, `close` ends them.

    They are not detached: they end with the job that started them, however it ends.
    """

    def __init__(self, address: PoolAddress, handles: Sequence[HostHandle]) -> None:
        self.address = address
        self._handles = list(handles)

    @classmethod
    def start(
        cls,
        folders: Sequence[Path],
        settings: PoolSettings,
        *,
        load: Loader = load_from_folders,
        recognizer: TranscriberSpec | None = None,
    ) -> Self:
        """Start the hosts, deal the teachers to them, and wait until every teacher is loaded.

        Args:
            folders: checkpoint folders of the teachers, in the order of the list.
            settings: section `teachers.source` of the configuration.
            load: makes teachers of folders, in the host's process.
            recognizer: transcribes for text teachers; every host loads it.

        Raises:
            PoolStartError: naming the host, its teachers and the reason; nothing stays behind.
        """
        starter = HostStarter(folders, settings, load, recognizer)
        handles: list[HostHandle] = []
        try:
            for name, indices in starter.placement.items():
                handles.append(starter.start_host(name, indices))
            arrivals = starter.await_arrivals(handles)
        except BaseException:
            kill_hosts(handles)
            raise
        return cls(starter.address(arrivals), handles)

    def close(self) -> None:
        """End the hosts; a second call does nothing."""
        kill_hosts(self._handles)
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class PoolSource:
    """A `TeacherSource` over a running pool; every student worker makes its own.

    A host that died or missed its deadline is left out from then on, by this client.

    Args:
        address: from `TeacherPool.start`.
        on_event: where faults and decisions are written down.
    """

    def __init__(self, address: PoolAddress, *, on_event: OnEvent | None = None) -> None:
        self.address = address
        self.settings = address.settings
        self._ledger = Ledger(address.info.teachers, address.settings.quorum, on_event)
        self._handles: dict[HostAddress, HostHandle] = {}
        self._left_out: set[HostAddress] = set()
        self._max_bytes = int(address.settings.max_bytes_in_flight_mib * _MIB)
        self._bytes_in_flight = 0
        self._lock = threading.Lock()
        for host in address.hosts:
            try:
                self._handles[host] = ray.get_actor(host.name, namespace=address.namespace)
            except ValueError as error:
                self._leave_out(host, f"not found ({error})")

    @property
    def counts(self) -> dict[str, int]:
        """Requests, signals and losses so far."""
        return dict(self._ledger.counts)

    @property
    def bytes_in_flight(self) -> int:
        """Of requests that were neither collected nor cancelled."""
        return self._bytes_in_flight

    def ask(self, request: Request[Answer]) -> "PoolPending[Answer]":
        """Send the request to every host that has a teacher for it; returns at once.

        Raises:
            Busy: the byte budget is used up; collect a pending signal first.
        """
        check_request(request, len(self.address.info.teachers))
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
            self._ledger.counts["requests"] += 1
        try:
            return self._send(request, size)
        except BaseException:
            self._release(size)
            raise

    def describe(self) -> TeachersInfo:
        """Who answers."""
        return self.address.info

    def close(self) -> None:
        """Let go of the hosts; the pool itself goes on."""
        self._handles.clear()

    def _send(self, request: Request[Answer], size: int) -> "PoolPending[Answer]":
        deadline_s = min(request.deadline_s, self.settings.deadline_s)
        question = dataclasses.replace(
            cast(Score | Generate, request), audio=_NO_AUDIO, deadline_s=deadline_s
        )
        only = asked_alone(request)
        references: dict[HostAddress, ray.ObjectRef[HostAnswer]] = {}
        if self._handles:
            audio = ray.put(request.audio)
            for host, handle in list(self._handles.items()):
                if only is not None and only not in host.teachers:
                    continue
                try:
                    references[host] = handle.answer.remote(audio, question)
                except _HOST_GONE as error:
                    self._leave_out(host, _reason(error))
        asked = cast(Request[Answer], question)
        return PoolPending(self, asked, references, deadline_s, size)

    def _leave_out(self, host: HostAddress, reason: str) -> None:
        """Never ask a host again; told once, however many requests find out."""
        with self._lock:
            known = host in self._left_out
            self._left_out.add(host)
            self._handles.pop(host, None)
        if not known:
            self._ledger.host_left_out(host.name, host.teachers, reason)

    def _release(self, size: int) -> None:
        with self._lock:
            self._bytes_in_flight -= size


class PoolPending(Generic[Answer]):
    """A signal, or another answer, that the hosts are making."""

    def __init__(
        self,
        source: PoolSource,
        question: Request[Answer],
        references: "dict[HostAddress, ray.ObjectRef[HostAnswer]]",
        deadline_s: float,
        size: int,
    ) -> None:
        self._source = source
        self._question = question
        self._references = references
        self._deadline_s = deadline_s
        self._asked_s = time.monotonic()
        self._size = size
        self._answers: dict[HostAddress, HostAnswer] = {}
        self._signal: Answer | None = None
        self._open = True

    def result(self, timeout_s: float) -> Answer:
        """Wait until every host answered, died or missed its deadline; fuse what came.

        Raises:
            TeachersGone: fewer teachers than the quorum answered.
            TimeoutError: `timeout_s` is over but hosts still have time; ask again.
            Exception: what a teacher raised.
        """
        if self._signal is None:
            if not self._open:
                raise RuntimeError("this request was cancelled or has failed before")
            self._await_hosts(time.monotonic() + timeout_s, timeout_s)
            try:
                self._signal = self._conclude()
            finally:
                self._finish()
        return self._signal

    def cancel(self) -> None:
        """Give the answer up; hosts drop the work unless it runs already."""
        if self._open:
            self._source._ledger.counts["cancelled"] += 1
            self._finish()

    def _await_hosts(self, limit_s: float, timeout_s: float) -> None:
        """Wait until no host is outstanding, or the rest cannot make a quorum any more."""
        deadline_s = self._asked_s + self._deadline_s
        while self._references:
            until_s = min(limit_s, deadline_s)
            # One at a time: a host that dies is noticed while the others still work.
            ray.wait(
                list(self._references.values()),
                num_returns=1,
                timeout=max(0.0, until_s - time.monotonic()),
            )
            try:
                self._collect_ready()
                self._judge_silent_hosts()
                only = asked_alone(self._question)
                self._source._ledger.require(self._reachable(), only=only)
            except BaseException:
                self._finish()
                raise
            if self._references and time.monotonic() >= limit_s:
                waiting = ", ".join(host.name for host in self._references)
                raise TimeoutError(
                    f"no answer from {waiting} within {timeout_s:g} s; they have "
                    f"{self._deadline_s:g} s (teachers.source.deadline_s) from being asked"
                )

    def _reachable(self) -> list[int]:
        """Teachers that have answered or still may."""
        answered = [index for answer in self._answers.values() for index in answer.answered]
        return answered + [index for host in self._references for index in host.teachers]

    def _conclude(self) -> Answer:
        """Fuse in host order, so that the sum is the same whoever was first."""
        hosts = [host for host in self._source.address.hosts if host in self._answers]
        answers = [self._answers[host] for host in hosts]
        return self._source._ledger.conclude(self._question, answers)

    def _collect_ready(self) -> None:
        """Take the answers that are there; leave out hosts whose answer is an error of the host."""
        references = list(self._references.values())
        # Answered is enough: an answer that came in time may still lie on the host's node.
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
        for host, reference in list(self._references.items()):
            if reference not in ready:
                continue
            del self._references[host]
            try:
                answer: HostAnswer = ray.get(reference, timeout=_TRANSFER_S)
            except _HOST_GONE as error:
                self._source._leave_out(host, _reason(error))
            except Expired as error:
                self._source._leave_out(host, str(error))
            except ray.exceptions.GetTimeoutError:
                reason = f"its answer could not be fetched within {_TRANSFER_S:g} s"
                self._source._leave_out(host, reason)
            else:
                self._answers[host] = answer
                self._source._ledger.receive(answer)

    def _judge_silent_hosts(self) -> None:
        waited_s = time.monotonic() - self._asked_s
        for host, reference in list(self._references.items()):
            decision = judge_host(None, waited_s, self._deadline_s)
            if isinstance(decision, LeaveOut):
                del self._references[host]
                ray.cancel(reference)
                self._source._leave_out(host, decision.reason)

    def _finish(self) -> None:
        """Free what the request holds."""
        for reference in self._references.values():
            ray.cancel(reference)
        self._references.clear()
        self._answers.clear()
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
        copies = len(address.hosts)
        if request.per_teacher:
            copies += len(address.info.teachers)
        answered = copies * positions * vocabulary * np.dtype(np.float32).itemsize
    return int(sent + answered)


def _reason(error: BaseException) -> str:
    """What Ray says, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
