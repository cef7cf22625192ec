"""Translation scores as counts that add up: over batches, ranks and splits.

The counts and the formulas are sacrebleu's (Post 2018); a score made from added counts is the
score of the whole corpus. One reference an utterance; texts are detokenised.

Shapes: U utterances, K counts of a metric, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import sacrebleu
from numpy.typing import NDArray

from kd_ray.config.evaluation import BleuTokenizer
from kd_ray.core.bootstrap import RESAMPLES, SEED, Comparison, compare, draws
from kd_ray.core.contracts import CHRF_WHOLE

TranslationMetric = Literal["bleu", "chrf", "chrf++", "ter"]

METRICS: tuple[TranslationMetric, ...] = get_args(TranslationMetric)
REPORTED: tuple[TranslationMetric, ...] = ("bleu", "chrf++", "ter")
"""What an evaluation shows, in order; the first one ranks."""

TITLES: Mapping[TranslationMetric, str] = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "chrf++": "chrF++",
    "ter": "TER",
}


def lower_is_better(metric: TranslationMetric) -> bool:
    """TER counts edits; the others count matches."""
    return metric == "ter"


@lru_cache
def _scorer(metric: TranslationMetric, tokenizer: BleuTokenizer, sentence: bool) -> Any:
    """Sacrebleu's metric; `sentence`: BLEU up to the longest n-gram that the sentence has."""
    if metric == "bleu":
        return sacrebleu.BLEU(tokenize=tokenizer, effective_order=sentence)
    if metric == "ter":
        return sacrebleu.TER()
    return sacrebleu.CHRF(word_order=2 if metric == "chrf++" else 0)


def sentence_statistics(
    hypotheses: Sequence[str],
    references: Sequence[str],
    metric: TranslationMetric,
    *,
    tokenizer: BleuTokenizer = "13a",
) -> NDArray[np.float64]:
    """Counts of each pair, (U, K): what `score_of` reads, one row or the sum of many.

    K is 10 for BLEU (lengths of hypothesis and reference, matches and n-grams of order 1 to 4), 18
    for chrF and 24 for chrF++ (n-grams of hypothesis, of reference, matches, by order), 2 for TER
    (edits, reference words). Whole numbers, exact in float64 up to 2**53.

    Raises:
        ValueError: if there are not as many hypotheses as references.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses but {len(references)} references")
    if not hypotheses:
        return np.zeros((0, num_counts(metric)))
    rows = _scorer(metric, tokenizer, False)._extract_corpus_statistics(
        list(hypotheses), [list(references)]
    )
    return np.asarray(rows, dtype=np.float64)


@lru_cache
def num_counts(metric: TranslationMetric) -> int:
    """K: how many counts a metric keeps."""
    return int(sentence_statistics(["a"], ["a"], metric).shape[1])


def score_of(
    counts_K: NDArray[np.float64] | Sequence[float],
    metric: TranslationMetric,
    *,
    sentence: bool = False,
) -> float:
    """The score (0 to 100, TER may be more) of added counts.

    `sentence`: BLEU over the n-gram orders that a single sentence has (sacrebleu's
    `effective_order`); the other metrics are the same for a sentence and a corpus.
    """
    # The tokenizer matters for making counts only. A copy: sacrebleu may write into them.
    scorer = _scorer(metric, "13a", sentence)
    return float(scorer._compute_score_from_stats(np.array(counts_K, dtype=np.float64)).score)


def sentence_scores(
    statistics_UK: NDArray[np.float64], metric: TranslationMetric
) -> NDArray[np.float64]:
    """The score of each utterance by itself, (U,)."""
    return np.array([score_of(row, metric, sentence=True) for row in statistics_UK])


def nearest_to_reference(
    candidates: Sequence[str], reference: str, metric: TranslationMetric = "bleu"
) -> int:
    """Index of the candidate with the best sentence score against the reference.

    The first of equals: candidates come best first from a beam. BLEU is smoothed exponentially
    over the n-gram orders that the sentence has (Chen & Cherry 2014, method 3).

    Raises:
        ValueError: no candidate at all.
    """
    if not candidates:
        raise ValueError("no candidate to choose from")
    statistics = sentence_statistics(candidates, [reference] * len(candidates), metric)
    scores = sentence_scores(statistics, metric)
    return int((-scores if lower_is_better(metric) else scores).argmax())


def signature(metric: TranslationMetric, *, tokenizer: BleuTokenizer = "13a") -> str:
    """Sacrebleu's own description of what was computed, for one reference an utterance."""
    scorer = _scorer(metric, tokenizer, False)
    # The number of references is known to sacrebleu only after it has seen some.
    scorer._extract_corpus_statistics(["a"], [["a"]])
    return str(scorer.get_signature())


