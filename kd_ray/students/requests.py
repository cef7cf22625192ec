"""What a student asks its teachers about a micro-batch."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from kd_ray.config.commands import DistillConfig
from kd_ray.config.model import TextToText
from kd_ray.config.strategies import Average, Strategy, TrustTable
from kd_ray.core.contracts import (
    Audio,
    Fusion,
    Generate,
    Labels,
    Score,
    TeacherInfo,
    View,
    Wanted,
    Writing,
)
from kd_ray.core.exploration import TriedItems
from kd_ray.core.imitation import Items, rows_of
from kd_ray.core.trust import TrustError, check_trust, table_for, trusts_chrf
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.spec_augment import carried_masks, draw_masks
from kd_ray.storage import fetch
from kd_ray.students.data import Batch

BuildRequest = Callable[[Batch, Items | None, int], Score | Generate | None]
"""A batch, what its decoder reads, and the epoch, to what teachers are asked."""


def strategy_of(config: DistillConfig, teachers: Sequence[TeacherInfo], root: Path) -> Strategy:
    """The strategy of a distillation as it is meant for these teachers.

    Its table of error rates is read, in their order. Where any of them reads text, they write
    translations, and the error rate along the reference is 1 - chrF instead of one of tokens. A
    single teacher needs no trust.

    Raises:
        TrustError: the table cannot be read, or lacks a teacher; teachers or prefixes cannot give
            the trust that is asked for.
    """
    strategy = _resolved(config.teachers.strategy, teachers, root)
    rollouts = config.distillation.selector.type != "never"
    # The published recipe has its own rules of trust, along references.
    if rollouts or config.distillation.compatibility == "none":
        check_trust(
            strategy,
            num_teachers=len(teachers),
            labels=all(each.has_ctc for each in teachers),
            rollouts=rollouts,
        )
    return Average() if len(teachers) == 1 else strategy


def _resolved(strategy: Strategy, teachers: Sequence[TeacherInfo], root: Path) -> Strategy:
    if getattr(strategy, "trust", None) == "teacher_forced" and any(
        teacher.reads == "text" for teacher in teachers
    ):
        strategy = strategy.model_copy(update={"trust": "teacher_forced_chrf"})
    table: TrustTable | str | None = getattr(strategy, "table", None)
    if table is None:
        return strategy
    if isinstance(table, str):
        path = root / table
        try:
            content = json.loads(fetch(path).read_text(encoding="utf-8"))
            table = TrustTable.model_validate(content)
        except (OSError, ValueError) as error:
            raise TrustError(
                f"teachers.strategy.table: {path} is no table of error rates "
                f"(`kd-ray evaluate` and `kd-ray pool report` write them as trust/SPLIT.json): "
                f"{error}"
            ) from error
    digests = [teacher.digest for teacher in teachers]
    return strategy.model_copy(update={"table": table_for(table, digests)})


def generate_request(
    batch: Batch, writing: Writing, deadline_s: float, prefix: Labels | None = None
) -> Generate:
    """Have teachers write for these utterances, each string beginning with its row of `prefix`."""
    return Generate(
        utterance_ids=batch.utterance_ids,
        audio=batch.audio if batch.audio is not None else Audio.of([]),
        texts=batch.texts,
        writing=writing,
        prefix=prefix,
        deadline_s=deadline_s,
    )


def score_along(batch: Batch, prefix: Labels, fusion: Fusion, deadline_s: float) -> Score:
    """Have teachers' decoders score these prefixes, one for each utterance."""
    return Score(
        utterance_ids=batch.utterance_ids,
        audio=batch.audio if batch.audio is not None else Audio.of([]),
        texts=batch.texts,
        references=batch.references,
        prefix=prefix,
        fusion=fusion,
        wanted=frozenset({"tokens"}),
        deadline_s=deadline_s,
    )


def fusion_of(config: DistillConfig, strategy: Strategy | None = None) -> Fusion:
    """How the teachers of a distillation become one; `strategy`: its own, resolved."""
    return Fusion(
        strategy=strategy or config.teachers.strategy,
        temperature=config.distillation.temperature,
        compatibility=config.distillation.compatibility,
        max_strings=config.distillation.max_strings,
        dtype=config.teachers.dtype,
        fusing=config.distillation.fusing,
        top_k=config.distillation.top_k,
    )


def build_request(
    config: DistillConfig, deadline_s: float, strategy: Strategy | None = None
) -> BuildRequest:
    """Teacher-forced scoring along the references, or along the prefixes of `items`.

    With items, the request has one row for each that teachers are asked about, and there is none at
    all (None) where that is nobody. Where actions were tried, teachers complete the sentences
    instead. With `teachers.view: student` they are shown the masks that the student's features
    will have in that epoch. `strategy`: that of the configuration, resolved.
    """
    fusion = fusion_of(config, strategy)
    writing = Writing(max_length=config.distillation.rollout.max_length)
    wanted: set[Wanted] = set()
    if config.distillation.ctc_weight < 1:
        wanted.add("tokens")
    if config.distillation.ctc_weight > 0:
        wanted.add("labels")
    if trusts_chrf(fusion):
        wanted.add("chrf")

    view_of = student_view(config) if config.teachers.view == "student" else _clean_view

    def request(batch: Batch, items: Items | None, epoch: int) -> Score | Generate | None:
        asked = batch
        if items is not None:
            rows = items.asked_rows
            if not len(rows):
                return None
            asked = batch.take(items.utterance[rows])
            if isinstance(items, TriedItems):
                return generate_request(asked, writing, deadline_s, rows_of(items.tried, rows))
        return Score(
            utterance_ids=asked.utterance_ids,
            audio=asked.audio if asked.audio is not None else Audio.of([]),
            texts=asked.texts,
            references=asked.references,
            prefix=None if items is None else items.asked_prefix(),
            fusion=fusion,
            wanted=frozenset(wanted),
            view=view_of(asked, epoch),
            deadline_s=deadline_s,
        )

    return request


def student_view(config: DistillConfig) -> Callable[[Batch, int], View]:
    """The masks that `students.step` puts on a batch's features in an epoch, as teachers read them.

    Masks depend on the run's seed, each utterance and the epoch: the same whoever asks, and when.
    """
    augment, seed = config.data.augment, config.training.seed
    assert not isinstance(config.model, TextToText), "the schema refuses it: text is not augmented"
    assert augment is not None, "the schema refuses it: there is nothing to share"
    front_end = config.model.front_end
    extractor = LogMelExtractor(front_end)

    def view(batch: Batch, epoch: int) -> View:
        masks = draw_masks(
            batch.lengths.tolist(),
            augment,
            seed=seed,
            utterance_ids=batch.utterance_ids,
            epoch=epoch,
            frame_shift_s=front_end.frame_shift_ms / 1000,
            num_mels=front_end.num_mels,
        )
        return View("student", seed, carried_masks(masks, extractor))

    return view


def _clean_view(batch: Batch, epoch: int) -> View:
    return View()
