"""What students ask of teachers, and what comes back.

Shapes: B utterances, U target positions (prefix + end of sentence), V vocabulary, N teachers,
S samples. numpy on the wire; a request or signal is never changed after it was made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from kd_ray import __version__
from kd_ray.config.sources import Precision
from kd_ray.config.strategies import Fusing, Strategy
from kd_ray.core.targets import FloatArray, IntArray, LabelStrings, TokenTarget, pad_labels

PROTOCOL_VERSION = 5
"""Raised whenever a request or signal changes its shape or meaning."""

Wanted = Literal["tokens", "labels", "trust", "chrf"]
"""`tokens`: decoder distributions along the prefix; `labels`: CTC label strings; `trust`: without
these two, nothing but errors and confidence, which every answer has; `chrf`: beside one of them,
1 - chrF of the decoder's argmax along the references."""

CHRF_WHOLE = 1_000_000
"""`chrf_errors` are counted in millionths: so many are a chrF of 0."""


@dataclass(frozen=True, eq=False)
class Audio:
    """Waveforms of a batch, mono 16 kHz int16, laid end to end: `samples` (S,), `lengths` (B,)."""

    samples: NDArray[np.int16]
    lengths: IntArray

    @classmethod
    def of(cls, waveforms: Sequence[NDArray[np.int16]]) -> "Audio":
        """Lay waveforms end to end."""
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        samples = np.concatenate(waveforms) if waveforms else np.zeros(0, dtype=np.int16)
        return cls(samples, lengths)

    def waveforms(self) -> list[NDArray[np.int16]]:
        """The waveforms, as views into `samples`."""
        return np.split(self.samples, np.cumsum(self.lengths)[:-1])


@dataclass(frozen=True, eq=False)
class Labels:
    """Token strings without begin and end symbols: `ids` (B, L) padded, `lengths` (B,)."""

    ids: IntArray
    lengths: IntArray

    @classmethod
    def of(cls, strings: Sequence[Sequence[int] | IntArray]) -> "Labels":
        """Pad strings into one array."""
        return cls(*pad_labels(strings))

    def strings(self) -> list[IntArray]:
        """The strings, cut to their lengths."""
        return [row[:length] for row, length in zip(self.ids, self.lengths, strict=True)]


@dataclass(frozen=True, eq=False)
class Masks:
    """What of each utterance is masked, whatever the front end; M and N masks of B utterances.

    `times_s` (B, M, 2): from and to, in seconds of the audio. `mels` (B, N, 2): from and to, as
    fractions of the mel axis, low to high. Where from is to, nothing is masked.
    """

    times_s: NDArray[np.float64]
    mels: NDArray[np.float64]

    def take(self, rows: Sequence[int] | IntArray | slice) -> "Masks":
        """Those of some of the utterances."""
        places = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return Masks(self.times_s[places], self.mels[places])


@dataclass(frozen=True)
class View:
    """Which augmentation of the audio is meant; teachers cache and answer by it.

    The audio that a request carries is that of the view. `masks` come on top, on features: each
    teacher that hears masks its own, after its own normalising. Text is never masked.
    """

    name: str = "clean"
    seed: int = 0
    masks: Masks | None = None

    @property
    def is_clean(self) -> bool:
        """Whether it is the audio as it is, and nothing of it hidden."""
        return self.name == "clean" and self.masks is None

    def take(self, rows: Sequence[int]) -> "View":
        """The view of some of the utterances."""
        return self if self.masks is None else replace(self, masks=self.masks.take(rows))


@dataclass(frozen=True)
class Fusion:
    """How several teachers' outputs become one target."""

    strategy: Strategy
    temperature: float = 1.0
    """Applied to each teacher's decoder distribution before fusing."""
    compatibility: Literal["none", "reference"] = "none"
    max_strings: int | None = None
    dtype: Literal["float32", "float16"] = "float32"
    """To which teachers' log-probabilities are rounded, at temperature 1, before fusing."""
    fusing: Fusing = "mixture"
    """Of decoder distributions; label strings are merged by their weights either way."""
    top_k: int | None = None
    """Of the fused distribution, only the k likeliest tokens of each position and the mass of the
    rest are sent; None, or at least the vocabulary's size: all tokens."""

    def __post_init__(self) -> None:
        if self.top_k is None:
            return
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.fusing == "geometric":
            raise ValueError(
                f"top_k {self.top_k} with fusing 'geometric': the reverse KL needs the teachers' "
                "probability of every token; leave out one of the two"
            )

    def position_bytes(self, vocabulary_size: int) -> int:
        """Bytes of a fused distribution at one position: k ids and log-probabilities and a tail."""
        if self.top_k is None or self.top_k >= vocabulary_size:
            return 4 * vocabulary_size
        return 8 * self.top_k + 4


