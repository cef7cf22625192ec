"""A load on a source of teachers, every answer of which is compared with the local result.

The local result over any of the teachers is fused from what each of them says alone, so that an
answer that lacks some teachers is checked against exactly those that it names.
"""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Literal, NamedTuple, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from kd_ray.core.contracts import (
    Answer,
    Busy,
    Generate,
    Generated,
    PendingSignal,
    Request,
    Score,
    Signal,
    TeachersGone,
    TeacherSource,
)
from kd_ray.teachers.answers import Call, fuse
from kd_ray.teachers.concluding import Done, conclude
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.residents import ScoringTeacher
from kd_ray.teachers.rows import Output

KEPT_PROBLEMS = 20
"""Texts of problems that a tally keeps; all are counted."""
_LONGEST_WAIT_S = 180.0
_BUSY_S = 0.01


class Question(Generic[Answer]):
    """A request, and what each of the teachers says to it by itself.

    Args:
        request: `Score` or `Generate`.
        outputs: of all teachers, in order.
    """

    def __init__(self, request: Score | Generate, outputs: Sequence[Output]) -> None:
        self.request = request
        self._outputs = tuple(outputs)
        self._expected: dict[tuple[int, ...], Signal | Generated] = {}

    @property
    def num_teachers(self) -> int:
        """Who could answer."""
        return len(self._outputs)

    def expected(self, answered: Sequence[int]) -> Signal | Generated:
        """The local result over these teachers."""
        key = tuple(answered)
        if key not in self._expected:
            answer = conclude(
                self.request,
                Call(),
                {index: index for index in key},
                {index: Done(self._outputs[index], 0.0) for index in key},
                num_teachers=self.num_teachers,
                quarantined={},
            )
            whole: Any = fuse(cast(Request[Any], self.request), [answer])
            self._expected[key] = whole
        return self._expected[key]

    def fault_of(self, answer: Signal | Generated) -> str | None:
        """How an answer differs from the local result over the teachers that it names."""
        answered = answer.answered
        if len(set(answered)) < len(answered) or not answered:
            return f"answered by teachers {answered}"
        return difference(answer, self.expected(sorted(answered)))


def ask_locally(
    requests: Sequence[Score | Generate], teachers: Sequence[ScoringTeacher]
) -> list[Question[Any]]:
    """What teachers in this process say to each request."""
    source = LocalSource(teachers, quorum=1.0)
    try:
        questions = []
        for request in requests:
            asked = cast(Request[Any], dataclasses.replace(request, per_teacher=True))
            questions.append(Question[Any](request, source.ask(asked).result(600.0).outputs))
        return questions
    finally:
        source.close()


def difference(mine: Signal | Generated, expected: Signal | Generated) -> str | None:
    """The first thing in which two answers differ; None: they are the same.

    Probabilities within 1e-5, weights within 1e-4 (an exponential of error rates), mean
    log-probabilities within 1e-4; everything that is counted or chosen exactly.
    """
    pairs: list[tuple[str, Any, Any, float]] = [
        ("utterance_ids", mine.utterance_ids, expected.utterance_ids, 0.0),
        ("answered", sorted(mine.answered), sorted(expected.answered), 0.0),
    ]
    if isinstance(mine, Signal) and isinstance(expected, Signal):
        pairs += _signal_pairs(mine, expected)
    elif isinstance(mine, Generated) and isinstance(expected, Generated):
        one, other = mine.best, expected.best
        pairs += [
            ("strings", one.strings.ids, other.strings.ids, 0.0),
            ("lengths", one.strings.lengths, other.strings.lengths, 0.0),
            ("teachers", one.teachers, other.teachers, 0.0),
            ("mean_log_probs", one.mean_log_probs, other.mean_log_probs, 1e-4),
        ]
    else:
        return f"a {type(mine).__name__} instead of a {type(expected).__name__}"
    for name, one, other, tolerance in pairs:
        problem = _unequal(one, other, tolerance)
        if problem is not None:
            return f"{name}: {problem}"
    return None


def _signal_pairs(mine: Signal, expected: Signal) -> list[tuple[str, Any, Any, float]]:
    pairs: list[tuple[str, Any, Any, float]] = [
        ("weights_tokens", mine.weights_tokens, expected.weights_tokens, 1e-4),
        ("weights_labels", mine.weights_labels, expected.weights_labels, 1e-4),
        ("ctc_errors", mine.ctc_errors, expected.ctc_errors, 0.0),
        ("decoder_errors", mine.decoder_errors, expected.decoder_errors, 0.0),
        ("reference_lengths", mine.reference_lengths, expected.reference_lengths, 0.0),
    ]
    if mine.tokens is not None and expected.tokens is not None:
        one, other = np.exp(mine.tokens.log_probs), np.exp(expected.tokens.log_probs)
        pairs += [
            ("token lengths", mine.tokens.lengths, expected.tokens.lengths, 0.0),
            ("probabilities", one, other, 1e-5),
        ]
    if mine.labels is not None and expected.labels is not None:
        pairs += [
            ("labels", mine.labels.labels, expected.labels.labels, 0.0),
            ("utterances of labels", mine.labels.utterance, expected.labels.utterance, 0.0),
            ("weights of labels", mine.labels.weights, expected.labels.weights, 1e-4),
        ]
    given = [("tokens", mine.tokens, expected.tokens), ("labels", mine.labels, expected.labels)]
    return [
        *((f"{name} given", a is None, b is None, 0.0) for name, a, b in given),
        ("fusing", mine.fusing, expected.fusing, 0.0),
        *pairs,
    ]


