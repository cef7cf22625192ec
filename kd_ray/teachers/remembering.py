"""What a host remembers of its teachers' answers, and where it looks before it asks them.

Two levels in memory and one on the disk. Fused rows are looked for first: they answer for all
teachers of a call at once, but one fusion only. Then each teacher's own rows, from which every
fusion follows, and behind them those of a target store.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kd_ray.core.contracts import Fusion, Generate, Score, TeacherInfo
from kd_ray.core.strategies import FusedTargets, Partial
from kd_ray.teachers.answers import Call, HostAnswer
from kd_ray.teachers.cache import (
    CacheStatistics,
    Found,
    FusedCache,
    FusedRow,
    Lookups,
    OutputCache,
    PartialRow,
    fill_fused,
    fill_partial,
    find,
    group_of,
    looks_at_batches,
    needed,
    open_levels,
    row_keys,
    take_request,
)
from kd_ray.teachers.host_state import Asked, Known
from kd_ray.teachers.rows import Output


@dataclass(frozen=True, eq=False)
class Recalled:
    """Fused rows of a request that a call's teachers have answered before."""

    fusion: Fusion
    group: tuple[str, ...]
    """What the cache calls these teachers."""
    numbers: tuple[int, ...]
    """What the job calls them, ascending."""
    num_teachers: int
    keys: tuple[bytes, ...]
    targets: tuple[FusedRow | None, ...] | None
    """Where the host makes the target itself; None: it makes a partial."""
    partials: tuple[PartialRow | None, ...] | None

    @cached_property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the utterances that teachers must be asked about, ascending."""
        rows = self.partials if self.targets is None else self.targets
        assert rows is not None
        return tuple(number for number, row in enumerate(rows) if row is None)

    def is_completed_by(self, fresh: HostAnswer) -> bool:
        """Whether all teachers answered: rows of fewer teachers make no batch with ours."""
        return set(fresh.answered) == set(self.numbers)


class Memory:
    """A host's caches, and how their rows are named; safe for several threads.

    Args:
        output_bytes: for teachers' outputs, so that nothing is computed twice; 0: none.
        fused_bytes: for what is fused of them; 0: none.
        store: a target store that knows rows by the data that jobs say they ask about.

    Raises:
        StoreError: the store is missing or damaged.
        ValueError: the store keeps the top k only.
    """

    def __init__(
        self, output_bytes: int = 0, fused_bytes: int = 0, store: Path | None = None
    ) -> None:
        self._outputs = OutputCache(output_bytes) if output_bytes else None
        self._fused = FusedCache(fused_bytes) if fused_bytes else None
        self._levels = {} if store is None else open_levels(store)

    @property
    def outputs(self) -> CacheStatistics | None:
        """Of teachers' own rows; None: they are not remembered."""
        return None if self._outputs is None else self._outputs.statistics

    @property
    def fused(self) -> CacheStatistics | None:
        """Of fused rows; None: they are not remembered."""
        return None if self._fused is None else self._fused.statistics

    @property
    def stored(self) -> Lookups | None:
        """In the store; None: there is none."""
        if not self._levels:
            return None
        return sum((level.statistics.lookups for level in self._levels.values()), Lookups())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look up, ever."""
        return self._outputs is None and not self._levels

    async def answer(
        self,
        asked: Asked,
        teachers: Mapping[int, TeacherInfo],
        ask: Callable[[Asked], Awaitable[HostAnswer]],
        beside: Callable[..., Awaitable[Any]],
    ) -> HostAnswer:
        """What these teachers say: fused rows that are remembered, and theirs for the rest.

        Args:
            asked: the request, and who is meant.
            teachers: all who are, by what the job calls them; none of them is quarantined.
            ask: teachers.
            beside: calls a function beside the event loop.
        """
        if self._fused is None:
            return await ask(asked)
        recalled: Recalled | None = await beside(self._recall, asked, teachers)
        if recalled is None:
            return await ask(asked)
        fresh = None
        if recalled.missing:
            rest = take_request(asked.request, recalled.missing)
            fresh = await ask(asked._replace(request=rest))
            if not recalled.is_completed_by(fresh):
                # Somebody is missing from now on, in the rows that are remembered, too.
                whole = await ask(asked)
                return replace(whole, teacher_s=whole.teacher_s + fresh.teacher_s)
        complete: HostAnswer = await beside(self._complete, recalled, fresh)
        return complete

    def _recall(self, asked: Asked, teachers: Mapping[int, TeacherInfo]) -> Recalled | None:
        """What is remembered of these teachers together; None where that cannot be.

        So it is for strings that teachers write, for requests that want teachers' own outputs too,
        and for fusions that look at whole batches.
        """
        cache, (request, call, _, num_teachers, _) = self._fused, asked
        if cache is None or not isinstance(request, Score) or request.per_teacher or not teachers:
            return None
        if looks_at_batches(request.fusion, num_teachers):
            return None
        numbers = tuple(sorted(teachers))
        digests = {number: teachers[number].answers_digest for number in numbers}
        finish = call.finish and len(numbers) == num_teachers
        group = tuple(digests.values()) if finish else group_of(digests, num_teachers)
        reads = {info.reads for info in teachers.values()}
        keys = row_keys(request, reads.pop() if len(reads) == 1 else None)
        place = (request.fusion, group, keys, call.job)
        return Recalled(
            request.fusion,
            group,
            numbers,
            num_teachers,
            keys,
            targets=tuple(cache.get_rows(*place)) if finish else None,
            partials=None if finish else tuple(cache.get_partial_rows(*place)),
        )

    def _complete(self, recalled: Recalled, fresh: HostAnswer | None) -> HostAnswer:
        """The answer to the whole request; its fresh rows are remembered.

        Args:
            recalled: what was remembered.
            fresh: of all its teachers, to the missing rows; None if none is missing.
        """
        assert self._fused is not None
        known = (len(recalled.keys) - len(recalled.missing)) * len(recalled.numbers)
        answer = fresh or HostAnswer(None, recalled.numbers, {}, 0.0)
        keys = [recalled.keys[row] for row in recalled.missing]
        partial: Partial | None = None
        fused: FusedTargets | None = None
        if recalled.targets is not None:
            if answer.fused is not None:
                self._fused.put_rows(recalled.fusion, recalled.group, keys, answer.fused)
            fused = fill_fused(recalled.targets, answer.fused, recalled.fusion.fusing)
        elif recalled.partials is not None:
            new = answer.partial if isinstance(answer.partial, Partial) else None
            if new is not None:
                self._fused.put_partial_rows(recalled.group, keys, new)
            partial = fill_partial(
                recalled.partials,
                new,
                fusion=recalled.fusion,
                num_teachers=recalled.num_teachers,
                teachers=recalled.numbers,
            )
        return replace(answer, partial=partial, fused=fused, known_rows=answer.known_rows + known)

    def look_up(
        self, request: Score | Generate, call: Call, teachers: Mapping[int, TeacherInfo]
    ) -> Known:
        """What is known of each teacher's answer; may wait for the disk."""
        rows = len(request.utterance_ids)
        if self.is_empty:
            return Known(dict.fromkeys(teachers, Found((None,) * rows)), {}, tuple(range(rows)))
        found = {}
        keys: dict[str, tuple[bytes, ...]] = {}
        for index, info in teachers.items():
            if info.reads not in keys:
                keys[info.reads] = row_keys(request, info.reads)
            found[index] = find(
                info.answers_digest,
                request,
                keys[info.reads],
                memory=self._outputs,
                store=self._levels.get(call.data),
                data=call.data,
                job=call.job,
            )
        return Known(found, keys, needed(found.values()))

    def keep(self, info: TeacherInfo, known: Known, missing: Sequence[int], fresh: Output) -> None:
        """Remember what a teacher said about the rows `missing` of a request."""
        if self._outputs is not None:
            keys = known.keys[info.reads]
            self._outputs.put_rows(info.answers_digest, [keys[row] for row in missing], fresh)

    def forget_teacher(self, digest: str) -> None:
        """A teacher changed, left, or is not to be believed."""
        for cache in (self._outputs, self._fused):
            if cache is not None:
                cache.forget_teacher(digest)
