"""From hosts' answers to one signal: fusing them, judging the quorum, keeping count of losses."""

import functools
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from kd_ray.core import strategies
from kd_ray.core.contracts import (
    Answer,
    Generate,
    Generated,
    Request,
    Score,
    Signal,
    TeacherInfo,
    TeacherOutput,
    TeachersGone,
    Written,
)
from kd_ray.core.costs import SourceCosts
from kd_ray.core.trust import trusts_chrf
from kd_ray.core.written import best_of
from kd_ray.teachers.policies import GiveUp, Proceed, judge_alone, judge_quorum

logger = logging.getLogger(__name__)


class OnEvent(Protocol):
    """Where faults and decisions are written down."""

    def __call__(self, kind: str, /, **details: Any) -> None:
        """One event."""
        ...


@dataclass(frozen=True, eq=False)
class HostAnswer:
    """What one host says to a request.

    `partial` is fused over the host's own teachers (`Score`), or holds the best of their strings
    (`Generate`), and is None if none of them could answer;
    `quarantined` are the asked teachers that are no longer asked, with the reason; `failed` those
    that could not answer this request alone; `halved` those that answered it by halves, as memory
    was full.
    `teacher_s` is seconds of teacher computation, a shared pass counted by share of utterances.
    """

    partial: strategies.Partial | Written | None
    answered: tuple[int, ...]
    quarantined: Mapping[int, str]
    teacher_s: float
    failed: Mapping[int, str] = field(default_factory=dict)
    halved: Mapping[int, str] = field(default_factory=dict)
    outputs: tuple[TeacherOutput | Written, ...] = ()
    fused: strategies.FusedTargets | None = None
    """In place of `partial`, where the host was asked to finish and could."""
    known_rows: int = 0
    """Utterances, of each teacher, that the host's cache answered."""
    loads: float = 0.0
    """Teachers that were loaded for it, a shared pass counted by share of utterances."""


@dataclass(frozen=True)
class Call:
    """What travels beside a request: which of its teachers a host is to ask, and for whom.

    `teachers` are indices in the pool (None: all that live on the host), `numbers` what the asking
    job calls them (None: the same), `num_teachers` how many the job has (None: as the pool).
    With `finish` the host makes the target itself, if all these teachers answered.
    """

    teachers: tuple[int, ...] | None = None
    numbers: tuple[int, ...] | None = None
    num_teachers: int | None = None
    job: str = ""
    weight: float = 1.0
    """The job's share where hosts are busy, against 1 of others."""
    finish: bool = False
    data: str = ""
    """Digest of the data that utterance ids are of, for hosts with a target store; empty: no
    rows of a store are meant."""


def check_request(request: Request[Any], num_teachers: int) -> None:
    """Refuse a request whose parts do not belong together, before it costs anything."""
    assert isinstance(request, Score | Generate), "requests are Score or Generate"
    rows = len(request.utterance_ids)
    if rows == 0:
        raise ValueError("a request must name at least one utterance")
    parts = {}
    # Text teachers hear nothing, label strings alone need no text.
    if len(request.audio.lengths) or request.texts is None:
        parts["audio"] = len(request.audio.lengths)
    if request.texts is not None:
        parts["texts"] = len(request.texts)
    if request.prefix is not None:
        parts["prefix"] = len(request.prefix.lengths)
    if isinstance(request, Score) and request.references is not None:
        parts["references"] = len(request.references.lengths)
    if request.view.masks is not None:
        parts["view.masks.times_s"] = len(request.view.masks.times_s)
        parts["view.masks.mels"] = len(request.view.masks.mels)
    for name, count in parts.items():
        if count != rows:
            raise ValueError(f"request names {rows} utterances but {name} has {count}")
    if int(request.audio.lengths.sum()) != len(request.audio.samples):
        raise ValueError(
            f"audio lengths add up to {int(request.audio.lengths.sum())} samples, "
            f"but {len(request.audio.samples)} were sent"
        )
    if isinstance(request, Generate):
        if request.teacher is not None and not 0 <= request.teacher < num_teachers:
            raise ValueError(
                f"request.teacher is {request.teacher}, and there are {num_teachers} teachers, "
                "counted from 0"
            )
        return
    if not request.wanted & {"tokens", "labels", "trust"}:
        raise ValueError(
            "request.wanted is empty, or holds 'chrf' alone; ask for 'tokens', 'labels' or both, "
            "or for 'trust'"
        )
    if trusts_chrf(request.fusion) and "chrf" not in request.wanted:
        raise ValueError(
            "request.fusion trusts teachers by 1 - chrF (trust 'teacher_forced_chrf'), and "
            "request.wanted lacks 'chrf'; add it"
        )
    if request.wanted & {"tokens", "trust"}:
        request.decoder_prefix()


