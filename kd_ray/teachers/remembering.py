"""What a host remembers of its teachers' answers, and where it looks before it asks them."""

from collections.abc import Mapping, Sequence

from kd_ray.core.contracts import Generate, Score, TeacherInfo
from kd_ray.teachers.cache import CacheStatistics, Found, OutputCache, find, needed, row_keys
from kd_ray.teachers.host_state import Known
from kd_ray.teachers.rows import Output


class Memory:
    """A host's cache, and how its rows are named; safe for several threads.

    Args:
        output_bytes: for teachers' outputs, so that nothing is computed twice; 0: none.
    """

    def __init__(self, output_bytes: int = 0) -> None:
        self._outputs = OutputCache(output_bytes) if output_bytes else None

    def __bool__(self) -> bool:
        """Whether anything can be remembered at all."""
        return self._outputs is not None

    @property
    def statistics(self) -> CacheStatistics | None:
        """Of teachers' outputs; None: they are not remembered."""
        return None if self._outputs is None else self._outputs.statistics

    def look_up(
        self, request: Score | Generate, job: str, teachers: Mapping[int, TeacherInfo]
    ) -> Known:
        """What is known of each teacher's answer."""
        rows = len(request.utterance_ids)
        if self._outputs is None:
            return Known(dict.fromkeys(teachers, Found((None,) * rows)), {}, tuple(range(rows)))
        found = {}
        keys: dict[str, tuple[bytes, ...]] = {}
        for index, info in teachers.items():
            if info.reads not in keys:
                keys[info.reads] = row_keys(request, info.reads)
            found[index] = find(
                info.answers_digest, request, keys[info.reads], memory=self._outputs, job=job
            )
        return Known(found, keys, needed(found.values()))

    def keep(self, info: TeacherInfo, known: Known, missing: Sequence[int], fresh: Output) -> None:
        """Remember what a teacher said about the rows `missing` of a request."""
        if self._outputs is not None:
            keys = known.keys[info.reads]
            self._outputs.put_rows(info.answers_digest, [keys[row] for row in missing], fresh)

    def forget_teacher(self, digest: str) -> None:
        """A teacher changed, left, or is not to be believed."""
        if self._outputs is not None:
            self._outputs.forget_teacher(digest)
