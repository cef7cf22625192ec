"""Text teachers weighed by 1 - chrF of what they say along the reference, as integer counts."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_examples import example_outputs

from kd_ray.config.strategies import Average, Best, Confidence, TopM, TrustTable, Weighted
from kd_ray.core.contracts import Fusion
from kd_ray.core.strategies import finish, fuse, local, merge
from kd_ray.core.trust import TrustError, trusts_chrf

CHRF = "teacher_forced_chrf"
STRATEGIES = {
    "weighted": Weighted(trust=CHRF),
    "weighted_batch": Weighted(trust=CHRF, scope="batch", scale=0.3),
    "best": Best(trust=CHRF),
    "best_average": Best(trust=CHRF, ties="average"),
    "top_2": TopM(trust=CHRF, m=2),
    "top_2_weighted": TopM(trust=CHRF, m=2, scale=0.05),
}


def outputs_of(seed, teachers=4):
    """Text teachers: no label strings; few different errors, so that some are equal."""
    rng = np.random.default_rng(seed)
    return [
        replace(
            output,
            strings=(),
            ctc_errors=np.full(3, -1),
            chrf_errors=rng.choice([0, 120_000, 120_001, 333_333, 1_000_000], size=3),
        )
        for output in example_outputs(seed, teachers=teachers)
    ]


def expected_weights(name, outputs):
    """Slow and obvious: utterance by utterance, in percent."""
    percent = np.array([output.chrf_errors for output in outputs]) / 1e4
    if name == "weighted_batch":
        percent = np.repeat(percent.mean(axis=1, keepdims=True), 3, axis=1)
    columns = []
    for rates in percent.T.tolist():
        n = len(rates)
        winners = [t for t in range(n) if rates[t] == min(rates)]
        if name.startswith("weighted"):
            scale = 0.3 if name == "weighted_batch" else 0.1
            columns.append(oracles.softmax([-scale * rate for rate in rates]))
        elif name.startswith("best"):
            kept = winners if name == "best_average" else winners[:1]
            columns.append([1 / len(kept) if t in kept else 0.0 for t in range(n)])
        else:
            kept = sorted(range(n), key=lambda t: (rates[t], t))[:2]
            scale = 0.05 if name == "top_2_weighted" else 0.0
            among = oracles.softmax([-scale * rates[t] for t in kept])
            columns.append([among[kept.index(t)] if t in kept else 0.0 for t in range(n)])
    return np.array(columns).T


@pytest.mark.parametrize("name", STRATEGIES)
def test_weights_are_those_of_the_slow_reference(name):
    for seed in range(5):
        outputs = outputs_of(seed)
        fused = fuse(outputs, Fusion(STRATEGIES[name]), 4)
        np.testing.assert_allclose(
            fused.weights_tokens, expected_weights(name, outputs), atol=1e-12
        )
        stacked = np.stack([output.chrf_errors for output in outputs])
        np.testing.assert_array_equal(fused.signal(("a", "b", "c")).chrf_errors, stacked)


def test_a_tie_goes_to_the_lowest_index_and_a_millionth_breaks_it():
    outputs = outputs_of(0, 3)
    for output, errors in zip(outputs, (120_001, 120_000, 120_000), strict=True):
        output.chrf_errors[:] = errors
    first = fuse(outputs, Fusion(Best(trust=CHRF)), 3).weights_tokens[:, 0]
    shared = fuse(outputs, Fusion(Best(trust=CHRF, ties="average")), 3).weights_tokens[:, 0]
    assert first.tolist() == [0, 1, 0]
    assert shared.tolist() == [0, 0.5, 0.5]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    groups=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    name=st.sampled_from(sorted(STRATEGIES)),
    shuffle=st.randoms(use_true_random=False),
)
def test_any_tree_of_hosts_gives_what_one_process_gives(seed, groups, name, shuffle):
    outputs, fusion, count = outputs_of(seed, len(groups)), Fusion(STRATEGIES[name]), len(groups)
    whole = fuse(outputs, fusion, count)
    partials = [
        local([each for each, group in zip(outputs, groups, strict=True) if group == host],
              fusion, count)
        for host in set(groups)
    ]  # fmt: skip
    while len(partials) > 1:
        shuffle.shuffle(partials)
        partials = [merge(partials[0], partials[1]), *partials[2:]]
    merged = finish(partials[0])
    np.testing.assert_array_equal(merged.weights_tokens, whole.weights_tokens)
    np.testing.assert_array_equal(merged.chrf_errors, whole.chrf_errors)
    for row, positions in enumerate(whole.tokens.lengths):
        mine, theirs = (f.tokens.log_probs[row, :positions] for f in (merged, whole))
        np.testing.assert_allclose(np.exp(mine), np.exp(theirs), atol=1e-6, rtol=0)


def test_a_teacher_that_did_not_answer_has_no_chrf():
    fused = fuse([outputs_of(0)[1], outputs_of(0)[3]], Fusion(Weighted(trust=CHRF)), 4)
    assert fused.chrf_errors[[0, 2]].tolist() == [[-1] * 3] * 2
    np.testing.assert_allclose(fused.weights_tokens.sum(axis=0), 1)


def test_without_a_reference_or_without_asking_there_is_no_trust():
    outputs = outputs_of(0)
    outputs[1].chrf_errors[2] = -1
    with pytest.raises(TrustError, match=r"teacher_forced_chrf error rate, but row\(s\) 2 "):
        local(outputs, Fusion(Weighted(trust=CHRF)), 4)
    unasked = [replace(output, chrf_errors=None) for output in outputs]
    with pytest.raises(TrustError, match=r"row\(s\) 0, 1, 2 "):
        local(unasked, Fusion(Best(trust=CHRF)), 4)
    with pytest.raises(ValueError, match="only one of them sent its chrF"):
        local([outputs[0], unasked[1]], Fusion(Average()), 4)
    sides = local(outputs[:1], Fusion(Average()), 4), local(unasked[1:], Fusion(Average()), 4)
    with pytest.raises(ValueError, match="only one of them has the teachers' chrF"):
        merge(*sides)
    assert fuse(unasked, Fusion(Average()), 4).chrf_errors is None


def test_chrf_is_asked_for_where_weights_are_made_of_it():
    table = TrustTable(split="v", measure="1 - chrF", teachers=("a",), error_percent=(1.0,))
    assert all(trusts_chrf(Fusion(strategy)) for strategy in STRATEGIES.values())
    for strategy in (
        Average(),
        Confidence(),
        Weighted(trust="teacher_forced"),
        Best(trust=CHRF, scope="corpus", table=table),
    ):
        assert not trusts_chrf(Fusion(strategy))
    assert not trusts_chrf(Fusion(Best(trust=CHRF), compatibility="reference"))
