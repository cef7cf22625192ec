"""A paired bootstrap over utterances: how sure a score and a difference of two are.

Utterances are drawn with replacement, the same ones for every system (Bisani & Ney 2004 for error
rates; Koehn 2004 for translation). It covers the choice of test utterances only: not the training
seed, and not that speakers repeat within a split.

Shapes: U utterances, R resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 20200509
_CHUNK = 100


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of the resampled values, in percentage points."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A system minus another, on the same utterances."""

    difference: float
    """Percentage points, in the unit of the score that is compared."""
    interval: Interval
    p_value: float
    """Two-sided: `min(1, 2 (1 + n) / (R + 1))`, n the resamples on the rarer side of zero."""

    @property
    def includes_zero(self) -> bool:
        """Whether this split cannot tell the two apart."""
        return self.interval.low <= 0 <= self.interval.high


def draws(
    num_utterances: int, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Iterator[NDArray[np.float64]]:
    """How often each utterance is drawn, (<= 100, U) at a time, R rows in all.

    Chunks bound the matrix: 40 MB at 50,000 utterances.
    """
    generator = np.random.default_rng(seed)
    uniform = np.full(num_utterances, 1.0 / num_utterances)
    for start in range(0, resamples, _CHUNK):
        drawn = generator.multinomial(num_utterances, uniform, min(_CHUNK, resamples - start))
        yield drawn.astype(np.float64)


def interval_of(values_R: NDArray[np.float64]) -> Interval:
    """The middle 95 % of resampled values."""
    low, high = np.quantile(values_R, [0.025, 0.975])
    return Interval(float(low), float(high))


def compare(
    values_R: NDArray[np.float64], baseline_R: NDArray[np.float64], observed: float
) -> Comparison:
    """A system's resampled scores against the baseline's on the same resamples.

    `observed` is the difference on the utterances themselves. Two systems that score alike on
    every resample have p = 1.
    """
    differences = values_R - baseline_R
    rarer = min(int((differences >= 0).sum()), int((differences <= 0).sum()))
    p_value = min(1.0, 2.0 * (1 + rarer) / (len(differences) + 1))
    return Comparison(observed, interval_of(differences), p_value)
