"""Sections of the distillation engine: who gets a rollout, how rollouts are made, presets.

A *data prefix* is the reference or a stored teacher output; a *rollout* is what the student itself
writes during training. `beta` is the probability that a sentence keeps its data prefix.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Section

By = Literal["update", "epoch"]
"""What moves a schedule on: finished updates, or finished epochs."""


class Never(Section):
    """Every sentence keeps its data prefix: off-policy."""

    type: Literal["never"] = "never"


class BetaPerSentence(Section):
    """Each sentence keeps its data prefix with probability beta, else gets a rollout."""

    type: Literal["beta"] = "beta"


class Always(Section):
    """Every sentence gets a rollout: fully on-policy."""

    type: Literal["always"] = "always"


class Both(Section):
    """Every sentence counts twice: its data prefix with weight beta, a rollout with 1 - beta."""

    type: Literal["both"] = "both"


class QualityGate(Section):
    """A rollout is kept where it is good enough beside the teacher's own translation."""

    type: Literal["quality"] = "quality"
    metric: Literal["bleu", "chrf", "ter"] = "bleu"
    """Sentence score of the rollout against the teacher's greedy output, from 0 to 1.

    `bleu` weighs 1- to 3-grams by .1, .4, .5; `ter` is 1 - TER, at least 0.
    """
    threshold: float = Field(0.3, ge=0, le=1)
    """Rollouts that score this much or more are kept; the others give way to the data prefix."""


Selector = Annotated[
    Never | BetaPerSentence | Always | Both | QualityGate, Field(discriminator="type")
]


class _Falling(Section):
    """What schedules of beta that fall have in common."""

    by: By = "update"
    warmup_share: float = Field(0.0, ge=0, lt=1)
    """Share of the training during which beta is 1; the schedule is run off in what is left."""


class ConstantBeta(Section):
    """beta stays as it is."""

    type: Literal["constant"] = "constant"
    value: float = Field(1.0, ge=0, le=1)


class ExponentialBeta(_Falling):
    """`base ** -u`, u the share of the training (after the warm-up) that is done."""

    type: Literal["exponential"] = "exponential"
    base: float = Field(200.0, ge=1)


class LinearBeta(_Falling):
    """From 1 down to `floor`, in a straight line."""

    type: Literal["linear"] = "linear"
    floor: float = Field(0.0, ge=0, le=1)


class ReverseSigmoidBeta(_Falling):
    """`1 / (1 + exp(steepness * (u - 1/2)))`, u as for `exponential`."""

    type: Literal["reverse_sigmoid"] = "reverse_sigmoid"
    steepness: float = Field(20.0, gt=0)


class InverseSigmoidBeta(_Falling):
    """`mu / (mu + exp(n / mu))`, n the number of updates or epochs done after the warm-up.

    Bengio et al. 2015 (scheduled sampling). It does not know how long the training is.
    """

    type: Literal["inverse_sigmoid"] = "inverse_sigmoid"
    by: By = "epoch"
    mu: float = Field(10.0, ge=1)


BetaSchedule = Annotated[
    ConstantBeta | ExponentialBeta | LinearBeta | ReverseSigmoidBeta | InverseSigmoidBeta,
    Field(discriminator="type"),
]


class GoldSchedule(Section):
    """The references' share of the loss, in a straight line from `start` to `final`."""

    start: float = Field(ge=0, le=1)
    final: float = Field(ge=0, le=1)
    by: By = "update"