Answer_co = TypeVar("Answer_co", covariant=True)
Answer = TypeVar("Answer")


class Request(Generic[Answer_co]):
    """What every request says; the type of its answer is its own (`Score`, `Generate`)."""

    utterance_ids: tuple[str, ...]
    audio: Audio
    texts: tuple[str, ...] | None
    view: View
    deadline_s: float
    priority: int


@dataclass(frozen=True, eq=False)
class Score(Request["Signal"]):
    """Teacher-forced scoring of a batch.

    The decoder reads begin-of-sentence + `prefix` and is scored at U = prefix length + 1
    positions. Without a prefix, the references are the prefix. Error rates need `references`.
    """

    utterance_ids: tuple[str, ...]
    audio: Audio
    """What speech teachers hear; empty where all teachers read text."""
    references: Labels | None
    fusion: Fusion
    prefix: Labels | None = None
    texts: tuple[str, ...] | None = None
    """What text teachers read (a transcript, say), one for each utterance."""
    wanted: frozenset[Wanted] = frozenset({"tokens", "labels"})
    per_teacher: bool = False
    """Also send each teacher's own output back (inspection; costs bytes)."""
    view: View = View()
    deadline_s: float = 60.0
    priority: int = 0

    def decoder_prefix(self) -> Labels:
        """What the decoder reads, without the begin symbol."""
        prefix = self.prefix if self.prefix is not None else self.references
        if prefix is None:
            raise ValueError("a Score request needs a prefix or references for the decoder to read")
        return prefix


@dataclass(frozen=True)
class Writing:
    """How teachers write; requests that agree in it may share a pass.

    A string has at most `min(max_length, max_length_ratio * encoder positions)` tokens, rounded up,
    end symbol not counted; a forced prefix is written even beyond that.
    """

    beam_size: int = 1
    """1: the likeliest token at each step."""
    length_penalty: float = 1.0
    """Of a beam: a hypothesis of n tokens scores log-probability / n^penalty."""
    max_length: int = 200
    max_length_ratio: float | None = None
    """Tokens for each position of the row's own encoder output; None: no such limit."""

    def __post_init__(self) -> None:
        if self.beam_size < 1 or self.max_length < 1:
            raise ValueError(
                f"beam_size and max_length must be at least 1, got {self.beam_size} and "
                f"{self.max_length}"
            )
        if self.max_length_ratio is not None and self.max_length_ratio <= 0:
            raise ValueError(f"max_length_ratio must be above 0, got {self.max_length_ratio}")


@dataclass(frozen=True, eq=False)
class Generate(Request["Generated"]):
    """Teachers' own writing for a batch, from scratch or from a forced prefix on.

    Of several teachers the string with the highest mean log-probability is taken, for each
    utterance by itself, or that of the named teacher.
    """

    utterance_ids: tuple[str, ...]
    audio: Audio
    """What speech teachers hear; empty where all teachers read text."""
    texts: tuple[str, ...] | None = None
    """What text teachers read, one for each utterance."""
    writing: Writing = Writing()
    prefix: Labels | None = None
    """What each string must begin with, without begin symbol."""
    teacher: int | None = None
    """Ask this teacher alone; None: all of them."""
    per_teacher: bool = False
    """Also send each teacher's own strings back."""
    view: View = View()
    deadline_s: float = 60.0
    priority: int = 0


@dataclass(frozen=True, eq=False)
class TeacherOutput:
    """What one teacher says to a batch, at temperature 1, before any strategy.

    `log_probs` (B, U, V) float32 or None if not wanted, valid up to `positions` (B,).
    `strings`: B collapsed best CTC paths (int arrays), from `frames` (B,) encoder frames.
    `ctc_errors`, `decoder_errors` (B,): substitutions + insertions + deletions against the
    reference of CTC greedy decoding and of the decoder's argmax along the prefix (cut at the first
    end symbol); -1 without a reference. `reference_lengths` (B,), -1 without a reference.
    `confidence` (B,): mean log-probability of the decoder's argmax token.
    `chrf_errors` (B,): 1 - chrF of the text of that argmax (cut likewise) against the reference's,
    in millionths; -1 where `decoder_errors` is; None if not wanted.
    """

    teacher: int
    log_probs: FloatArray | None
    positions: IntArray
    strings: tuple[IntArray, ...]
    frames: IntArray
    ctc_errors: IntArray
    decoder_errors: IntArray
    reference_lengths: IntArray
    confidence: FloatArray
    chrf_errors: IntArray | None = None


