"""Sections of strategies: which teacher is trusted how much, and how outputs are fused."""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Section

Trust = Literal["ctc_greedy", "teacher_forced", "teacher_forced_chrf", "confidence"]
"""What says how far a teacher is trusted on an utterance.

`ctc_greedy`: error rate of the collapsed best CTC path; `teacher_forced`: error rate of the
decoder's argmax along the reference, in tokens, and where any teacher reads text
`teacher_forced_chrf`: 1 - chrF of that argmax; `confidence`: 1 minus the geometric mean of the
decoder's largest probabilities, read as an error rate, which needs no reference.
"""


Fusing = Literal["mixture", "geometric"]
"""How several teachers' distributions become one: `sum_t w_t p_t`, or `prod_t p_t^w_t`, the
weighted mean of log-probabilities, divided by its sum."""


class TrustTable(Section):
    """Error rates of teachers on a named split: trust that does not depend on the utterance."""

    split: str = Field(min_length=1)
    """Where they were measured; not the split that is trained on."""
    measure: str = Field(min_length=1)
    """What they are, e.g. `wer`, or `1 - chrF` for text experts."""
    teachers: tuple[str, ...] = Field(min_length=1)
    """Digests of the teachers' checkpoint folders, in the order of the run's list."""
    error_percent: tuple[Annotated[float, Field(ge=0)], ...]
    """One error rate for each teacher, in percent."""

    @model_validator(mode="after")
    def _one_rate_each(self) -> Self:
        if len(self.teachers) != len(self.error_percent):
            raise ValueError(
                f"{len(self.teachers)} teachers, but {len(self.error_percent)} error rates"
            )
        twice = sorted({name for name in self.teachers if self.teachers.count(name) > 1})
        if twice:
            raise ValueError(f"teachers stand twice in the table: {', '.join(twice)}")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the table's content: which trust a target was fused with."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class _Trusting(Section):
    """Where a strategy takes its trust from."""

    trust: Trust = "ctc_greedy"
    """Not read in scope `corpus`, where the table says how it was measured."""
    scope: Literal["utterance", "batch", "corpus"] = "utterance"
    """The utterance's own trust, the mean over the request's utterances, or `table`."""
    table: TrustTable | str | None = None
    """Scope `corpus` only: the table, or the path of a JSON file that holds it."""

    @model_validator(mode="after")
    def _a_table_for_the_corpus(self) -> Self:
        if (self.scope == "corpus") != (self.table is not None):
            raise ValueError(
                f"scope {self.scope!r} with table {self.table!r}: scope 'corpus' needs a table of "
                "error rates, and the other scopes take none"
            )
        return self


class Average(Section):
    """Every teacher weighs 1/N."""

    type: Literal["average"] = "average"


class Best(_Trusting):
    """The most trusted teacher of each utterance weighs 1."""

    type: Literal["best"] = "best"
    ties: Literal["first", "average"] = "first"
    """Teachers with equally few errors: the lowest index, or equal shares."""


class Weighted(_Trusting):
    """softmax over teachers of `-scale * error rate in percentage points`."""

    type: Literal["weighted"] = "weighted"
    scale: float = Field(0.1, ge=0)


class TopM(_Trusting):
    """The m most trusted teachers of each utterance; among equals, the lower index.

    Hosts send up to m distributions instead of one: who is among the m is known only at the end.
    """

    type: Literal["top_m"] = "top_m"
    m: int = Field(ge=1)
    """With fewer teachers, all of them."""
    scale: float = Field(0.0, ge=0)
    """Weights among the m, as for `weighted`; 0: equal weights."""


class Confidence(Section):
    """Weights proportional to `exp(power * confidence)`; needs no reference.

    Confidence is the mean log-probability of the decoder's likeliest tokens along the prefix, so
    that its exponential is the geometric mean of their probabilities.
    """

    type: Literal["confidence"] = "confidence"
    power: float = Field(1.0, ge=0)


class Fixed(Section):
    """Given weights, renormalised over the teachers that answered."""

    type: Literal["fixed"] = "fixed"
    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    """One for each teacher, in the order of the list; only their proportions count."""

    @model_validator(mode="after")
    def _somebody_weighs(self) -> Self:
        if not sum(self.weights) > 0:
            raise ValueError(f"weights must not all be zero, got {self.weights}")
        return self


Strategy = Annotated[
    Average | Best | Weighted | TopM | Confidence | Fixed, Field(discriminator="type")
]
