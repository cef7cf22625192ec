import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.core.scores import AlignedToken, ErrorCounts, align, count_errors, edit_errors

sentences = st.lists(
    st.tuples(
        st.lists(st.sampled_from("ab c"), max_size=6), st.lists(st.sampled_from("ab c"), max_size=6)
    ),
    max_size=6,
)


def slow_distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(
        slow_distance(a[1:], b[1:]) + (a[0] != b[0]),
        slow_distance(a[1:], b) + 1,
        slow_distance(a, b[1:]) + 1,
    )


def test_a_hand_worked_alignment():
    # the cat sat down  ->  a cat sat here now: the/a and down/here substituted, now inserted.
    reference, hypothesis = ["the", "cat", "sat", "down"], ["a", "cat", "sat", "here", "now"]
    counts = count_errors([reference], [hypothesis])
    assert counts.errors == 3
    assert (counts.substitutions, counts.insertions, counts.deletions) == (2, 1, 0)
    assert counts.rate == pytest.approx(75.0)
    (steps,) = align([reference], [hypothesis])
    assert [step for step in steps if step.operation == "equal"] == [
        AlignedToken("equal", "cat", "cat"),
        AlignedToken("equal", "sat", "sat"),
    ]
    (deletion,) = align([["a", "b"]], [["a"]])
    assert deletion[1] == AlignedToken("deletion", "b", None)


@settings(max_examples=60, deadline=None)
@given(pairs=sentences, cut=st.integers(0, 6))
def test_merged_counts_are_the_counts_of_the_whole(pairs, cut):
    references, hypotheses = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    whole = count_errors(references, hypotheses)
    first = count_errors(references[:cut], hypotheses[:cut])
    rest = count_errors(references[cut:], hypotheses[cut:])
    assert first + rest == rest + first == whole
    assert whole.sentences == len(pairs)


@settings(max_examples=60, deadline=None)
@given(pairs=sentences)
def test_alignment_counts_and_distance_agree(pairs):
    references, hypotheses = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    distances = edit_errors(
        [[ord(c) for c in row] for row in references], [[ord(c) for c in row] for row in hypotheses]
    )
    for pair, steps, distance in zip(pairs, align(references, hypotheses), distances, strict=True):
        reference, hypothesis = pair
        assert slow_distance(reference, hypothesis) == distance
        assert sum(step.operation != "equal" for step in steps) == distance
        assert [s.reference for s in steps if s.reference is not None] == reference
        assert [s.hypothesis for s in steps if s.hypothesis is not None] == hypothesis
        for step in steps:
            assert (step.reference == step.hypothesis) == (step.operation == "equal")
        counts = count_errors([reference], [hypothesis])
        names = ("substitution", "insertion", "deletion")
        assert [sum(s.operation == name for s in steps) for name in names] == [
            counts.substitutions,
            counts.insertions,
            counts.deletions,
        ]


def test_arrays_and_lists_give_equal_distances():
    rng = np.random.default_rng(0)
    a = [rng.integers(0, 70_000, size=20) for _ in range(5)]
    b = [np.where(rng.random(20) < 0.3, 1, row) for row in a]
    found = edit_errors(a, b)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(
        found, edit_errors([r.tolist() for r in a], [r.tolist() for r in b])
    )
    assert edit_errors([], []).shape == (0,)
    assert edit_errors([[], [1]], [[1, 2], []]).tolist() == [2, 1]


def test_rates_without_reference_tokens():
    assert ErrorCounts().rate == 0
    assert count_errors([[]], [[]]).rate == 0
    assert count_errors([[]], [["a"]]).rate == float("inf")
    assert count_errors([["a"]], [["b", "c", "d"]]).rate == pytest.approx(300)


def test_numbers_of_sentences_must_agree():
    for function in (align, count_errors, edit_errors):
        with pytest.raises(ValueError, match="2 references but 1 hypotheses"):
            function([["a"], ["b"]], [["a"]])