class Rollout(Section):
    """How the student's own prefixes are made."""

    decoding: Literal["greedy", "sample", "beam"] = "greedy"
    top_k: int | None = Field(None, ge=1)
    """`sample` only: draw among the k likeliest tokens; null: among all."""
    temperature: float = Field(1.0, gt=0)
    """`sample` only: divides the logits before drawing."""
    beam_size: int | None = Field(None, ge=2)
    """`beam` only, and needed there."""
    max_length: int = Field(200, ge=1)
    """Most tokens of a rollout, end symbol not counted."""
    max_length_ratio: float | None = Field(None, gt=0)
    """Most tokens for each position of the row's own encoder output; null: no such limit."""
    dropout: bool = False
    """Decode with dropout on (the student is put back into its mode afterwards)."""
    reuse_updates: int = Field(0, ge=0)
    """A rollout is used again if it was made at most this many updates ago; 0: always anew."""
    aggregate: bool = False
    """Keep old rollouts as further prefixes of their sentences (DAgger)."""
    max_aggregated: int = Field(5, ge=2)
    """`aggregate` only: most rollouts of a sentence, the newest included; the oldest goes."""

    @model_validator(mode="after")
    def _settings_belong_to_the_decoding(self) -> Self:
        if self.decoding != "sample" and (self.top_k is not None or self.temperature != 1.0):
            raise ValueError(
                f"top_k and temperature are for decoding 'sample', not {self.decoding!r}"
            )
        if (self.decoding == "beam") != (self.beam_size is not None):
            raise ValueError(
                "beam_size is needed for decoding 'beam' and only there; got decoding "
                f"{self.decoding!r} with beam_size {self.beam_size}"
            )
        return self


DataTarget = Literal["own", "argmax", "distribution"]
"""Learned on a data prefix: its own tokens, the teacher's likeliest, or its distribution."""
RolloutTarget = Literal["argmax", "distribution"]
"""The same on a rollout, whose own tokens are no target: they are the student's mistakes."""
Divergence = Literal["cross_entropy", "forward_kl", "reverse_kl", "jsd"]
"""Between the teacher's distribution and the student's; `jsd` at 1/2."""

Preset = Literal[
    "nll",
    "seq_kd",
    "seq_inter",
    "word_kd",
    "word_kd_audio",
    "imitkd_optimal",
    "imitkd_full",
    "imitkd_audio",
    "imitkd_star",
    "imitkd_gold_on_data",
    "kd_transcripts",
    "imitkd_transcripts",
    "cascade_nmt",
    "always_student",
    "mixer",
    "checked_prefix",
    "aggrevate",
    "aggrevate_policy_gradient",
]

Reads = Literal["transcript", "asr_transcript", "audio"]
"""Gold transcript; a recogniser's, stored or made on the fly; the audio itself."""


@dataclass(frozen=True)
class PresetInfo:
    """What a preset means.

    `switches` define it and cannot be set otherwise (for `selector`, the type); `defaults` may be.
    `teacher_reads`: what the teacher may be given, () if it is not asked at all during training.
    `data_prefix`: the references, the teacher's best output in their place, or that candidate of
    its beam which is nearest to the reference. `student_reads`: what the student is given.
    `reference_names`: what the reference systems call it.
    """

    switches: Mapping[str, Any]
    teacher_reads: tuple[Reads, ...] = ("transcript",)
    data_prefix: Literal["reference", "teacher_output", "teacher_candidate"] = "reference"
    student_reads: Reads = "audio"
    defaults: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({"alpha": 1.0, "ctc_weight": 0.0})
    )
    reference_names: tuple[str, ...] = ()


_ANY: tuple[Reads, ...] = ("transcript", "asr_transcript", "audio")
_NLL = {"selector": "never", "data_target": "own", "alpha": 0.0}
_NLL_DEFAULTS = {"ctc_weight": 0.0}
_WORD_KD = {"selector": "never", "data_target": "distribution"}
_FULL = {"selector": "beta", "data_target": "distribution", "rollout_target": "distribution"}

