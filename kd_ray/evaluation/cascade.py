"""Two systems, one behind the other: a text translator reads what a recogniser heard."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kd_ray.config.evaluation import CascadeSystem, Head
from kd_ray.evaluation.decode import Hypothesis, Input, Search
from kd_ray.evaluation.system import System, UnusableSystem, load_system
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Cascade:
    """A recogniser and a text translator, seen as one system that hears and writes.

    Parameters, bytes and time are the sums of the two.
    """

    asr: System
    mt: System
    asr_head: Head = "attention"
    """How the transcript is found."""

    def __post_init__(self) -> None:
        if self.asr.reads != "speech" or self.mt.reads != "text":
            raise UnusableSystem(
                "a cascade is a recogniser (asr) and a text translator (mt): "
                f"{self.asr.folder} reads {self.asr.reads}, {self.mt.folder} reads {self.mt.reads}"
            )
        self.asr.require(self.asr_head)

    @property
    def reads(self) -> Literal["speech", "text"]:
        """Speech."""
        return self.asr.reads

    @property
    def name(self) -> str:
        """Names of both."""
        return f"{self.asr.name}+{self.mt.name}"

    @property
    def tokens(self) -> Tokens:
        """What the translator writes."""
        return self.mt.tokens

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of both models and of how the transcript is found."""
        text = f"{self.asr.digest} {self.asr_head} {self.mt.digest}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def parameters(self) -> int:
        """Of both."""
        return self.asr.parameters + self.mt.parameters

    @property
    def bytes(self) -> int:
        """Of both checkpoint folders."""
        return self.asr.bytes + self.mt.bytes

    @property
    def folders(self) -> tuple[Path, ...]:
        """Recogniser's, translator's."""
        return (self.asr.folder, self.mt.folder)

    def require(self, head: Head) -> None:
        """Refuse a way of decoding that the translator does not have."""
        self.mt.require(head)

    def read_inputs(self, rows: Sequence[Utterance], root: Path) -> list[Input]:
        """Waveforms."""
        return self.asr.read_inputs(rows, root)

    def decode_inputs(
        self, inputs: Sequence[Input], utterance_ids: Sequence[str], search: Search
    ) -> list[Hypothesis]:
        """Translations of one batch, each with the transcript that it is a translation of."""
        # `max_tokens` limits the translation; the transcript has the recogniser's own limit.
        first = replace(search, heads=(self.asr_head,), max_tokens=None)
        heard = self.asr.decode_inputs(inputs, utterance_ids, first)
        transcripts = [self.asr.tokens.decode(each.by(self.asr_head)) for each in heard]
        translated = self.mt.decode_inputs(transcripts, utterance_ids, search)
        return [
            replace(hypothesis, transcript=transcript)
            for hypothesis, transcript in zip(translated, transcripts, strict=True)
        ]


AnySystem = System | Cascade


def load_any(
    place: str | CascadeSystem,
    root: Path,
    device: str = "cpu",
    *,
    reads_column: str = "transcript",
) -> AnySystem:
    """A system from its folder, or a cascade from its two."""
    if isinstance(place, CascadeSystem):
        return Cascade(
            load_system(root / place.asr, device),
            load_system(root / place.mt, device),
            place.asr_decoding,
        )
    return load_system(root / place, device, reads_column=reads_column)
