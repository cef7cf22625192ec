"""Sections about teachers: where signals come from and how many become one."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Section
from kd_ray.config.data import TextColumn

Trust = Literal["ctc_greedy", "teacher_forced"]
"""Which error rate says how far a teacher is trusted on an utterance.

`ctc_greedy`: the collapsed best CTC path; `teacher_forced`: the decoder's argmax along the prefix.
"""


class Average(Section):
    """Every teacher weighs 1/N."""

    type: Literal["average"] = "average"


class Best(Section):
    """The most trusted teacher of each utterance weighs 1."""

    type: Literal["best"] = "best"
    trust: Trust = "ctc_greedy"
    ties: Literal["first", "average"] = "first"
    """Teachers with equally few errors: the lowest index, or equal shares."""


class Weighted(Section):
    """softmax over teachers of `-scale * error rate in percentage points`."""

    type: Literal["weighted"] = "weighted"
    trust: Trust = "ctc_greedy"
    scale: float = Field(0.1, ge=0)
    scope: Literal["utterance", "batch"] = "utterance"
    """Error rate of the utterance itself, or the mean over the request's utterances."""


Strategy = Annotated[Average | Best | Weighted, Field(discriminator="type")]


class LocalSource(Section):
    """Teachers live in the training process."""

    type: Literal["local"] = "local"


class StoreSource(Section):
    """Signals were stored by `kd-ray infer-teachers`."""

    type: Literal["store"] = "store"
    path: str
    """Folder of the target store."""


class PoolSource(Section):
    """Teachers live in Ray actors (hosts), several in each."""

    type: Literal["pool"] = "pool"
    hosts: int = Field(1, ge=1)
    """Host processes; teachers are dealt to them in order."""
    cpus_per_host: float = Field(1, gt=0)
    gpus_per_host: float = Field(0, ge=0)
    batching: Literal["per_request", "timed"] = "timed"
    """`per_request` never mixes requests (bitwise repeatable); `timed` fills micro-batches."""
    max_batch_utterances: int = Field(32, ge=1)
    batch_wait_ms: float = Field(2.0, ge=0)
    """Longest wait for companions of a request; none while the host is idle."""
    deadline_s: float = Field(60.0, gt=0)
    """A host that has not answered by then is left out (see `quorum`)."""
    start_timeout_s: float = Field(300.0, gt=0)
    """Longest wait for a host to load its teachers."""
    quorum: float = Field(0.5, gt=0, le=1)
    """Smallest share of teachers that must answer; weights are renormalised over those."""
    max_bytes_in_flight_mib: float = Field(256.0, gt=0)


Source = Annotated[LocalSource | StoreSource | PoolSource, Field(discriminator="type")]


class Teachers(Section):
    """Which teachers, asked how."""

    list: str | tuple[str, ...] | None = None
    """A text file with one checkpoint folder a line (globs and # comments allowed), or a list.

    With a store it may be left out: every teacher of the store.
    """
    source: Source = LocalSource()
    reads: TextColumn | None = None
    """The manifest column that text teachers (translation experts) read; null: they hear."""
    strategy: Strategy = Weighted()
    dtype: Literal["float32", "float16"] = "float32"
    """To which teachers' log-probabilities are rounded before fusing; the store has its own."""

    @model_validator(mode="after")
    def _teachers_are_named(self) -> Self:
        if not self.list and not isinstance(self.source, StoreSource):
            raise ValueError(
                f"list must name at least one teacher where source.type is {self.source.type!r} "
                "(only a store knows its teachers by itself)"
            )
        return self


class Distillation(Section):
    """What the student learns from the teachers' signals.

    `L = ctc_weight * L_ctc + (1 - ctc_weight) * L_att`, each
    `alpha * temperature**2 * KD + (1 - alpha) * supervised`; the CTC part reads collapsed best
    paths, on which temperature does not act, so it has no factor.
    """

    alpha: float = Field(0.7, ge=0, le=1)
    """Share of the teachers' signal; 1 uses references only for error rates and prefixes."""
    ctc_weight: float = Field(0.3, ge=0, le=1)
    temperature: float = Field(1.0, gt=0)
    """Softens teachers (each, before fusing) and student alike, in the decoder part."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Of the supervised decoder part."""
    ctc_reduction: Literal["per_utterance", "per_label"] = "per_utterance"
    """`per_utterance`: mean over utterances of NLL / labels; `per_label`: NLL over all labels."""
    max_strings: int | None = Field(None, ge=1)
    """Keep only the heaviest label strings of an utterance; the dropped weight is reported."""
    empty_strings: Literal["skip", "keep"] = "skip"
    """An empty label string is skipped and the others renormalised, or trained on as all blank."""
    compatibility: Literal["none", "reference"] = "none"
    """`reference`: the formulas of the SpeechBrain TIMIT recipe, to repeat published figures."""