def _unequal(one: ArrayLike, other: ArrayLike, tolerance: float) -> str | None:
    first, second = np.asarray(one), np.asarray(other)
    if first.shape != second.shape:
        return f"shape {first.shape}, expected {second.shape}"
    if not tolerance or first.dtype.kind not in "fiu":
        same = first == second
        return None if same.all() else f"{first[~same][:4]}, expected {second[~same][:4]}"
    close = np.isclose(first, second, rtol=0.0, atol=tolerance, equal_nan=True)
    if close.all():
        return None
    apart = np.abs(first - second)[~close].max()
    return f"{int((~close).sum())} values apart by up to {apart:.2g}, allowed is {tolerance:g}"


@dataclass
class Tally:
    """What became of the requests of a load."""

    asked: int = 0
    right: int = 0
    """Answers that are the local result, those below included."""
    shortened: int = 0
    """Right answers that lack teachers."""
    gone: int = 0
    """Fewer teachers than the quorum answered."""
    lost: int = 0
    """Neither an answer nor a word about missing teachers."""
    wrong: int = 0
    problems: list[str] = field(default_factory=list)
    """Texts of the first that were lost or wrong."""
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    longest_gap_s: float = 0.0
    """In which no answer came, though one was due."""

    def note(self, problem: str) -> None:
        """Keep the text of a problem, if there are few."""
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(problem)

    @property
    def sound(self) -> bool:
        """Every request has its answer, or was told why not, and none is wrong."""
        return not self.lost and not self.wrong and self.asked == self.right + self.gone

    def plain(self) -> Mapping[str, Any]:
        """For JSON."""
        waits = sorted(self.latencies_s) or [0.0]
        quantiles = {f"p{q}_s": waits[min(len(waits) - 1, len(waits) * q // 100)] for q in _SHOWN}
        counts = dataclasses.asdict(self)
        del counts["latencies_s"]
        return {**counts, **quantiles, "longest_s": waits[-1]}


_SHOWN = (50, 95, 99)


class _Problem(NamedTuple):
    """Why an answer is not right."""

    kind: Literal["gone", "lost", "wrong"]
    text: str


class Load:
    """Asks a source from threads, one for each request in flight, and checks every answer.

    As a context: asks until it is left, and then waits for what is due.

    Args:
        source: is asked; stays open.
        questions: are asked in turn, again and again.
        in_flight: requests at a time, at most.
        per_s: requests in a second, at most; None: as many as are answered.
        tally: of the load before, to go on with.
    """

    def __init__(
        self,
        source: TeacherSource,
        questions: Sequence[Question[Any]],
        *,
        in_flight: int = 4,
        per_s: float | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self._source = source
        self._questions = questions
        self._pause_s = 0.0 if per_s is None else 1 / per_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._next_s = self._last_s = time.monotonic()
        self._threads = [
            threading.Thread(target=self._run, name=f"load-{number}", daemon=True)
            for number in range(in_flight)
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more, and wait for the answers that are due."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._turn_s()):
            with self._lock:
                question = self._questions[self.tally.asked % len(self._questions)]
                self.tally.asked += 1
            since_s = time.monotonic()
            problem, answer = self._ask(question)
            with self._lock:
                self._count(question, problem, answer, since_s)

    def _turn_s(self) -> float:
        """How long until this thread may ask."""
        with self._lock:
            now = time.monotonic()
            at_s = max(self._next_s, now)
            self._next_s = at_s + self._pause_s
            return at_s - now

    def _ask(self, question: Question[Any]) -> tuple[_Problem | None, Any]:
        """What is wrong with the answer, if there is one, and the answer."""
        try:
            answer = self._sent(question).result(_LONGEST_WAIT_S)
            fault = question.fault_of(answer)
        except TeachersGone as error:
            return _Problem("gone", str(error)), None
        except Exception as error:
            # Whatever it is: the load goes on, and this one is told.
            return _Problem("lost", f"{type(error).__name__}: {error}"), None
        return None if fault is None else _Problem("wrong", fault), answer

    def _sent(self, question: Question[Any]) -> PendingSignal[Any]:
        """Asked, as soon as the source has room for it."""
        while True:
            try:
                return self._source.ask(question.request)
            except Busy:
                time.sleep(_BUSY_S)

    def _count(
        self, question: Question[Any], problem: _Problem | None, answer: Any, since_s: float
    ) -> None:
        tally, now = self.tally, time.monotonic()
        tally.longest_gap_s = max(tally.longest_gap_s, now - max(self._last_s, since_s))
        self._last_s = now
        if problem is not None:
            match problem.kind:
                case "gone":
                    tally.gone += 1
                    return
                case "lost":
                    tally.lost += 1
                case "wrong":
                    tally.wrong += 1
            tally.note(f"{question.request.utterance_ids[0]}: {problem.text}")
            return
        tally.latencies_s.append(now - since_s)
        tally.right += 1
        tally.shortened += len(answer.answered) < question.num_teachers
