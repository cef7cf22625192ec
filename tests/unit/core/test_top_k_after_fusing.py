"""The k likeliest tokens of what all teachers say, cut out where their sum is whole."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_examples import example_outputs

from kd_ray.config.strategies import Average, Best, TopM, Weighted
from kd_ray.core.contracts import Fusion
from kd_ray.core.strategies import finish, fuse, local, merge
from kd_ray.core.targets import truncate

VOCABULARY = 9
STRATEGIES = [Average(), Best(), Weighted(scale=0.3), TopM(m=2), Weighted(scope="batch")]


def outputs_of(seed, teachers):
    return example_outputs(seed, teachers=teachers, vocabulary=VOCABULARY)


def shared(probabilities, teachers=2):
    """Teachers that all give one position these probabilities."""
    log_probs = np.log(np.array(probabilities, dtype=np.float32))[None, None]
    first, *_ = example_outputs(0, positions=(1,), vocabulary=len(probabilities))
    return [replace(first, teacher=n, log_probs=log_probs) for n in range(teachers)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    groups=st.lists(st.integers(0, 3), min_size=2, max_size=6),
    strategy=st.sampled_from(STRATEGIES),
    k=st.integers(1, VOCABULARY - 1),
    shuffle=st.randoms(use_true_random=False),
)
def test_any_tree_of_hosts_keeps_the_tokens_that_one_process_keeps(
    seed, groups, strategy, k, shuffle
):
    outputs = outputs_of(seed, len(groups))
    fusion = Fusion(strategy, temperature=2.0, top_k=k)
    whole = fuse(outputs, replace(fusion, top_k=None), len(groups)).tokens
    partials = [
        local([o for o, group in zip(outputs, groups, strict=True) if group == host], fusion,
              len(groups))
        for host in set(groups)
    ]  # fmt: skip
    for partial in partials:
        assert partial.probabilities.shape[-1] == VOCABULARY
    while len(partials) > 1:
        shuffle.shuffle(partials)
        partials = [merge(partials[0], partials[1]), *partials[2:]]
    few = finish(partials[0]).tokens
    expected = truncate(whole, k)
    for row, length in enumerate(whole.lengths):
        for mine, theirs in (
            (few.log_probs, expected.log_probs),
            (few.log_tail, expected.log_tail),
        ):
            np.testing.assert_allclose(
                np.exp(mine[row, :length]), np.exp(theirs[row, :length]), atol=1e-6
            )
        # The token itself may differ only where the next one is as likely, up to rounding.
        kept = np.take_along_axis(np.exp(whole.log_probs[row, :length]), few.ids[row, :length], -1)
        np.testing.assert_allclose(kept, np.exp(expected.log_probs[row, :length]), atol=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each.type)
def test_the_tail_is_all_that_is_left(strategy):
    few = fuse(outputs_of(3, 4), Fusion(strategy, top_k=2), 4).tokens
    mass = np.exp(few.log_probs.astype(np.float64)).sum(-1) + np.exp(few.log_tail)
    valid = np.arange(mass.shape[1]) < few.lengths[:, None]
    np.testing.assert_allclose(mass[valid], 1, atol=1e-6)


def test_the_likeliest_of_the_sum_are_not_those_of_the_parts():
    """Token 1 is nobody's favourite and everybody's second."""
    first, second = shared([0.5, 0.4, 0.0999, 0.0001])
    turned = replace(second, log_probs=np.ascontiguousarray(second.log_probs[..., [3, 1, 2, 0]]))
    few = fuse([first, turned], Fusion(Average(), top_k=1), 2).tokens
    assert few.ids.tolist() == [[[1]]]
    assert np.exp(few.log_probs[0, 0, 0]) == pytest.approx(0.4, abs=1e-6)
    assert np.exp(few.log_tail[0, 0]) == pytest.approx(0.6, abs=1e-6)


def test_of_equal_tokens_the_lowest_ids_are_kept():
    outputs = shared([0.1, 0.2, 0.2, 0.2, 0.2, 0.1])
    assert fuse(outputs, Fusion(Average(), top_k=3), 2).tokens.ids.tolist() == [[[1, 2, 3]]]
    assert fuse(outputs, Fusion(Average(), top_k=5), 2).tokens.ids.tolist() == [[[1, 2, 3, 4, 0]]]


@pytest.mark.parametrize("k", [VOCABULARY, VOCABULARY + 5])
def test_all_tokens_are_sent_as_ever(k):
    fusion = Fusion(Average(), top_k=k)
    tokens = fuse(outputs_of(1, 2), fusion, 2).tokens
    assert (tokens.ids, tokens.log_tail) == (None, None)
    assert fusion.position_bytes(VOCABULARY) == 4 * VOCABULARY


def test_a_position_takes_the_bytes_that_were_said():
    fusion = Fusion(Average(), top_k=3)
    tokens = fuse(outputs_of(1, 2), fusion, 2).tokens
    positions = tokens.log_tail.size
    size = tokens.log_probs.nbytes + tokens.ids.nbytes + tokens.log_tail.nbytes
    assert size == positions * fusion.position_bytes(VOCABULARY) == positions * 28


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        Fusion(Average(), top_k=0)
    with pytest.raises(ValueError, match="reverse KL needs"):
        Fusion(Average(), top_k=2, fusing="geometric")
