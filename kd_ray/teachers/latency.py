"""How long things took: a histogram of fixed size with bins on a log scale.

Good for percentiles over any number of measurements; histograms of several hosts can be merged.
"""

import math
from dataclasses import dataclass, field

_LOWEST_S = 1e-5
_BINS_PER_DECADE = 16
_DECADES = 9
_BINS = _BINS_PER_DECADE * _DECADES
_RATIO = 10 ** (1 / _BINS_PER_DECADE)


def _no_counts() -> list[int]:
    # One more below the lowest edge, one more above the highest.
    return [0] * (_BINS + 2)


@dataclass
class LatencyHistogram:
    """Counts of durations between 10 µs and 10,000 s in 144 bins, each 15.5 % wide.

    Sum, smallest and largest are kept exactly. A quantile is off by one bin width at most, as
    long as it lies within the bins.
    """

    counts: list[int] = field(default_factory=_no_counts)
    sum_s: float = 0.0
    min_s: float = math.inf
    max_s: float = 0.0

    @property
    def count(self) -> int:
        """Number of durations."""
        return sum(self.counts)

    @property
    def mean_s(self) -> float:
        """Their mean, NaN if there are none."""
        count = self.count
        return self.sum_s / count if count else math.nan

    def record(self, seconds: float) -> None:
        """Count one duration; a negative one (clocks differ a little) counts as zero."""
        seconds = max(0.0, seconds)
        self.counts[_bin_of(seconds)] += 1
        self.sum_s += seconds
        self.min_s = min(self.min_s, seconds)
        self.max_s = max(self.max_s, seconds)

    def merge(self, other: "LatencyHistogram") -> None:
        """Count what `other` has counted, too."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s
        self.min_s = min(self.min_s, other.min_s)
        self.max_s = max(self.max_s, other.max_s)

    def copy(self) -> "LatencyHistogram":
        """The same counts, from here on its own."""
        return LatencyHistogram(list(self.counts), self.sum_s, self.min_s, self.max_s)

    def quantile(self, q: float) -> float:
        """Seconds that a share `q` of the durations did not exceed; NaN if there are none.

        Raises:
            ValueError: `q` is not between 0 and 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, got {q}")
        count = self.count
        if not count:
            return math.nan
        wanted, below = q * count, 0
        for index, inside in enumerate(self.counts):
            if inside and below + inside >= wanted:
                value = _value_in(index, (wanted - below) / inside)
                return min(max(value, self.min_s), self.max_s)
            below += inside
        return self.max_s


def bin_middles() -> list[float]:
    """One duration in seconds for each bin of `LatencyHistogram.counts`: its geometric middle.

    Of the bin below the lowest edge that edge, of the one above the highest that.
    """
    return [_LOWEST_S * _RATIO ** min(max(0.0, index - 0.5), _BINS) for index in range(_BINS + 2)]


def _bin_of(seconds: float) -> int:
    if seconds < _LOWEST_S:
        return 0
    return min(1 + int(math.log10(seconds / _LOWEST_S) * _BINS_PER_DECADE), _BINS + 1)


def _value_in(index: int, share: float) -> float:
    """Where within a bin: evenly on the log scale; linearly below the lowest edge."""
    if index == 0:
        return _LOWEST_S * share
    return float(_LOWEST_S * _RATIO ** (index - 1 + share))
