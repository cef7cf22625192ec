"""Sections of commands that write a manifest anew: `transcribe` and `translate`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.data import TextColumn
from kd_ray.config.evaluation import CascadeSystem, Head
from kd_ray.config.placing import DecodingActors


class _Generate(DecodingActors):
    """A manifest in, another out, with one column written anew."""

    manifest: str
    output: str
    """The new manifest (Parquet)."""
    log: str | None = None
    """Log of a `fairseq-generate` run over the manifest's rows, in place of `system`."""
    log_lines: Literal["H", "D"] = "D"
    """Which lines of the log: `D`, detokenised, or `H`, as the model wrote them."""
    decoding: Head = "beam"
    beam_size: int = Field(5, ge=1)
    length_penalty: float = Field(1.0, ge=0)
    max_tokens: int | None = Field(None, ge=1)
    candidates: Literal["best", "nearest_to_reference"] = "best"
    """What is written of the beam: its best hypothesis, or the one that scores highest against the
    row's own text (sequence interpolation; Kim & Rush 2016)."""
    nearest_by: Literal["bleu", "chrf"] = "bleu"
    """The sentence score that says what is near; BLEU with exponential smoothing."""
    batch_size: int = Field(32, ge=1)
    keep_old_as: str | None = None
    """Further column for the old texts; null: they are dropped."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of rows that get the new text, drawn by id and `seed`; the others keep the old one."""
    seed: int = Field(1, ge=0)
    empty: Literal["leave_out", "keep"] = "leave_out"
    """Rows whose new text is empty: nothing can be learned from them."""

    @model_validator(mode="after")
    def _candidates_come_from_a_beam(self) -> Self:
        if self.candidates == "best":
            return self
        if self.log is not None or self.decoding != "beam" or self.beam_size < 2:
            raise ValueError(
                f"candidates: {self.candidates} chooses among the hypotheses of a system's beam; "
                f"got decoding {self.decoding}, beam_size {self.beam_size} and "
                f"{'no log' if self.log is None else 'a log'}; set system, decoding: beam and a "
                "beam_size of 2 or more"
            )
        return self


class TranscribeConfig(_Generate):
    """`kd-ray transcribe`: transcripts of a recogniser in place of (or beside) the gold ones."""

    command: Literal["transcribe"]
    system: str | None = None
    """Run or checkpoint folder of a recogniser that writes words."""

    @property
    def column(self) -> TextColumn:
        """What is written."""
        return "transcript"

    @model_validator(mode="after")
    def _one_writer(self) -> Self:
        if (self.system is None) == (self.log is None):
            raise ValueError("give either system or log")
        return self


class TranslateConfig(_Generate):
    """`kd-ray translate`: translations of an expert (sequence-level distillation)."""

    command: Literal["translate"]
    system: str | CascadeSystem | None = None
    """Run or checkpoint folder of a translator, or a recogniser and a translator behind it."""
    reads_column: str = "transcript"
    """What a text translator reads."""

    @property
    def column(self) -> TextColumn:
        """What is written."""
        return "translation"

    @model_validator(mode="after")
    def _one_writer(self) -> Self:
        if (self.system is None) == (self.log is None):
            raise ValueError("give either system or log")
        return self