def fuse(
    request: Request[Answer],
    answers: Sequence[HostAnswer],
    fused: strategies.FusedTargets | None = None,
) -> Answer:
    """One answer from those of the hosts, merged in the order given (so sums repeat).

    `fused`: what the answers' partials make, where hosts have merged them already.
    """
    if isinstance(request, Generate):
        return cast(Answer, _best(request, answers))
    assert isinstance(request, Score), "requests are Score or Generate"
    return cast(Answer, _signal(request, answers, fused))


def _best(request: Generate, answers: Sequence[HostAnswer]) -> Generated:
    outputs = [each for answer in answers for each in answer.outputs if isinstance(each, Written)]
    return Generated(
        utterance_ids=request.utterance_ids,
        best=best_of([a.partial for a in answers if isinstance(a.partial, Written)]),
        answered=tuple(sorted(index for answer in answers for index in answer.answered)),
        teacher_s=sum(answer.teacher_s for answer in answers),
        outputs=tuple(sorted(outputs, key=lambda output: int(output.teachers[0]))),
    )


def merge_partials(partials: Sequence[strategies.Partial]) -> strategies.Partial:
    """One partial of several, merged in the order given."""
    return functools.reduce(strategies.merge, partials)


def _signal(
    request: Score, answers: Sequence[HostAnswer], fused: strategies.FusedTargets | None
) -> Signal:
    if fused is None:
        partials = [a.partial for a in answers if isinstance(a.partial, strategies.Partial)]
        fused = strategies.finish(merge_partials(partials))
    outputs = [o for answer in answers for o in answer.outputs if isinstance(o, TeacherOutput)]
    return fused.signal(
        request.utterance_ids,
        teacher_s=sum(answer.teacher_s for answer in answers),
        outputs=tuple(sorted(outputs, key=lambda output: output.teacher)),
    )


def asked_alone(request: Request[Answer]) -> int | None:
    """The one teacher that a request asks; None: all."""
    return request.teacher if isinstance(request, Generate) else None


