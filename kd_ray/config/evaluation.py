"""Sections and choices that commands about trained systems share."""

from typing import Literal

from pydantic import Field

from kd_ray.config.base import Section

Head = Literal["attention", "ctc", "beam"]
"""How a hypothesis is found: greedily by the decoder, greedily by the CTC head, by beam search."""

BleuTokenizer = Literal["13a", "intl", "char", "zh", "none"]
"""sacrebleu's tokenisers that need no further package."""

Protocol = Literal["raw", "reference"]
"""References as the manifest holds them, or after a round trip through the Moses tokeniser."""


class CascadeSystem(Section):
    """A recogniser whose transcript a text translator reads."""

    asr: str
    """Run or checkpoint folder of the recogniser."""
    mt: str
    """Run or checkpoint folder of the text translator."""
    asr_decoding: Head = "attention"
    """How the transcript is found."""


class SystemList(Section):
    """Systems that an evaluation compares; each is a checkpoint folder or a run folder."""

    teachers: str | tuple[str, ...] | None = None
    """As `teachers.list`; each teacher and their mean get a row."""
    students: dict[str, str] = Field(default_factory=dict)
    """Label in the table to run or checkpoint folder."""
    experts: dict[str, str] = Field(default_factory=dict)
    """Text translators that read the manifest's text, a group of their own: what is out of a
    speech system's reach."""
    cascades: dict[str, CascadeSystem] = Field(default_factory=dict)
    """Label to a recogniser and the translator behind it, a group of their own."""

    @property
    def empty(self) -> bool:
        """Whether no system is named."""
        return not (self.teachers or self.students or self.experts or self.cascades)
