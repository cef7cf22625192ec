"""Teacher signals out of a target store: no teacher needs to run while the student learns."""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import cast

from kd_ray.config.data import TextColumn
from kd_ray.config.strategies import Fusing
from kd_ray.core.contracts import (
    Answer,
    Busy,
    PendingSignal,
    Request,
    Score,
    Signal,
    TeachersInfo,
)
from kd_ray.core.costs import SourceCosts
from kd_ray.core.strategies import fuse
from kd_ray.speech.manifest import Utterance
from kd_ray.teachers.store.files import StoreError
from kd_ray.teachers.store.index import some
from kd_ray.teachers.store.rows import prefix_digest
from kd_ray.teachers.store.target_store import TargetStore


class StoreSource:
    """Answers `Score` requests from a target store; implements `core.contracts.TeacherSource`.

    Reading and fusing happen on a thread of their own, request after request. The audio of a
    request is not looked at: an utterance's id says what the teachers heard.

    Args:
        store: the open store.
        utterances: what will be asked about; all must be stored, unchanged.
        column: the text that the student learns to write.
        split: of the store; None: the one that holds all utterances.
        teachers: digests in the order that strategies count them; None: all of the store.
        max_in_flight_mib: of signals that were asked for and not collected yet; `Busy` above it.

    Raises:
        StoreError: rows or teachers are missing, or audio references or texts have changed since;
            says which, and how to make what is missing.
    """

    def __init__(
        self,
        store: TargetStore,
        utterances: Sequence[Utterance],
        *,
        column: TextColumn,
        split: str | None = None,
        teachers: Sequence[str] | None = None,
        max_in_flight_mib: float = 256.0,
    ) -> None:
        ids = [utterance.id for utterance in utterances]
        self.store = store
        self.split = store.split_for(ids) if split is None else split
        self.digests = tuple(store.index.digests if teachers is None else teachers)
        infos = [store.teacher(digest) for digest in self.digests]
        self._info = TeachersInfo(
            tuple(replace(info, index=index) for index, info in enumerate(infos)), source="store"
        )
        store.check_data(self.split, utterances, column)
        store.require(self.split, ids, self.digests)
        self._budget_bytes = int(max_in_flight_mib * 2**20)
        self._in_flight_bytes = 0
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="store-source")
        self._closed = False
        self._costs = SourceCosts()

    def describe(self) -> TeachersInfo:
        """The selected teachers, numbered in the order of the selection."""
        return self._info

    def ask(self, request: Request[Answer]) -> PendingSignal[Answer]:
        """Start reading; returns at once.

        Raises:
            Busy: over the byte budget.
            ValueError: the request is no `Score`, or means other audio or another prefix than what
                is stored.
        """
        if self._closed:
            raise RuntimeError("this source was closed")
        if not isinstance(request, Score):
            raise ValueError(
                f"a target store holds scores and answers Score, not {type(request).__name__}: its "
                "teachers are not here to write; take teachers.source.type local or pool"
            )
        self._check(request)
        num_bytes = self._estimate_bytes(request)
        with self._lock:
            if self._in_flight_bytes and self._in_flight_bytes + num_bytes > self._budget_bytes:
                raise Busy(
                    f"{self._in_flight_bytes / 2**20:.1f} MiB of signals are in flight; collect "
                    "one before asking again"
                )
            self._in_flight_bytes += num_bytes
        future = self._reader.submit(self._answer, request)
        return cast(PendingSignal[Answer], PendingStoreSignal(self, future, num_bytes))

    def costs(self) -> SourceCosts:
        """What was read; nothing is computed."""
        return self._costs

    def close(self) -> None:
        """Stop reading; signals that were not begun are given up."""
        self._closed = True
        self._reader.shutdown(wait=True, cancel_futures=True)

    def release(self, num_bytes: int) -> None:
        """A signal was collected or given up."""
        with self._lock:
            self._in_flight_bytes -= num_bytes

    def _check(self, request: Score) -> None:
        if not request.utterance_ids:
            raise ValueError("a request must name at least one utterance")
        if not request.view.is_clean:
            masked = "" if request.view.masks is None else " with masks"
            raise ValueError(
                "the store knows the view 'clean' only, asked for is "
                f"{request.view.name!r}{masked}; use a local or pool source for augmented audio, "
                "or set teachers.view to clean"
            )
        if "tokens" in request.wanted:
            request.decoder_prefix()
            check_fusing(self.store, request.fusion.fusing)

    def _estimate_bytes(self, request: Score) -> int:
        prefix = request.prefix if request.prefix is not None else request.references
        positions = 1 + (0 if prefix is None else int(prefix.lengths.max(initial=0)))
        each = request.fusion.position_bytes(self.store.index.vocabulary_size)
        return len(request.utterance_ids) * positions * each

    def _answer(self, request: Score) -> Signal:
        batch = self.store.batch(self.split, request.utterance_ids, self.digests)
        self._check_prefix(request, batch.prefix_digests)
        outputs = batch.outputs
        if "tokens" not in request.wanted:
            outputs = tuple(replace(output, log_probs=None) for output in outputs)
        if not request.wanted & {"tokens", "labels"}:
            outputs = tuple(replace(output, strings=()) for output in outputs)
        fusable = outputs
        if "labels" not in request.wanted:
            fusable = tuple(replace(output, strings=()) for output in outputs)
        fused = fuse(fusable, request.fusion, len(self.digests))
        sent = outputs if request.per_teacher else ()
        rows = len(request.utterance_ids) * len(self.digests)
        # Answers are made on one thread.
        self._costs += SourceCosts(1, len(request.utterance_ids), rows, rows)
        return fused.signal(request.utterance_ids, outputs=sent)

    def _check_prefix(self, request: Score, stored: Sequence[Sequence[str]]) -> None:
        """Refuse a prefix that is not the one the teachers' decoders read."""
        kind = "prefix" if request.prefix is not None else "references"
        given = request.prefix if request.prefix is not None else request.references
        if given is None:
            return
        digests = [prefix_digest(string) for string in given.strings()]
        for info, held in zip(self._info.teachers, stored, strict=True):
            differing = [
                name
                for name, mine, theirs in zip(request.utterance_ids, digests, held, strict=True)
                if mine != theirs
            ]
            if differing:
                raise ValueError(
                    f"the request's {kind} of {some(differing)} is not the prefix that teacher "
                    f"{info.name} scored when {self.store.folder} was made. A store answers for "
                    "its own prefixes only: use a local or pool source, or make a new store."
                )