@dataclass(frozen=True, eq=False)
class Signal:
    """The teachers' answer, fused: what a criterion turns into a loss.

    `weights_tokens`, `weights_labels` (N, B) are the weights that were used (0 for a teacher that
    did not answer); `ctc_errors`, `decoder_errors` (N, B) and `reference_lengths` (B,) as in
    `TeacherOutput` (-1 where unknown), and so `chrf_errors` (N, B), None if not wanted.
    """

    utterance_ids: tuple[str, ...]
    tokens: TokenTarget | None
    labels: LabelStrings | None
    weights_tokens: FloatArray
    weights_labels: FloatArray
    ctc_errors: IntArray
    decoder_errors: IntArray
    reference_lengths: IntArray
    answered: tuple[int, ...]
    """Indices of the teachers that the target is made of."""
    num_teachers: int
    teacher_s: float = 0.0
    """Seconds of teacher computation behind this signal, summed over teachers."""
    fusing: Fusing = "mixture"
    """What `tokens` is over several teachers."""
    outputs: tuple[TeacherOutput, ...] = ()
    """Per-teacher outputs, only where the request asked for them."""
    chrf_errors: IntArray | None = None


@dataclass(frozen=True, eq=False)
class Written:
    """Strings of one teacher for a batch, or the best ones of several.

    `strings`: without begin and end symbols, a forced prefix included. `mean_log_probs` (B,): of
    the tokens behind the forced prefix and the end symbol, under the teacher that wrote them.
    `teachers` (B,): who that is.
    """

    strings: Labels
    mean_log_probs: FloatArray
    teachers: IntArray


@dataclass(frozen=True, eq=False)
class Generated:
    """The teachers' answer to `Generate`."""

    utterance_ids: tuple[str, ...]
    best: Written
    """One string for each utterance."""
    answered: tuple[int, ...]
    """Indices of the teachers that wrote."""
    teacher_s: float = 0.0
    """Seconds of teacher computation behind this answer, summed over teachers."""
    outputs: tuple[Written, ...] = ()
    """Each teacher's own strings, only where the request asked for them."""


class Busy(RuntimeError):
    """The source holds its byte budget in flight; collect a pending signal first."""


class PendingSignal(Protocol[Answer_co]):
    """A signal, or another answer, that is on its way."""

    def result(self, timeout_s: float) -> Answer_co:
        """Wait for it; `TeachersGone` or `TimeoutError` if it cannot be had."""
        ...

    def cancel(self) -> None:
        """Give the answer up."""
        ...


@dataclass(frozen=True)
class TeacherInfo:
    """Who a teacher is and what its numbers mean."""

    index: int
    name: str
    folder: str
    digest: str
    tokens_digest: str
    vocabulary_size: int
    blank: int
    bos: int
    eos: int
    front_end_digest: str
    """Of what it reads: features, or the source tokens of a text teacher."""
    frame_rate_hz: float
    """Encoder frames in a second; 0 for a teacher that reads text."""
    parameters: int
    reads: Literal["speech", "text"] = "speech"
    has_ctc: bool = True
    precision: Precision = "float32"
    """In which it computes."""

    @property
    def answers_digest(self) -> str:
        """Names what it says, which in another precision are other numbers."""
        return self.digest if self.precision == "float32" else f"{self.digest}-{self.precision}"


@dataclass(frozen=True)
class TeachersInfo:
    """What a source offers."""

    teachers: tuple[TeacherInfo, ...]
    source: Literal["local", "store", "pool"]
    protocol: int = PROTOCOL_VERSION
    package: str = __version__
    recognizer: TeacherInfo | None = None
    """Who transcribes for text teachers where requests carry no texts; its index means nothing."""


class TeacherSource(Protocol):
    """Where teacher signals come from; the loop cannot tell the kinds apart."""

    def ask(self, request: Request[Answer]) -> PendingSignal[Answer]:
        """Ask; returns at once, never blocks. `Busy` when over the byte budget."""
        ...

    def describe(self) -> TeachersInfo:
        """Who answers."""
        ...

    def close(self) -> None:
        """Release what the source holds."""
        ...


class TeachersGone(RuntimeError):
    """Fewer teachers answered than the quorum asks for."""


class Reporter(Protocol):
    """Where the loop's figures and events go."""

    def metrics(self, values: Mapping[str, Any]) -> None:
        """One line of figures."""
        ...

    def event(self, kind: str, **details: Any) -> None:
        """A fault or a decision."""
        ...
