"""Global batches: which utterances each update learns from, on however many workers.

The order comes from SHA-256 of (seed, epoch, utterance id), not from a random generator: it is the
same on every platform and version, and does not depend on the order of the manifest's rows.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_ray.config.data import Batches


class BatchesError(ValueError):
    """Utterances that cannot be cut into batches under the given limits."""


@dataclass(frozen=True)
class _Epoch:
    number: int
    first_update: int
    batches: list[tuple[int, ...]]


class GlobalBatches:
    """Cuts utterances into batches, epoch after epoch: a function of (seed, update) alone.

    Each epoch is shuffled, cut into buckets of `bucket_batches * batch_size` utterances, sorted by
    duration within a bucket, cut into batches by both limits, and the batches are shuffled. Rows
    of a batch ascend in duration. Updates and epochs are counted from 0.

    Args:
        utterance_ids: in the order of the rows; batches hold their places.
        durations_s: of the same rows, in seconds.
        batches: the limits.
        seed: of the run.

    Raises:
        BatchesError: no utterance, duplicate ids, a duration that is not a positive number, or one
            that alone exceeds `max_batch_s`.
    """

    def __init__(
        self,
        utterance_ids: Sequence[str],
        durations_s: Sequence[float],
        batches: Batches,
        seed: int,
    ) -> None:
        _check(utterance_ids, durations_s, batches)
        self._ids = tuple(utterance_ids)
        self._durations_s = tuple(float(duration) for duration in durations_s)
        self._batches = batches
        self._seed = seed
        self._current: _Epoch | None = None
        self._counts: list[int] = []
        """Updates of the epochs cut so far; needed only where `max_batch_s` makes them vary."""

    def batches_in_epoch(self, epoch: int) -> list[tuple[int, ...]]:
        """The batches of an epoch in their order, as row indices."""
        limit = self._batches.bucket_batches * self._batches.batch_size
        order = sorted(range(len(self._ids)), key=lambda row: self._key(epoch, self._ids[row]))
        batches: list[tuple[int, ...]] = []
        for start in range(0, len(order), limit):
            # Python's sort is stable: equal durations keep the shuffled order.
            bucket = sorted(order[start : start + limit], key=self._durations_s.__getitem__)
            batches.extend(self._cut(bucket))
        batches.sort(key=lambda rows: self._key(epoch, self._ids[rows[0]], "batch"))
        return batches

    def updates_per_epoch(self, epoch: int) -> int:
        """How many batches an epoch has; the same in all epochs unless `max_batch_s` is set."""
        if self._batches.max_batch_s is None:
            return -(-len(self._ids) // self._batches.batch_size)
        for number in range(len(self._counts), epoch + 1):
            self._counts.append(len(self.batches_in_epoch(number)))
        return self._counts[epoch]

    def updates_in(self, epochs: int, at_most: int | None = None) -> int:
        """Updates of the first `epochs` epochs, `at_most` as many as that if it is given.

        With `max_batch_s` epochs are cut until that many updates are found, and no further.
        """
        total = 0
        for epoch in range(epochs):
            if at_most is not None and total >= at_most:
                return at_most
            total += self.updates_per_epoch(epoch)
        return total if at_most is None else min(total, at_most)

    def at(self, update: int) -> tuple[int, tuple[int, ...]]:
        """Epoch and row indices of an update.

        With `max_batch_s`, the first call cuts every epoch up to that update (about 6 s per million
        utterances and epoch); otherwise only the one it needs.
        """
        if update < 0:
            raise BatchesError(f"update {update}: updates are counted from 0")
        current = self._current
        if current is None or not 0 <= update - current.first_update < len(current.batches):
            epoch, first = self._locate(update)
            current = self._current = _Epoch(epoch, first, self.batches_in_epoch(epoch))
        return current.number, current.batches[update - current.first_update]

    def _locate(self, update: int) -> tuple[int, int]:
        """Epoch of an update, and the epoch's first update."""
        if self._batches.max_batch_s is None:
            epoch, place = divmod(update, self.updates_per_epoch(0))
            return epoch, update - place
        epoch, first = 0, 0
        while first + self.updates_per_epoch(epoch) <= update:
            first += self.updates_per_epoch(epoch)
            epoch += 1
        return epoch, first

    def _cut(self, rows: Sequence[int]) -> list[tuple[int, ...]]:
        """Cut rows that ascend in duration, as few as the two limits allow."""
        max_batch_s = self._batches.max_batch_s
        batches: list[tuple[int, ...]] = []
        batch: list[int] = []
        for row in rows:
            padded_s = self._durations_s[row] * (len(batch) + 1)
            full = len(batch) == self._batches.batch_size
            if batch and (full or (max_batch_s is not None and padded_s > max_batch_s)):
                batches.append(tuple(batch))
                batch = []
            batch.append(row)
        if batch:
            batches.append(tuple(batch))
        return batches

    def _key(self, epoch: int, utterance_id: str, purpose: str = "utterance") -> bytes:
        content = json.dumps([self._seed, epoch, purpose, utterance_id])
        return hashlib.sha256(content.encode()).digest()


def shard(
    rows: Sequence[int], rank: int, world: int, parts: int
) -> list[tuple[int, tuple[int, ...]]]:
    """The micro-batches of one worker: number and rows of each; the rows may be none.

    Rows are dealt like cards to `parts` micro-batches, which differ by at most one row and have
    about the same durations; these are dealt to the workers in the same way. A micro-batch is a
    function of the global batch and `parts` alone: it stays the same when workers come or go.
    Over all ranks every row appears once.
    """
    if not 0 <= rank < world <= parts:
        raise ValueError(
            f"shard: rank {rank} of world {world} with {parts} micro-batches; rank must be in "
            "0..world-1, and every worker needs a micro-batch"
        )
    return [(part, tuple(rows[part::parts])) for part in range(rank, parts, world)]


def _check(ids: Sequence[str], durations_s: Sequence[float], batches: Batches) -> None:
    if len(ids) != len(durations_s):
        raise BatchesError(f"{len(ids)} utterance ids but {len(durations_s)} durations")
    if not ids:
        raise BatchesError("no utterances to make batches of")
    if len(set(ids)) != len(ids):
        raise BatchesError("utterance ids occur more than once; `kd-ray check` lists them")
    durations = np.asarray(durations_s, dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(durations) & (durations > 0)))
    if wrong.size:
        raise BatchesError(
            f"{wrong.size} durations are not positive numbers, the first is "
            f"{durations_s[wrong[0]]} of {ids[wrong[0]]}"
        )
    limit = batches.max_batch_s
    if limit is not None and (too_long := np.flatnonzero(durations > limit)).size:
        longest = int(durations.argmax())
        raise BatchesError(
            f"{too_long.size} utterances are longer than batches.max_batch_s = {limit:g} s, the "
            f"longest is {ids[longest]} with {durations[longest]:.2f} s; raise the limit or leave "
            "them out (audio checks: max_duration_s)"
        )
