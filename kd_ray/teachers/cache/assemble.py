"""From cached rows and fresh ones to a teacher's answer: what must be computed, and what comes out.

How a host asks its teachers, with a cache between:

    keys = row_keys(request, "speech")
    found = {
        index: find(teacher.info.answers_digest, request, keys, memory=cache, job=job)
        for index, teacher in teachers.items()
    }
    made = needed(found.values())        # rows that somebody must compute
    if made:                             # else no feature is made and no teacher asked
        part = take_request(request, made)
        inputs = reader(part.audio.waveforms(), part.texts)
    for index, teacher in teachers.items():
        mine, fresh = found[index], None
        if mine.missing:
            works = mine.works(request, inputs, made, max_utterances)
            fresh = join_rows([... one forward pass for each of works ...])
            cache.put_rows(teacher.info.answers_digest, [keys[row] for row in mine.missing], fresh)
        output = mine.whole(fresh, index)

Shapes: B utterances.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from kd_ray.config.strategies import Fusing
from kd_ray.core.contracts import Audio, Fusion, Generate, Labels, Score
from kd_ray.core.partials import Partial
from kd_ray.core.strategies import FusedTargets
from kd_ray.teachers.cache.fused_rows import FusedRow, cut_fused, lay_fused
from kd_ray.teachers.cache.memory import OutputCache
from kd_ray.teachers.cache.output_rows import Row, cut, lay
from kd_ray.teachers.cache.partial_rows import PartialRow, cut_partial, lay_partial
from kd_ray.teachers.cache.store_level import StoreLevel
from kd_ray.teachers.readers import Inputs
from kd_ray.teachers.rows import Output, Work, split_request

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of one teacher's answer to a request."""

    rows: tuple[Row | None, ...]
    """One for each utterance, in order; None where the teacher must be asked."""

    @cached_property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the utterances that the teacher must be asked about, ascending."""
        return tuple(number for number, row in enumerate(self.rows) if row is None)

    def works(
        self,
        request: Score | Generate,
        inputs: Inputs,
        made: Sequence[int],
        max_utterances: int,
    ) -> list[Work]:
        """The missing rows as pieces of work, in order, none larger than a forward pass.

        Args:
            request: the whole one.
            inputs: of the rows `made`, in that order.
            made: ascending, and with all missing rows among them.
            max_utterances: of a forward pass.
        """
        if not self.missing:
            return []
        padded, lengths = inputs
        if tuple(made) != self.missing:
            places = torch.from_numpy(np.searchsorted(made, self.missing))
            padded, lengths = padded[places], lengths[places]
        return split_request(_only(request, self.missing), (padded, lengths), max_utterances)

    def whole(self, fresh: Output | None, teacher: int) -> Output:
        """The answer to the whole request, in its order.

        Args:
            fresh: what the teacher said about the missing rows, in order; None if none is missing.
            teacher: its number in the pool that asks; cached rows carry none.

        Raises:
            ValueError: fresh rows are not those that are missing.
        """
        if fresh is not None and len(self.missing) == len(self.rows):
            return fresh
        return lay(fill(self.rows, [] if fresh is None else cut(fresh)), teacher)


def find(
    teacher: str,
    request: Score | Generate,
    keys: Sequence[bytes],
    *,
    memory: OutputCache | None = None,
    store: StoreLevel | None = None,
    data: str = "",
    job: str = "",
) -> Found:
    """Look in memory, then in the store for what is not there.

    Args:
        teacher: digest.
        request: as it came.
        keys: its row keys, for what this teacher reads.
        memory: the first level.
        store: a target store; may wait for the disk.
        data: digest of the data that the request's utterance ids are of (`store_level`).
        job: who lookups are counted for.
    """
    rows: list[Row | None] = [None] * len(keys)
    if memory is not None:
        rows = memory.get_rows(teacher, keys, job)
    missing = [number for number, row in enumerate(rows) if row is None]
    if store is not None and missing:
        rows = fill(rows, store.get_rows(teacher, request, data, missing, job))
    return Found(tuple(rows))


def needed(found: Iterable[Found]) -> tuple[int, ...]:
    """Numbers of the utterances that any of the teachers must be asked about, ascending."""
    return tuple(sorted({row for each in found for row in each.missing}))


def fill(rows: Sequence[R | None], fresh: Sequence[R]) -> list[R]:
    """Put fresh rows, in order, where rows are missing.

    Raises:
        ValueError: more or fewer fresh rows than are missing.
    """
    gaps = sum(row is None for row in rows)
    if gaps != len(fresh):
        raise ValueError(f"{len(fresh)} fresh rows for {gaps} missing ones")
    coming = iter(fresh)
    return [next(coming) if row is None else row for row in rows]


def fill_fused(
    rows: Sequence[FusedRow | None], fresh: FusedTargets | None, fusing: Fusing
) -> FusedTargets:
    """Cached fused rows and fresh ones as the answer to the whole request, in its order.

    Cached rows are made of all teachers. Where some did not answer for the fresh rows, the whole
    says so: `answered` is theirs, and the table of weights tells row by row.

    Args:
        rows: of `FusedCache.get_rows`, for each utterance of the request.
        fresh: targets of the missing utterances, in order; None if none is missing.
        fusing: of the request's fusion.

    Raises:
        ValueError: fresh rows are not those that are missing.
    """
    if fresh is not None and not any(row is not None for row in rows):
        return fresh
    whole = fill(rows, [] if fresh is None else cut_fused(fresh))
    answered = tuple(range(len(whole[0].weights_tokens))) if fresh is None else fresh.answered
    return lay_fused(whole, answered=answered, fusing=fusing)


def fill_partial(
    rows: Sequence[PartialRow | None],
    fresh: Partial | None,
    *,
    fusion: Fusion,
    num_teachers: int,
    teachers: Sequence[int],
) -> Partial:
    """Cached rows of a partial and fresh ones as that of the whole request, in its order.

    Args:
        rows: of `FusedCache.get_partial_rows`, for each utterance of the request.
        fresh: of the same teachers about the missing utterances, in order; None if none is missing.
        fusion: of the request.
        num_teachers: of the job.
        teachers: whose partial it is, ascending, as the job counts them.

    Raises:
        ValueError: fresh rows are not those that are missing, or of other teachers.
    """
    if fresh is not None and not any(row is not None for row in rows):
        return fresh
    whole = fill(rows, [] if fresh is None else cut_partial(fresh))
    return lay_partial(whole, fusion=fusion, num_teachers=num_teachers, teachers=teachers)


def take_request(request: Score | Generate, rows: Sequence[int]) -> Score | Generate:
    """The request as if it had been made for some of its utterances only."""
    if len(rows) == len(request.utterance_ids):
        return request
    waveforms = request.audio.waveforms() if len(request.audio.lengths) else []
    return replace(
        _only(request, rows),
        audio=Audio.of([waveforms[row] for row in rows]) if waveforms else request.audio,
        texts=None if request.texts is None else tuple(request.texts[row] for row in rows),
    )


def _only(request: Score | Generate, rows: Sequence[int]) -> Score | Generate:
    """Ids, view, prefixes and references of some rows, without what teachers hear or read."""
    ids = tuple(request.utterance_ids[row] for row in rows)
    view, prefix = request.view.take(rows), _take(request.prefix, rows)
    if isinstance(request, Generate):
        return replace(
            request, utterance_ids=ids, view=view, audio=Audio.of([]), texts=None, prefix=prefix
        )
    return replace(
        request,
        utterance_ids=ids,
        view=view,
        audio=Audio.of([]),
        texts=None,
        prefix=prefix,
        references=_take(request.references, rows),
    )


def _take(labels: Labels | None, rows: Sequence[int]) -> Labels | None:
    if labels is None:
        return None
    places = np.asarray(rows, dtype=np.int64)
    return Labels(labels.ids[places], labels.lengths[places])
