"""Sections of commands about trained systems: scores, hypotheses, comparisons, pages."""

from typing import Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Name, Section
from kd_ray.config.data import TextColumn
from kd_ray.config.placing import DecodingActors

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


class EvaluateConfig(DecodingActors):
    """`kd-ray evaluate`: scores, sizes and speed of systems, with every hypothesis."""

    command: Literal["evaluate"]
    name: Name
    systems: SystemList
    splits: dict[str, str]
    """Split name to manifest; the last one is the one the table is sorted and plotted by."""
    tokens: str | None = None
    """Token file whose units error rates count; not with `column: translation`, whose texts are
    compared as they are read."""
    column: TextColumn = "phones"
    """What is compared: error rates of phones or transcripts, or translations (BLEU and others)."""
    reads_column: str = "transcript"
    """Manifest column that systems read which read text."""
    decoding: Head = "attention"
    """Which hypothesis the table ranks by. Error rates of both greedy hypotheses are written."""
    beam_size: int = Field(5, ge=1)
    length_penalty: float = Field(1.0, ge=0)
    """Of beam search: a hypothesis of n tokens scores log-probability / n^penalty."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest hypothesis; null: encoder frames of speech, 50 more than four times read text."""
    protocol: Protocol = "raw"
    """`reference`: references after Moses tokenising and detokenising, for published rows that were
    scored so (needs the extra `moses`)."""
    bleu_tokenizer: BleuTokenizer = "13a"
    batch_size: int = Field(32, ge=1)
    speed_utterances: int = Field(20, ge=0)
    """Utterances for the real-time factor (one thread, one at a time); 0: not measured."""
    threads: int = Field(1, ge=1)
    """torch threads of the command itself, where the real-time factor is measured too, with one."""

    @property
    def translates(self) -> bool:
        """Whether systems are compared by translation scores, not by error rates."""
        return self.column == "translation"

    @model_validator(mode="after")
    def _something_to_compare(self) -> Self:
        if self.systems.empty:
            raise ValueError("systems must name teachers, students, experts or cascades")
        if not self.splits:
            raise ValueError("splits must name at least one manifest")
        if self.translates and self.tokens is not None:
            raise ValueError(
                f"tokens: {self.tokens} has no use with column: translation, where texts are "
                "compared, not tokens; leave tokens out"
            )
        if not self.translates and self.tokens is None:
            raise ValueError(f"column: {self.column} needs tokens, whose units are counted")
        if not self.translates and self.protocol != "raw":
            raise ValueError(f"protocol: {self.protocol} is for column: translation only")
        return self


class DecodeConfig(DecodingActors):
    """`kd-ray decode`: hypotheses of one system for a manifest or for audio files."""

    command: Literal["decode"]
    system: str | CascadeSystem
    """Checkpoint folder or run folder, or a recogniser and a translator behind it."""
    manifest: str | None = None
    audio: tuple[str, ...] = ()
    """Audio files instead of a manifest."""
    reads_column: str = "transcript"
    """Manifest column that a system reads which reads text."""
    decoding: Head = "attention"
    beam_size: int = Field(5, ge=1)
    length_penalty: float = Field(1.0, ge=0)
    max_tokens: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    output: str | None = None
    """JSON lines file; null: print."""

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.manifest is None) == (not self.audio):
            raise ValueError("give either manifest or audio")
        return self


class CompareConfig(Section):
    """`kd-ray compare`: two systems of an evaluation, utterance by utterance."""

    command: Literal["compare"]
    name: Name
    """The comparison is `runs/<name>/comparison.json`, `.md` and `.html`."""
    evaluation: str
    """Run folder of `kd-ray evaluate`."""
    system: str
    """Label in the evaluation."""
    baseline: str
    """Label of what the system is compared with."""
    split: str | None = None
    """Null: the split that the evaluation ranks by."""
    metric: Literal["bleu", "chrf++", "ter", "error_rate"] | None = None
    """What utterances are sorted by; null: chrF++ of translations, else the error rate."""
    examples: int = Field(15, ge=1)
    """How many of the largest gains, and of the largest losses."""
    resamples: int = Field(1000, ge=1)
    seed: int = Field(20200509, ge=0)

    @model_validator(mode="after")
    def _two_systems(self) -> Self:
        if self.system == self.baseline:
            raise ValueError(f"system and baseline must differ, both are {self.system!r}")
        return self


class ReportConfig(Section):
    """`kd-ray report`: one page from an evaluation and the runs behind it."""

    command: Literal["report"]
    name: Name
    """The page is `runs/<name>/report.html`."""
    title: str
    evaluation: str
    """Run folder of `kd-ray evaluate`."""
    runs: dict[str, str] = Field(default_factory=dict)
    """Label (as in the evaluation) to run folder of a student."""
    teachers: str | tuple[str, ...] | None = None
    """The teachers' list: their runs are shown too."""
