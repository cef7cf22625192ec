"""What a training is made of: tokens, usable rows, a fresh model, what it needs of teachers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.data import AudioChecks
from kd_ray.config.model import TextToText
from kd_ray.core.handshake import StudentNeeds
from kd_ray.evaluation.token_file import token_file
from kd_ray.models.build import build_model
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.speech.checks import BadRow, check_rows, good_rows
from kd_ray.speech.features import SAMPLE_RATE, LogMelExtractor, front_end_digest
from kd_ray.speech.manifest import ManifestError, Utterance, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.criterion import build_criterion
from kd_ray.students.data import StudentData

_SHORTEST_S = 0.03
"""Of any audio; a front end may need more for its first frame."""


@dataclass(frozen=True)
class Inventories:
    """The tokens that a student writes, and those it reads (None where it hears)."""

    target: Tokens
    source: Tokens | None = None

    @classmethod
    def load(cls, config: TrainConfig | DistillConfig, root: Path) -> "Inventories":
        """The token files that `data.tokens` and `data.source_tokens` name."""
        source = config.data.source_tokens
        reads_text = isinstance(config.model, TextToText)
        return cls(
            target=Tokens.load(token_file(config, root)),
            source=Tokens.load(root / source) if reads_text and source is not None else None,
        )


def read_split(
    manifest: str, root: Path, config: TrainConfig | DistillConfig, tokens: Tokens
) -> list[Utterance]:
    """The usable rows of a manifest, checked against the student's tokens and frame rate.

    Raises:
        BadRowsError: bad rows, all of them listed, where `data.batches.on_bad_row` is `fail`.
        ManifestError: it cannot be read, or has no rows.
    """
    utterances = read_manifest(root / manifest, allow_duplicate_ids=True)
    if not utterances:
        raise ManifestError(
            f"manifest {manifest} has no rows; a training needs at least one in data.train and in "
            "data.valid. Make it again (`kd-ray prepare`), or name another one"
        )
    hears = not isinstance(config.model, TextToText)
    bad = check_rows(
        utterances,
        root=root,
        tokens=tokens,
        column=config.data.column,
        # Limits of the corpus are the business of `prepare`; here only what cannot be trained on.
        checks=AudioChecks(min_duration_s=_shortest_s(config), max_duration_s=86_400.0),
        frames_for=_frames_for(config, tokens) if hears else None,
        read_audio=False,
        needs_audio=hears,
        features_of=None
        if isinstance(config.model, TextToText)
        else front_end_digest(config.model.front_end),
    )
    bad += _rows_without_source(config, utterances)
    bad += _rows_without_duration(config, utterances)
    return good_rows(
        utterances, bad, on_bad_row=config.data.batches.on_bad_row, what=f"manifest {manifest}"
    )


def _shortest_s(config: TrainConfig | DistillConfig) -> float:
    """What the student's front end makes a frame of; a text reader has none."""
    if isinstance(config.model, TextToText):
        return _SHORTEST_S
    return max(_SHORTEST_S, LogMelExtractor(config.model.front_end).min_samples / SAMPLE_RATE)


def _frames_for(
    config: TrainConfig | DistillConfig, tokens: Tokens
) -> Callable[[float], int] | None:
    """Encoder frames of so many seconds, where CTC needs a frame for each label."""
    assert not isinstance(config.model, TextToText)
    model = new_model(config, Inventories(tokens))
    if not model.has_ctc:
        return None
    extractor = LogMelExtractor(config.model.front_end)
    return lambda duration_s: model.output_frames(
        extractor.num_frames(round(duration_s * SAMPLE_RATE))
    )


def _rows_without_source(
    config: TrainConfig | DistillConfig, utterances: list[Utterance]
) -> list[BadRow]:
    """Rows that lack a text which the student or its teachers read."""
    columns = {config.data.source_column} if isinstance(config.model, TextToText) else set()
    if isinstance(config, DistillConfig) and config.teachers.column is not None:
        columns.add(config.teachers.column)
    return [
        BadRow(utterance.id, f"no {column}, which is read in this run", row)
        for column in sorted(columns)
        for row, utterance in enumerate(utterances)
        if not (utterance.text(column) or "").strip()
    ]


def _rows_without_duration(
    config: TrainConfig | DistillConfig, utterances: list[Utterance]
) -> list[BadRow]:
    """Rows that a limit in seconds cannot count: batches of training and of validation have it."""
    if isinstance(config.model, TextToText) or config.data.batches.max_batch_s is None:
        return []
    return [
        BadRow(utterance.id, "no duration_s, which data.batches.max_batch_s counts", row)
        for row, utterance in enumerate(utterances)
        if utterance.duration_s is None
    ]


def new_model(config: TrainConfig | DistillConfig, inventories: Inventories) -> SequenceModel:
    """A model with fresh weights, drawn from torch's global generator."""
    tokens, source = inventories.target, inventories.source
    return build_model(
        config.model,
        vocabulary_size=len(tokens),
        blank=tokens.blank,
        bos=tokens.bos,
        eos=tokens.eos,
        source_vocabulary_size=None if source is None else len(source),
    )


def student_needs(tokens: Tokens, config: DistillConfig | None = None) -> StudentNeeds:
    """What the student takes for granted about teachers' signals."""
    needs = StudentNeeds(
        tokens_digest=tokens.digest,
        vocabulary_size=len(tokens),
        blank=tokens.blank,
        bos=tokens.bos,
        eos=tokens.eos,
    )
    if config is None:
        return needs
    wanted = build_criterion(config, tokens).wanted
    return replace(
        needs,
        wanted=wanted,
        texts=config.teachers.column is not None,
        view=config.teachers.view,
    )


def build_data(
    config: TrainConfig | DistillConfig, root: Path, inventories: Inventories
) -> dict[str, StudentData]:
    """The splits `train` and `valid`."""
    extractor = None
    if not isinstance(config.model, TextToText):
        extractor = LogMelExtractor(config.model.front_end)
    reads = config.teachers.column if isinstance(config, DistillConfig) else None
    return {
        name: StudentData(
            read_split(manifest, root, config, inventories.target),
            root=root,
            tokens=inventories.target,
            column=config.data.column,
            extractor=extractor,
            source_tokens=inventories.source,
            source_column=config.data.source_column,
            teacher_column=reads,
            cache_gib=config.data.cache_gib / 2,
        )
        for name, manifest in (("train", config.data.train), ("valid", config.data.valid))
    }
