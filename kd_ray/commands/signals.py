"""Asking teachers about a few utterances, for `inspect` and `selftest`."""

from collections.abc import Sequence
from pathlib import Path

from kd_ray.config.commands import DistillConfig
from kd_ray.config.load import ConfigError
from kd_ray.core.contracts import Audio, Fusion, Labels, Score, Wanted
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import Tokens


def expect_distillation(config: object, command: str) -> DistillConfig:
    """The configuration, if it is one of `kd-ray distill`."""
    if not isinstance(config, DistillConfig):
        found = getattr(config, "command", type(config).__name__)
        raise ConfigError(
            f"`kd-ray {command}` needs a configuration of `kd-ray distill`; this one is for "
            f"`kd-ray {found}`"
        )
    return config


def score_request(
    utterances: Sequence[Utterance],
    *,
    root: Path,
    tokens: Tokens,
    config: DistillConfig,
    fusion: Fusion,
    per_teacher: bool,
    texts: tuple[str, ...] | None = None,
    hear: bool = True,
    wanted: frozenset[Wanted] = frozenset({"tokens", "labels"}),
) -> Score:
    """A request about whole utterances with their references as prefix.

    `texts`: what text teachers read; `hear`: whether any teacher needs the audio.
    """
    references = [row.text(config.data.column) or "" for row in utterances]
    return Score(
        utterance_ids=tuple(row.id for row in utterances),
        audio=Audio.of([read_waveform(row, root) for row in utterances] if hear else []),
        references=Labels.of([tokens.encode(text) for text in references]),
        fusion=fusion,
        texts=texts,
        wanted=wanted,
        per_teacher=per_teacher,
        deadline_s=600.0,
    )