PRESETS: Mapping[Preset, PresetInfo] = MappingProxyType(
    {
        "nll": PresetInfo(_NLL, (), defaults=_NLL_DEFAULTS, reference_names=("NLL",)),
        "seq_kd": PresetInfo(
            _NLL, (), "teacher_output", defaults=_NLL_DEFAULTS, reference_names=("seq-KD",)
        ),
        "seq_inter": PresetInfo(
            _NLL, (), "teacher_candidate", defaults=_NLL_DEFAULTS, reference_names=("seq-inter",)
        ),
        "word_kd": PresetInfo(_WORD_KD, reference_names=("kd", "vanilla full")),
        "word_kd_audio": PresetInfo(_WORD_KD, ("audio",), reference_names=("imit_kd_ast_pure_kd",)),
        "imitkd_optimal": PresetInfo(
            {"selector": "beta", "data_target": "argmax", "rollout_target": "argmax"},
            _ANY,
            reference_names=("imit_kd",),
        ),
        "imitkd_full": PresetInfo(_FULL, reference_names=("imit_kd_CE", "ImitKD + Full")),
        "imitkd_audio": PresetInfo(_FULL, ("audio",), reference_names=("imit_kd_ast",)),
        "imitkd_star": PresetInfo(
            {"selector": "beta"},
            _ANY,
            "teacher_output",
            defaults={
                "alpha": 1.0,
                "ctc_weight": 0.0,
                "data_target": "own",
                "rollout_target": "argmax",
            },
            reference_names=("ImitKD*", "imit_kd_CE_generated_dataset"),
        ),
        "imitkd_gold_on_data": PresetInfo(
            {"selector": "beta", "data_target": "own", "rollout_target": "argmax"},
            _ANY,
            reference_names=("ImitKD",),
        ),
        "kd_transcripts": PresetInfo(
            _WORD_KD, ("asr_transcript",), reference_names=("kd_asr_input_nmt",)
        ),
        "imitkd_transcripts": PresetInfo(
            _FULL, ("asr_transcript",), reference_names=("imit_asr_input_nmt",)
        ),
        "cascade_nmt": PresetInfo(
            _FULL,
            ("transcript", "asr_transcript"),
            student_reads="asr_transcript",
            reference_names=(
                "imit_pipeline_nmt_training",
                "imit_pipeline_nmt_training_asr_input",
            ),
        ),
        "always_student": PresetInfo(
            {"selector": "always", "rollout_target": "distribution"},
            _ANY,
            reference_names=("imit_kd_always_correct", "imit_kd_always_correct_asr_transcripts"),
        ),
        "mixer": PresetInfo(
            {"selector": "both", "data_target": "distribution", "rollout_target": "argmax"},
            _ANY,
            reference_names=("imit_kd_mixer",),
        ),
        "checked_prefix": PresetInfo(
            {
                "selector": "quality",
                "data_target": "distribution",
                "rollout_target": "distribution",
            },
            _ANY,
            reference_names=("imit_kd_checked_predictions",),
        ),
        "aggrevate": PresetInfo(
            {"selector": "always", "alpha": 1.0}, _ANY, reference_names=("aggrevate",)
        ),
        "aggrevate_policy_gradient": PresetInfo(
            {"selector": "always", "alpha": 1.0},
            _ANY,
            reference_names=("aggrevate_policy_gradient",),
        ),
    }
)
"""Every preset; `docs/criteria.md` has their formulas."""


AGGREVATE_LOSSES: Mapping[Preset, Literal["regression", "policy_gradient"]] = MappingProxyType(
    {"aggrevate": "regression", "aggrevate_policy_gradient": "policy_gradient"}
)
"""The presets that try actions, with what they learn from their worth."""


class Aggrevate(Section):
    """AggreVaTe, experimental: the student tries an action, the expert shows what it was worth."""

    loss: Literal["regression", "policy_gradient"] = "regression"
    """That of the preset."""
    reward: Literal["bleu", "chrf", "ter"] = "bleu"
    """Of whole sentences against the reference, from 0 to 1; `ter` is 1 - TER, at least 0."""
    baseline: Literal["prefix", "student_completion"] = "prefix"
    """What the expert's completion is compared with to decide whether the action counts."""
    action: Literal["student_argmax", "student_sample", "expert_argmax"] = "student_argmax"
    """The action, where none is drawn at random."""
    random_action_share: float = Field(0.1, ge=0, le=1)
    """Probability of an action that is drawn evenly from the vocabulary."""
