"""How good single sentences are, from 0 to 1: what gates and rewards are made of.

Shapes: U sentences.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kd_ray.core.translation_scores import sentence_scores, sentence_statistics

RewardMetric = Literal["bleu", "chrf", "ter"]
GATE_WEIGHTS = (0.1, 0.4, 0.5)
"""Of 1-, 2- and 3-grams, where a rollout is compared with a teacher's output (Hubert, Sokolov &
Riezler 2023)."""
_ORDERS = 4
"""That `sentence_statistics` counts for BLEU."""


def sentence_rewards(
    hypotheses: Sequence[str], references: Sequence[str], metric: RewardMetric
) -> NDArray[np.float64]:
    """(U,) sentence BLEU (exponential smoothing), chrF, or 1 - TER but at least 0.

    Two empty sentences are equal: 1.

    Raises:
        ValueError: if there are not as many hypotheses as references.
    """
    percent = sentence_scores(sentence_statistics(hypotheses, references, metric), metric)
    found = (100.0 - percent if metric == "ter" else percent) / 100.0
    return _with_empty_ones(np.clip(found, 0.0, 1.0), hypotheses, references)


def gate_scores(
    hypotheses: Sequence[str], references: Sequence[str], metric: RewardMetric
) -> NDArray[np.float64]:
    """(U,) as `sentence_rewards`, with BLEU of `GATE_WEIGHTS`.

    That BLEU is `brevity penalty * prod_n precision_n ^ weight_n`, without smoothing: 0 where an
    order has no match. Orders that are longer than the hypothesis are left out, and the weights of
    the others divided by their sum.
    """
    if metric != "bleu":
        return sentence_rewards(hypotheses, references, metric)
    counts = sentence_statistics(hypotheses, references, "bleu")
    found = np.array([_weighted_bleu(row) for row in counts], dtype=np.float64)
    return _with_empty_ones(found, hypotheses, references)


def _weighted_bleu(counts: NDArray[np.float64]) -> float:
    """Of one sentence: counts are lengths of hypothesis and reference, matches, n-grams."""
    hypothesis, reference = counts[:2]
    orders = len(GATE_WEIGHTS)
    matches, ngrams = counts[2 : 2 + orders], counts[2 + _ORDERS : 2 + _ORDERS + orders]
    there = ngrams > 0
    if not there.any() or (matches[there] == 0).any():
        return 0.0
    weights = np.array(GATE_WEIGHTS)[there]
    log_precision = (weights / weights.sum() * np.log(matches[there] / ngrams[there])).sum()
    return float(np.exp(min(0.0, 1.0 - reference / hypothesis) + log_precision))


def _with_empty_ones(
    found: NDArray[np.float64], hypotheses: Sequence[str], references: Sequence[str]
) -> NDArray[np.float64]:
    both = [
        not mine.strip() and not theirs.strip()
        for mine, theirs in zip(hypotheses, references, strict=True)
    ]
    return np.where(both, 1.0, found)