@dataclass(frozen=True)
class TranslationCounts:
    """Counts of one or many sentences, by metric; `+` adds them up."""

    counts: Mapping[TranslationMetric, tuple[float, ...]] = field(default_factory=dict)
    sentences: int = 0

    def __add__(self, other: "TranslationCounts") -> "TranslationCounts":
        if not self.sentences:
            return other
        if not other.sentences:
            return self
        if set(self.counts) != set(other.counts):
            raise ValueError(
                f"counts of {sorted(self.counts)} and of {sorted(other.counts)} do not add up"
            )
        return TranslationCounts(
            {
                metric: tuple(a + b for a, b in zip(mine, other.counts[metric], strict=True))
                for metric, mine in self.counts.items()
            },
            self.sentences + other.sentences,
        )

    def score(self, metric: TranslationMetric) -> float:
        """The corpus score; of no sentence at all 0."""
        return score_of(self.counts[metric], metric) if self.sentences else 0.0

    @property
    def length_ratio(self) -> float:
        """Tokens of the hypotheses to tokens of the references, as BLEU cuts them.

        Without any reference token: 1 if there is none in the hypotheses either, else infinite.
        """
        hypothesis, reference = self.counts["bleu"][:2] if self.sentences else (0.0, 0.0)
        if not reference:
            return 1.0 if not hypothesis else float("inf")
        return hypothesis / reference


def count_translations(
    hypotheses: Sequence[str],
    references: Sequence[str],
    metrics: Sequence[TranslationMetric] = REPORTED,
    *,
    tokenizer: BleuTokenizer = "13a",
) -> TranslationCounts:
    """Counts of all sentences together.

    Raises:
        ValueError: if there are not as many hypotheses as references.
    """
    summed = {
        metric: tuple(
            sentence_statistics(hypotheses, references, metric, tokenizer=tokenizer)
            .sum(axis=0)
            .tolist()
        )
        for metric in metrics
    }
    return TranslationCounts(summed, len(hypotheses))


def chrf_errors(hypotheses: Sequence[str], references: Sequence[str]) -> NDArray[np.int64]:
    """1 - chrF of each utterance in millionths, (U,): what text teachers are trusted by.

    chrF is a ratio of counts, and is computed as one (Popovic 2015, beta 2, without smoothing):
    equal scores are equal integers on every machine, whichever n-grams they are made of. An empty
    hypothesis of an empty reference has no error.

    Raises:
        ValueError: if there are not as many hypotheses as references.
    """
    statistics = sentence_statistics(hypotheses, references, "chrf")
    return np.array(
        [
            0
            if not hypothesis.strip() and not reference.strip()
            else round(CHRF_WHOLE * (1 - _exact_chrf([int(count) for count in counts])))
            for hypothesis, reference, counts in zip(
                hypotheses, references, statistics, strict=True
            )
        ],
        dtype=np.int64,
    )


def _exact_chrf(counts: Sequence[int]) -> Fraction:
    """F2 of the mean precision and the mean recall over the orders that both texts have, in [0, 1].

    `counts`: n-grams of hypothesis, of reference, and matches, order by order.
    """
    orders = [
        (Fraction(matches, hypothesis), Fraction(matches, reference))
        for hypothesis, reference, matches in zip(
            counts[::3], counts[1::3], counts[2::3], strict=True
        )
        if hypothesis and reference
    ]
    precision = sum((each for each, _ in orders), Fraction()) / max(1, len(orders))
    recall = sum((each for _, each in orders), Fraction()) / max(1, len(orders))
    if not precision + recall:
        return Fraction()
    return 5 * precision * recall / (4 * precision + recall)


def resampled_scores(
    statistics_UK: NDArray[np.float64],
    metric: TranslationMetric,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> NDArray[np.float64]:
    """Corpus scores of R resampled sets of utterances, (R,).

    The same number of utterances, resamples and seed draw the same sets: scores of two systems
    are paired.
    """
    scores = [
        score_of(counts, metric)
        for drawn in draws(len(statistics_UK), resamples=resamples, seed=seed)
        for counts in drawn @ statistics_UK
    ]
    return np.array(scores)


def paired_bootstrap(
    statistics_UK: NDArray[np.float64],
    baseline_UK: NDArray[np.float64],
    metric: TranslationMetric,
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """A system minus a baseline, from their counts of the same utterances in the same order.

    Raises:
        ValueError: counts of different numbers of utterances, or of none.
    """
    if len(statistics_UK) != len(baseline_UK) or not len(statistics_UK):
        raise ValueError(
            f"a paired bootstrap needs the same utterances of both systems, at least one: got "
            f"{len(statistics_UK)} and {len(baseline_UK)}"
        )
    observed = score_of(statistics_UK.sum(axis=0), metric) - score_of(
        baseline_UK.sum(axis=0), metric
    )
    return compare(
        resampled_scores(statistics_UK, metric, resamples=resamples, seed=seed),
        resampled_scores(baseline_UK, metric, resamples=resamples, seed=seed),
        observed,
    )
