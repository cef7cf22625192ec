"""Forward passes of a host's teachers, over the work of several requests at a time."""

import dataclasses
import logging
import time
from collections.abc import Sequence

import numpy as np

from kd_ray.core.contracts import Labels, Writing
from kd_ray.teachers.concluding import Done
from kd_ray.teachers.host_state import Queue
from kd_ray.teachers.memory import in_memory
from kd_ray.teachers.residents import Residents
from kd_ray.teachers.rows import Output, Work, masks_together, pad_together

logger = logging.getLogger(__name__)


class Passes:
    """Runs teachers, loading them where need be; called from one thread at a time."""

    def __init__(self, residents: Residents) -> None:
        self._residents = residents

    def __call__(self, queue: Queue, works: Sequence[Work]) -> Done:
        """What the queue's teacher says to all of the work, and what that cost.

        Raises:
            LoadFailed: the teacher cannot be had.
            PassTooLarge: memory does not suffice for a single utterance.
            Exception: what the teacher raised.
        """
        started, loaded = time.perf_counter(), self._loads
        full: list[str] = []

        def on_full(size: int, reason: str) -> None:
            name = self._residents.infos[queue.teacher].name
            full.append(f"{size} utterances at once: {reason}")
            logger.warning("teacher %s: memory is full with %s", name, full[-1])

        output = in_memory(lambda part: self._compute(queue, part), works, on_full)
        return Done(
            output,
            seconds=time.perf_counter() - started,
            loads=self._loads - loaded,
            full=full[0] if full else None,
        )

    @property
    def _loads(self) -> int:
        status = self._residents.status
        return 0 if status is None else status.loads

    def _compute(self, queue: Queue, works: Sequence[Work]) -> Output:
        """One pass; its output is checked for size and numbered as in the pool."""
        inputs, lengths = pad_together(works)
        masks = masks_together(works)
        prefix = Labels.of([string for work in works for string in work.prefix])
        output: Output
        with self._residents.use(queue.teacher) as teacher:
            if isinstance(queue.task, Writing):
                written = teacher.generate(inputs, lengths, prefix, queue.task, masks)
                rows = len(written.teachers)
                output = dataclasses.replace(written, teachers=np.full(rows, queue.teacher))
            else:
                references = None
                if queue.task.with_references:
                    strings = [string for work in works for string in work.references or ()]
                    references = Labels.of(strings)
                scored = teacher.score(
                    inputs, lengths, prefix, references, queue.task.wanted, masks
                )
                rows = len(scored.positions)
                output = dataclasses.replace(scored, teacher=queue.teacher)
        if rows != len(lengths):
            raise RuntimeError(
                f"teacher {teacher.info.name} answered {rows} utterances of {len(lengths)}"
            )
        return output
