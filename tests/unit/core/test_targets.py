import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.core.targets import TokenTarget, pad_labels, truncate


def dense(dtype=np.float64):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 6)) * 3
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_probs[1, 2] = np.nan
    return TokenTarget(log_probs.astype(dtype), np.array([3, 2]))


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_likeliest_tokens_stay_and_the_rest_is_one_mass(k):
    target = dense()
    sparse = truncate(target, k)
    assert sparse.ids.shape == sparse.log_probs.shape == (2, 3, k)
    for i, u in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1)):
        full = np.exp(target.log_probs[i, u])
        kept = sparse.ids[i, u]
        assert set(kept) == set(np.argsort(-full)[:k])
        np.testing.assert_allclose(np.exp(sparse.log_probs[i, u]), full[kept])
        np.testing.assert_allclose(np.exp(sparse.log_tail[i, u]), np.delete(full, kept).sum())
    assert np.isfinite(sparse.log_probs).all()


@pytest.mark.parametrize("k", [6, 9])
def test_keeping_all_leaves_no_tail(k):
    sparse = truncate(dense(np.float32), k)
    assert sparse.log_probs.shape == (2, 3, 6)
    assert sparse.log_probs.dtype == sparse.log_tail.dtype == np.float32
    assert (sparse.log_tail == -np.inf).all()


def test_equal_probabilities_keep_the_lowest_ids():
    target = TokenTarget(np.log(np.full((1, 1, 4), 0.25)), np.array([1]))
    assert truncate(target, 2).ids.tolist() == [[[0, 1]]]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 4))
def test_ties_or_not_the_kept_are_the_first_of_a_stable_sort(seed, k, levels):
    rng = np.random.default_rng(seed)
    values = rng.choice(np.append(-rng.random(levels), -np.inf), (2, 3, 8)).astype(np.float32)
    sparse = truncate(TokenTarget(values, np.array([3, 3])), k)
    order = np.argsort(-values, axis=-1, kind="stable")[..., :k]
    np.testing.assert_array_equal(sparse.ids, order)
    np.testing.assert_array_equal(sparse.log_probs, np.take_along_axis(values, order, axis=-1))


def test_what_cannot_be_truncated_is_refused():
    with pytest.raises(ValueError, match="sparse already"):
        truncate(truncate(dense(), 2), 1)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        truncate(dense(), 0)


def test_labels_are_padded_with_zero():
    labels, lengths = pad_labels([[1, 2], [], np.array([3])])
    assert labels.tolist() == [[1, 2], [0, 0], [3, 0]]
    assert lengths.tolist() == [2, 0, 1]
    assert pad_labels([])[0].shape == (0, 0)
