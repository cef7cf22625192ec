import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.teachers.latency import LatencyHistogram

BIN = 10 ** (1 / 16)
DURATIONS = st.lists(st.floats(1e-5, 9e3), min_size=1, max_size=200)


def histogram(durations) -> LatencyHistogram:
    made = LatencyHistogram()
    for seconds in durations:
        made.record(seconds)
    return made


@settings(max_examples=200, deadline=None, derandomize=True)
@given(DURATIONS, st.floats(0, 1))
def test_a_quantile_is_within_one_bin_of_the_sorted_list(durations, q):
    exact = float(np.quantile(durations, q, method="inverted_cdf"))
    assert exact / BIN * 0.999 <= histogram(durations).quantile(q) <= exact * BIN * 1.001


def test_percentiles_of_many_durations_are_close():
    durations = np.random.default_rng(0).lognormal(-4, 1, 20_000)
    made = histogram(durations)
    for q in (0.5, 0.95, 0.99):
        assert made.quantile(q) == pytest.approx(np.quantile(durations, q), rel=0.03)
    assert made.mean_s == pytest.approx(durations.mean())
    assert (made.quantile(0), made.quantile(1)) == (durations.min(), durations.max())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(DURATIONS, DURATIONS)
def test_merged_histograms_count_what_both_counted(some, others):
    merged, both = histogram(some), histogram(some + others)
    merged.merge(histogram(others))
    assert merged.counts == both.counts
    assert merged.sum_s == pytest.approx(both.sum_s)
    assert (merged.min_s, merged.max_s) == (both.min_s, both.max_s)


def test_durations_beyond_the_bins_are_counted_and_bounded_by_the_extremes():
    made = histogram([-1e-9, 0.0, 1e-7, 2e4, 5e4])
    assert made.count == 5
    assert made.quantile(0.2) <= 1e-5
    assert 1e4 <= made.quantile(0.9) <= 5e4
    assert len(made.counts) == len(LatencyHistogram().counts)


def test_a_histogram_of_nothing_has_no_quantiles():
    assert math.isnan(LatencyHistogram().quantile(0.5))
    assert math.isnan(LatencyHistogram().mean_s)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_outside_of_zero_to_one_is_refused(q):
    with pytest.raises(ValueError, match="between 0 and 1"):
        histogram([1.0]).quantile(q)


def test_a_copy_is_independent_and_travels():
    first = histogram([0.5])
    copy = pickle.loads(pickle.dumps(first.copy()))
    assert copy == first
    copy.record(1.0)
    assert (first.count, copy.count) == (1, 2)