class Ledger:
    """Counts requests and losses of one source, and tells of each change once.

    Args:
        teachers: everyone who could answer, by index.
        quorum: smallest share of them that must.
        on_event: gets `teacher_quarantined`, `teacher_failed`, `teacher_memory_full`,
            `teacher_host_left_out`, `teacher_host_back`, `teachers_asked_elsewhere`,
            `teacher_replaced`, `teacher_removed`, `signal_shortened`, `signal_whole_again`,
            `teachers_gone`.
    """

    def __init__(
        self, teachers: Sequence[TeacherInfo], quorum: float, on_event: OnEvent | None = None
    ) -> None:
        self.teachers = tuple(teachers)
        self.quorum = quorum
        self.counts: Counter[str] = Counter()
        """`requests`, `signals`, `shortened_signals`, `hosts_left_out`, `hosts_back`, `retries`,
        `teachers_quarantined`, `teacher_failures`, `halved_passes`, `teachers_replaced`,
        `teachers_removed`, `teachers_gone`, `busy`, `cancelled`."""
        self.costs = SourceCosts()
        """Of the answers, without bytes."""
        self._on_event = on_event
        self._lost: dict[int, str] = {}
        self._quarantined: dict[int, str] = {}
        self._failing: dict[int, str] = {}
        self._halved: set[int] = set()
        self._last_missing: tuple[int, ...] = ()
        self._lock = threading.Lock()

    def host_left_out(self, host: str, teachers: Sequence[int], reason: str) -> None:
        """A host is not asked any more, or not until it is back."""
        with self._lock:
            self.counts["hosts_left_out"] += 1
            self._lost.update(dict.fromkeys(teachers, f"{host}: {reason}"))
        names = self.names(teachers)
        logger.warning("host %s left out with teachers %s: %s", host, ", ".join(names), reason)
        self._tell("teacher_host_left_out", host=host, teachers=names, reason=reason)

    def host_back(
        self, host: str, teachers: Sequence[int], reason: str, *, fresh: bool = False
    ) -> None:
        """A host that was left out is asked again; `fresh`: what it had quarantined, too."""
        with self._lock:
            self.counts["hosts_back"] += 1
            for index in teachers:
                self._lost.pop(index, None)
                if fresh:
                    self._quarantined.pop(index, None)
        names = self.names(teachers)
        logger.warning("host %s is back with teachers %s: %s", host, ", ".join(names), reason)
        self._tell("teacher_host_back", host=host, teachers=names, reason=reason)

    def retried(self, host: str, teachers: Sequence[int], reason: str) -> None:
        """Teachers that did not answer are asked on another host."""
        with self._lock:
            self.counts["retries"] += 1
        names = self.names(teachers)
        logger.info("teachers %s of host %s asked elsewhere: %s", ", ".join(names), host, reason)
        self._tell("teachers_asked_elsewhere", host=host, teachers=names, reason=reason)

    def replaced(self, index: int, info: TeacherInfo) -> None:
        """Another teacher has the place of teacher `index` from now on."""
        with self._lock:
            before = self.teachers[index]
            self.teachers = (*self.teachers[:index], info, *self.teachers[index + 1 :])
            for reasons in (self._lost, self._quarantined, self._failing):
                reasons.pop(index, None)
            self.counts["teachers_replaced"] += 1
        logger.warning(
            "teacher %s (%s) is replaced by %s (%s)",
            before.name, before.answers_digest, info.name, info.answers_digest,
        )  # fmt: skip
        self._tell(
            "teacher_replaced",
            teacher=before.name, digest=before.answers_digest,
            by=info.name, by_digest=info.answers_digest,
        )  # fmt: skip

    def removed(self, index: int) -> None:
        """A teacher has left the pool; it is missing from now on."""
        with self._lock:
            self._lost[index] = "removed from the pool"
            self.counts["teachers_removed"] += 1
        name = self.teachers[index].name
        logger.warning("teacher %s was removed from the pool", name)
        self._tell("teacher_removed", teacher=name, index=index)

    def conclude(
        self,
        request: Request[Answer],
        answers: Sequence[HostAnswer],
        fused: strategies.FusedTargets | None = None,
    ) -> Answer:
        """The signal, if enough teachers are in the answers; else `TeachersGone`.

        `fused`: what the answers' partials make, where hosts have merged them already.
        """
        answered = [index for answer in answers for index in answer.answered]
        decision = self.require(answered, only=asked_alone(request))
        self._note_shortened(decision)
        signal = fuse(request, answers, fused)
        self.counts["signals"] += 1
        self._charge(len(request.utterance_ids), answers)
        return signal

    def _charge(self, utterances: int, answers: Sequence[HostAnswer]) -> None:
        cost = SourceCosts(
            requests=1,
            utterances=utterances,
            rows=utterances * sum(len(answer.answered) for answer in answers),
            known_rows=sum(answer.known_rows for answer in answers),
            teacher_s=sum(answer.teacher_s for answer in answers),
            loads=sum(answer.loads for answer in answers),
        )
        with self._lock:
            self.costs += cost

    def judge(self, answered: Sequence[int], *, only: int | None = None) -> Proceed | GiveUp:
        """Are these enough? `only`: this teacher was asked, and no other."""
        if only is None:
            return judge_quorum(answered, len(self.teachers), self.quorum)
        return judge_alone(only, answered)

    def require(self, answered: Sequence[int], *, only: int | None = None) -> Proceed:
        """Raise `TeachersGone` naming the missing ones if these are too few.

        `only`: this teacher was asked, and no other.
        """
        decision = self.judge(answered, only=only)
        if isinstance(decision, Proceed):
            return decision
        self.counts["teachers_gone"] += 1
        names = self.names(decision.missing)
        self._tell("teachers_gone", missing=names, reason=decision.reason)
        missing = "; ".join(
            f"{self.teachers[index].name} ({self._why_missing(index)})"
            for index in decision.missing
        )
        logger.warning("too few teachers: %s. Missing: %s", decision.reason, missing)
        raise TeachersGone(
            f"{decision.reason}. Missing: {missing}. Ways out: start again (it resumes from the "
            "last checkpoint), or lower teachers.source.quorum."
        )

    def receive(self, answer: HostAnswer) -> None:
        """Take note of what an answer says about its teachers."""
        for index, reason in answer.quarantined.items():
            with self._lock:
                if index in self._quarantined:
                    continue
                self._quarantined[index] = reason
                self.counts["teachers_quarantined"] += 1
            name = self.teachers[index].name
            logger.warning("teacher %s quarantined: %s", name, reason)
            self._tell("teacher_quarantined", teacher=name, index=index, reason=reason)
        with self._lock:
            # Each counts; told is the first, until the teacher has answered again.
            failing = [index for index in answer.failed if index not in self._failing]
            halved = [index for index in answer.halved if index not in self._halved]
            counted = {"teacher_failures": answer.failed, "halved_passes": answer.halved}
            self.counts.update({name: len(each) for name, each in counted.items() if each})
            for index in answer.answered:
                self._failing.pop(index, None)
            self._failing.update(answer.failed)
            self._halved.update(halved)
        for index in failing:
            name, reason = self.teachers[index].name, answer.failed[index]
            logger.warning("teacher %s did not answer a request: %s", name, reason)
            self._tell("teacher_failed", teacher=name, index=index, reason=reason)
        for index in halved:
            name, reason = self.teachers[index].name, answer.halved[index]
            logger.warning("teacher %s answers by halves: %s", name, reason)
            self._tell("teacher_memory_full", teacher=name, index=index, reason=reason)

    def _why_missing(self, index: int) -> str:
        reasons = (self._quarantined, self._lost, self._failing)
        return next((each[index] for each in reasons if index in each), "no answer")

    def _note_shortened(self, decision: Proceed) -> None:
        # Each signal counts, but a log line for every request after a loss would hide all else.
        with self._lock:
            if decision.missing:
                self.counts["shortened_signals"] += 1
            before, self._last_missing = self._last_missing, decision.missing
        if decision.missing == before:
            return
        names = self.names(decision.missing)
        if names:
            logger.warning("going on without teachers %s: %s", ", ".join(names), decision.reason)
            self._tell("signal_shortened", missing=names, reason=decision.reason)
        else:
            logger.warning("all teachers answer again: %s", decision.reason)
            self._tell("signal_whole_again", reason=decision.reason)

    def names(self, indices: Sequence[int]) -> list[str]:
        """What these teachers are called."""
        return [self.teachers[index].name for index in indices]

    def _tell(self, kind: str, **details: Any) -> None:
        if self._on_event is not None:
            self._on_event(kind, **details)
