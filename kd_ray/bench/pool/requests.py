"""Requests about noise, and whether answers to them are the right ones.

Shapes: B utterances, U target positions, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np

from kd_ray.config.bench import BenchRequests
from kd_ray.config.strategies import Weighted
from kd_ray.core.contracts import Audio, Fusion, Labels, Score, Signal
from kd_ray.core.targets import TokenTarget

_SAMPLE_RATE = 16_000
_FIRST_SYMBOL = 3
"""After blank, begin and end."""
TOLERANCE = 1e-5
"""In probability; batches are the same, the order of hosts' sums is not."""


class AnswersDiffer(RuntimeError):
    """A pool said something else than the same teachers in this process."""


def make_requests(batch: BenchRequests, count: int, *, seed: int = 0) -> list[Score]:
    """Different requests of one size; the same seed gives the same ones."""
    generator = np.random.default_rng(seed)
    samples = max(1, round(batch.duration_s * _SAMPLE_RATE))
    shape = batch.utterances, batch.positions - 1
    requests = []
    for number in range(count):
        noise = generator.normal(0.0, 1500.0, (batch.utterances, samples)).astype(np.int16)
        strings = generator.integers(_FIRST_SYMBOL, batch.vocabulary_size, shape)
        requests.append(
            Score(
                utterance_ids=tuple(f"{seed}-{number}-{row}" for row in range(batch.utterances)),
                audio=Audio.of(list(noise)),
                references=Labels.of(list(strings)),
                fusion=Fusion(Weighted()),
                deadline_s=600.0,
            )
        )
    return requests


def largest_difference(mine: TokenTarget, other: TokenTarget) -> float:
    """Between two dense targets (B, U, V), in probability, over valid positions."""
    valid = np.arange(mine.log_probs.shape[1]) < mine.lengths[:, None]
    gap = np.abs(np.exp(mine.log_probs) - np.exp(other.log_probs)).max(axis=-1)
    return float(gap[valid].max(initial=0.0))


def wrong_because(mine: Signal, expected: Signal) -> str | None:
    """How an answer differs from what it must be; None: it does not."""
    if mine.utterance_ids != expected.utterance_ids:
        return "it is about other utterances"
    if sorted(mine.answered) != sorted(expected.answered):
        return f"teachers {mine.answered} answered, not {expected.answered}"
    assert mine.tokens is not None, "tokens were asked for"
    assert expected.tokens is not None, "tokens were asked for"
    gap = largest_difference(mine.tokens, expected.tokens)
    if not gap <= TOLERANCE:
        return f"its distributions differ by {gap:.2g}"
    return None


def check_answers(pairs: Sequence[tuple[Signal, Signal]]) -> None:
    """Refuse answers that are not what they must be.

    Args:
        pairs: an answer, and what it must be.

    Raises:
        AnswersDiffer: saying how.
    """
    for mine, expected in pairs:
        reason = wrong_because(mine, expected)
        if reason is not None:
            raise AnswersDiffer(f"the pool's answer about {expected.utterance_ids[0]}: {reason}")
