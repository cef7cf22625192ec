"""The quality gate: is a rollout good enough beside what the teachers themselves write?

Shapes: B utterances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kd_ray.config.imitation import QualityGate
from kd_ray.core.contracts import Generated, PendingSignal, TeacherSource, Writing
from kd_ray.core.sentence_rewards import gate_scores
from kd_ray.core.targets import IntArray
from kd_ray.speech.tokens import Tokens
from kd_ray.students.data import Batch
from kd_ray.students.requests import generate_request


@dataclass
class Gate:
    """Scores rollouts against the teachers' greedy output, which is asked for once per utterance.

    Teachers and audio do not change during a run, so what they wrote is remembered by utterance id,
    by this worker, as text. A resumed run asks again.
    """

    config: QualityGate
    source: TeacherSource
    tokens: Tokens
    max_length: int
    """Most tokens of a teacher's output."""
    timeout_s: float
    texts: dict[str, str] = field(default_factory=dict)
    """What teachers wrote, detokenised, by utterance id."""

    def ask(self, batch: Batch) -> "Asked":
        """Ask for what is not known yet; the student may write its rollouts meanwhile.

        Raises:
            Busy: the source is over its byte budget.
        """
        unknown = [row for row, name in enumerate(batch.utterance_ids) if name not in self.texts]
        if not unknown:
            return Asked(self, batch.utterance_ids, None)
        request = generate_request(
            batch.take(unknown), Writing(max_length=self.max_length), self.timeout_s
        )
        return Asked(self, batch.utterance_ids, self.source.ask(request))

    def learn(self, answer: Generated) -> None:
        """Remember what teachers wrote."""
        for name, ids in zip(answer.utterance_ids, answer.best.strings.strings(), strict=True):
            self.texts[name] = self.tokens.decode(ids)


@dataclass(frozen=True)
class Asked:
    """The teachers' output for a batch, known or on its way."""

    gate: Gate
    utterance_ids: tuple[str, ...]
    pending: PendingSignal[Generated] | None

    def scores(self, rollouts: Mapping[int, IntArray | Sequence[int]]) -> dict[int, float]:
        """The score of each rollout, by row.

        Raises:
            TeachersGone: too few teachers answered.
        """
        gate = self.gate
        if self.pending is not None:
            gate.learn(self.pending.result(gate.timeout_s))
        mine = [gate.tokens.decode([int(token) for token in ids]) for ids in rollouts.values()]
        theirs = [gate.texts[self.utterance_ids[row]] for row in rollouts]
        found = gate_scores(mine, theirs, gate.config.metric)
        return dict(zip(rollouts, found.tolist(), strict=True))