def check_fusing(store: TargetStore, fusing: Fusing) -> None:
    """Refuse a geometric mean of stored top k.

    A geometric mean is ruled by each teacher's smallest probabilities, which such a store lacks.

    Raises:
        StoreError: with the ways out.
    """
    if fusing == "geometric" and store.index.top_k is not None:
        raise StoreError(
            f"{store.folder} keeps the {store.index.top_k} likeliest tokens of each position, and "
            "divergence reverse_kl needs the teachers' probability of every token; make a store "
            "without top_k, ask the teachers themselves (source local or pool), or take "
            "divergence forward_kl or cross_entropy"
        )


class PendingStoreSignal:
    """A signal that is being read."""

    def __init__(self, source: StoreSource, future: "Future[Signal]", num_bytes: int) -> None:
        self._source = source
        self._future = future
        self._num_bytes = num_bytes

    def result(self, timeout_s: float) -> Signal:
        """Wait for the signal.

        Raises:
            TimeoutError: it did not come in time; it may still be asked for.
            RuntimeError: it had been given up.
            StoreError, ValueError: what reading or fusing ran into.
        """
        try:
            return self._future.result(timeout_s)
        except TimeoutError as error:
            raise TimeoutError(
                f"no signal from {self._source.store.folder} within {timeout_s:.1f} s"
            ) from error
        except CancelledError as error:
            raise RuntimeError(
                "this signal was given up (cancelled, or its source closed)"
            ) from error
        finally:
            if self._future.done():
                self._release()

    def cancel(self) -> None:
        """Give the answer up."""
        self._future.cancel()
        self._release()

    def _release(self) -> None:
        self._source.release(self._num_bytes)
        self._num_bytes = 0
