"""What a student asks its teachers about a micro-batch."""

from collections.abc import Callable

from kd_ray.config.commands import DistillConfig
from kd_ray.core.contracts import Audio, Fusion, Score, Wanted
from kd_ray.core.imitation import Items
from kd_ray.students.data import Batch

BuildRequest = Callable[[Batch, Items | None], Score | None]


def build_request(config: DistillConfig, deadline_s: float) -> BuildRequest:
    """Teacher-forced scoring along the references, or along the prefixes of `items`.

    With items, the request has one row for each that teachers are asked about, and there is none at
    all (None) where that is nobody. References go along only where no such item is a rollout: an
    error rate along the student's own prefix says nothing about a teacher.
    """
    fusion = Fusion(
        strategy=config.teachers.strategy,
        temperature=config.distillation.temperature,
        compatibility=config.distillation.compatibility,
        max_strings=config.distillation.max_strings,
        dtype=config.teachers.dtype,
    )
    wanted: set[Wanted] = set()
    if config.distillation.ctc_weight < 1:
        wanted.add("tokens")
    if config.distillation.ctc_weight > 0:
        wanted.add("labels")

    def request(batch: Batch, items: Items | None) -> Score | None:
        asked, on_policy = batch, False
        if items is not None:
            rows = items.asked_rows
            if not len(rows):
                return None
            asked, on_policy = batch.take(items.utterance[rows]), bool(items.on_policy[rows].any())
        return Score(
            utterance_ids=asked.utterance_ids,
            audio=asked.audio if asked.audio is not None else Audio.of([]),
            texts=asked.texts,
            references=None if on_policy else asked.references,
            prefix=None if items is None else items.asked_prefix(),
            fusion=fusion,
            wanted=frozenset(wanted),
            deadline_s=deadline_s,
        )

    return request
