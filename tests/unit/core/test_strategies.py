import pickle
from dataclasses import replace
from functools import reduce

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_examples import example_outputs

from kd_ray.config.teachers import Average, Best, Weighted
from kd_ray.core.contracts import Fusion
from kd_ray.core.strategies import FusedTargets, Partial, TeacherNaN, finish, fuse, local, merge

FUSIONS = {
    "average": Fusion(Average()),
    "best_first": Fusion(Best()),
    "best_average": Fusion(Best(ties="average", trust="teacher_forced")),
    "weighted": Fusion(Weighted()),
    "weighted_sharp": Fusion(Weighted(scale=3.0, trust="teacher_forced")),
    "weighted_batch": Fusion(Weighted(scope="batch", scale=0.5)),
    "softened": Fusion(Weighted(), temperature=3.0),
    "half": Fusion(Average(), dtype="float16"),
    "two_strings": Fusion(Weighted(), max_strings=2),
    "geometric_average": Fusion(Average(), fusing="geometric"),
    "geometric_best": Fusion(Best(), fusing="geometric"),
    "geometric_sharp": Fusion(Weighted(scale=3.0), fusing="geometric", temperature=2.0),
    "geometric_half": Fusion(Weighted(), fusing="geometric", dtype="float16"),
    "reference_best": Fusion(Best(), compatibility="reference"),
    "reference_weighted": Fusion(Weighted(), compatibility="reference"),
}
every_fusion = pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS.keys())


def probabilities(fused: FusedTargets) -> np.ndarray:
    assert fused.tokens is not None
    kept = np.exp(fused.tokens.log_probs.astype(np.float64))
    kept[np.arange(kept.shape[1]) >= fused.tokens.lengths[:, None]] = 0
    return kept


def same(a: FusedTargets, b: FusedTargets) -> None:
    np.testing.assert_allclose(probabilities(a), probabilities(b), atol=1e-6, rtol=0)
    assert a.labels is not None
    assert b.labels is not None
    for name in ("labels", "lengths", "utterance", "weights", "dropped_weight"):
        np.testing.assert_array_equal(getattr(a.labels, name), getattr(b.labels, name))
    for name in ("weights_tokens", "weights_labels", "ctc_errors", "decoder_errors"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert a.answered == b.answered


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    groups=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    fusion=st.sampled_from(sorted(FUSIONS)),
    shuffle=st.randoms(use_true_random=False),
)
def test_any_tree_of_hosts_gives_what_one_process_gives(seed, groups, fusion, shuffle):
    outputs = example_outputs(seed, teachers=len(groups))
    chosen = FUSIONS[fusion]
    whole = fuse(outputs, chosen, len(groups))
    hosts = [
        [output for output, group in zip(outputs, groups, strict=True) if group == host]
        for host in set(groups)
    ]
    partials = [local(host, chosen, len(groups)) for host in hosts]
    while len(partials) > 1:
        shuffle.shuffle(partials)
        partials = [merge(partials[0], partials[1]), *partials[2:]]
    same(finish(partials[0]), whole)


@every_fusion
def test_merge_is_associative_and_commutative(fusion):
    a, b, c = (local([output], fusion, 3) for output in example_outputs(5))
    same(finish(merge(a, b)), finish(merge(b, a)))
    same(finish(merge(merge(a, b), c)), finish(merge(a, merge(b, c))))


@every_fusion
def test_weights_and_probabilities_sum_to_one(fusion):
    fused = fuse(example_outputs(1, teachers=5), fusion, 5)
    np.testing.assert_allclose(fused.weights_tokens.sum(0), 1, atol=1e-12)
    np.testing.assert_allclose(fused.weights_labels.sum(0), 1, atol=1e-12)
    sums = probabilities(fused).sum(-1)
    np.testing.assert_allclose(sums[np.arange(4) < np.array([[4], [2], [3]])], 1, atol=1e-6)
    by_utterance = np.bincount(fused.labels.utterance, fused.labels.weights)
    np.testing.assert_allclose(by_utterance, 1, atol=1e-12)


@pytest.mark.parametrize(
    ("fusion", "options"),
    [
        (FUSIONS["average"], {"strategy": "average"}),
        (FUSIONS["best_first"], {"strategy": "best"}),
        (Fusion(Best(ties="average")), {"strategy": "best", "ties": "average"}),
        (FUSIONS["weighted"], {"strategy": "weighted", "scale": 0.1}),
        (Fusion(Weighted(), temperature=2.5), {"strategy": "weighted", "scale": 0.1}),
        (
            FUSIONS["weighted_batch"],
            {"strategy": "weighted", "scale": 0.5, "scope": "batch"},
        ),
    ],
    ids=["average", "best", "best_average", "weighted", "softened", "batch"],
)
def test_fused_target_is_the_weighted_mean_of_softened_teachers(fusion, options):
    outputs = example_outputs(3, teachers=4)
    fused = fuse(outputs, fusion, 4)
    errors = [output.ctc_errors.tolist() for output in outputs]
    weights = oracles.weights(errors=errors, reference_lengths=[6, 4, 5], **options)
    np.testing.assert_allclose(fused.weights_tokens, weights, atol=1e-12)
    np.testing.assert_allclose(fused.weights_labels, weights, atol=1e-12)
    for i, positions in enumerate([4, 2, 3]):
        for u in range(positions):
            soft = [oracles.softmax(o.log_probs[i, u], fusion.temperature) for o in outputs]
            mean = [sum(weights[n][i] * soft[n][v] for n in range(4)) for v in range(5)]
            np.testing.assert_allclose(probabilities(fused)[i, u], mean, atol=1e-6)
        expected: dict[tuple[int, ...], float] = {}
        for n, output in enumerate(outputs):
            string = tuple(output.strings[i].tolist())
            expected[string] = expected.get(string, 0.0) + weights[n][i]
        found = {
            tuple(fused.labels.labels[s, : fused.labels.lengths[s]].tolist()): weight
            for s, weight in enumerate(fused.labels.weights)
            if fused.labels.utterance[s] == i
        }
        assert found == pytest.approx({s: w for s, w in expected.items() if w > 0}, abs=1e-12)


def with_strings(strings_of_teachers, **changes):
    outputs = example_outputs(0, teachers=len(strings_of_teachers), positions=(2,))
    return [
        replace(output, strings=(np.array(string, dtype=np.int64),), **changes)
        for output, string in zip(outputs, strings_of_teachers, strict=True)
    ]


def strings_of(fused):
    rows = zip(fused.labels.labels, fused.labels.lengths, strict=True)
    return [row[:length].tolist() for row, length in rows]


def test_equal_strings_merge_heaviest_first_then_lexicographic():
    outputs = with_strings([[3, 1], [2], [1, 2, 3], [2], [1, 2]])
    fused = fuse(outputs, Fusion(Average()), 5)
    assert strings_of(fused) == [[2], [1, 2], [1, 2, 3], [3, 1]]
    np.testing.assert_allclose(fused.labels.weights, [0.4, 0.2, 0.2, 0.2])
    np.testing.assert_array_equal(fused.labels.dropped_weight, [0])


def test_max_strings_keeps_the_heaviest_renormalises_and_records_what_it_dropped():
    outputs = with_strings([[3, 1], [2], [1, 2, 3], [2], [1, 2]])
    fused = fuse(outputs, Fusion(Average(), max_strings=2), 5)
    assert strings_of(fused) == [[2], [1, 2]]
    np.testing.assert_allclose(fused.labels.weights, [2 / 3, 1 / 3])
    np.testing.assert_allclose(fused.labels.dropped_weight, [0.4])


def test_empty_strings_are_strings():
    fused = fuse(with_strings([[], [2], []]), Fusion(Average()), 3)
    assert strings_of(fused) == [[], [2]]


def test_best_keeps_only_the_string_of_the_winner():
    outputs = with_strings([[1], [2], [3]])
    errors = [2, 1, 1]
    outputs = [replace(o, ctc_errors=np.array([e])) for o, e in zip(outputs, errors, strict=True)]
    assert strings_of(fuse(outputs, Fusion(Best()), 3)) == [[2]]
    assert strings_of(fuse(outputs, Fusion(Best(ties="average")), 3)) == [[2], [3]]


def test_ties_go_to_the_lowest_index_in_whatever_order_teachers_come():
    outputs = [replace(o, ctc_errors=np.array([3])) for o in with_strings([[1], [2], [3]])]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        fused = fuse([outputs[index] for index in order], Fusion(Best()), 3)
        assert fused.weights_labels.tolist() == [[1.0], [0.0], [0.0]]
        assert strings_of(fused) == [[1]]


def test_reference_mode_caps_error_rates_at_100_percent():
    outputs = with_strings([[1], [2]], reference_lengths=np.array([4]))
    for output, errors in zip(outputs, (9, 5), strict=True):
        output.decoder_errors[:] = errors
        output.ctc_errors[:] = errors
    fused = fuse(outputs, Fusion(Best(), compatibility="reference"), 2)
    assert fused.weights_tokens.tolist() == [[1.0], [0.0]]  # both 100 percent: the lowest index
    assert fused.weights_labels.tolist() == [[0.5], [0.5]]
    assert fuse(outputs, Fusion(Best()), 2).weights_labels.tolist() == [[0.0], [1.0]]


def test_weights_renormalise_over_the_teachers_that_answered():
    outputs = example_outputs(2, teachers=4)
    fusion = FUSIONS["weighted"]
    fused = fuse([outputs[0], outputs[3]], fusion, 4)
    assert fused.answered == (0, 3)
    assert not fused.weights_tokens[[1, 2]].any()
    assert (fused.ctc_errors[[1, 2]] == -1).all()
    alone = fuse([outputs[0], replace(outputs[3], teacher=1)], fusion, 2)
    np.testing.assert_array_equal(fused.weights_tokens[[0, 3]], alone.weights_tokens)
    np.testing.assert_array_equal(probabilities(fused), probabilities(alone))


def test_scale_zero_is_average_and_a_large_scale_is_best():
    outputs = example_outputs(8, teachers=4, most_errors=50)
    average, best = fuse(outputs, Fusion(Average()), 4), fuse(outputs, Fusion(Best()), 4)
    same(fuse(outputs, Fusion(Weighted(scale=0)), 4), average)
    sharp = fuse(outputs, Fusion(Weighted(scale=1e6)), 4)
    np.testing.assert_allclose(sharp.weights_tokens, best.weights_tokens, atol=1e-12)


def test_one_teacher_needs_no_references():
    output = replace(
        example_outputs(0, teachers=1)[0],
        ctc_errors=np.full(3, -1),
        reference_lengths=np.full(3, -1),
    )
    fused = fuse([output], Fusion(Weighted()), 1)
    np.testing.assert_array_equal(fused.weights_tokens, np.ones((1, 3)))


@pytest.mark.parametrize(
    "strategy", [Best(), Weighted(trust="teacher_forced")], ids=lambda s: s.type
)
def test_trust_without_references_is_refused_with_the_way_out(strategy):
    outputs = [
        replace(o, ctc_errors=np.array([1, -1, 1]), decoder_errors=np.array([1, -1, 1]))
        for o in example_outputs(0)
    ]
    with pytest.raises(ValueError, match=rf"'{strategy.type}'.*row\(s\) 1 .*`average`"):
        local(outputs, Fusion(strategy), 3)
    fuse(outputs, Fusion(Average()), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_teachers_with_non_finite_answers_are_all_named(value):
    outputs = example_outputs(0, teachers=4)
    outputs[1].log_probs[0, 1, 2] = value
    outputs[3].log_probs[2, 0, 0] = value
    with pytest.raises(TeacherNaN, match=r"teacher\(s\) 1, 3") as caught:
        local(outputs, Fusion(Average()), 4)
    assert caught.value.teachers == (1, 3)
    assert pickle.loads(pickle.dumps(caught.value)).teachers == (1, 3)
    fuse([outputs[0], outputs[2]], Fusion(Average()), 4)


def test_minus_infinity_is_a_probability_of_zero_but_not_for_a_whole_position():
    outputs = example_outputs(0, teachers=2)
    for output in outputs:
        output.log_probs[0, 0, 1] = -np.inf
    fused = fuse(outputs, Fusion(Average(), temperature=2.0), 2)
    assert fused.tokens.log_probs[0, 0, 1] == -np.inf
    np.testing.assert_allclose(probabilities(fused)[0, 0].sum(), 1, atol=1e-6)
    outputs[0].log_probs[0, 0, :] = -np.inf
    with pytest.raises(TeacherNaN):
        local(outputs, Fusion(Average()), 2)


def test_padding_never_reaches_the_target():
    fused = fuse(example_outputs(0), Fusion(Average()), 3)
    padding = fused.tokens.log_probs[1, 2:]
    np.testing.assert_array_equal(padding, np.zeros_like(padding))


def test_half_precision_is_rounded_before_fusing_and_rounding_twice_changes_nothing():
    outputs = example_outputs(4)
    stored = [replace(o, log_probs=o.log_probs.astype(np.float16)) for o in outputs]
    half = fuse(outputs, Fusion(Average(), dtype="float16"), 3)
    same(half, fuse(stored, Fusion(Average(), dtype="float16"), 3))
    gap = np.abs(probabilities(half) - probabilities(fuse(outputs, Fusion(Average()), 3))).max()
    assert 0 < gap < 1e-3


def test_heads_that_were_not_asked_for_stay_out():
    outputs = example_outputs(0)
    only_labels = fuse([replace(o, log_probs=None) for o in outputs], Fusion(Average()), 3)
    assert only_labels.tokens is None
    assert only_labels.labels is not None
    a, b, c = (local([replace(o, strings=())], Fusion(Average()), 3) for o in outputs)
    only_tokens = finish(merge(a, merge(b, c)))
    assert only_tokens.labels is None
    assert only_tokens.tokens is not None
    assert not only_tokens.weights_labels.any()


def test_partials_travel_by_pickle():
    fusion = FUSIONS["weighted"]
    partials = [local([o], fusion, 3) for o in example_outputs(6)]
    travelled: list[Partial] = pickle.loads(pickle.dumps(partials, protocol=5))
    same(finish(reduce(merge, travelled)), finish(reduce(merge, partials)))


def test_an_empty_batch_is_a_batch():
    output = replace(
        example_outputs(0, teachers=1)[0],
        log_probs=np.zeros((0, 0, 5), dtype=np.float32),
        strings=(),
        **dict.fromkeys(
            ("positions", "frames", "ctc_errors", "decoder_errors", "reference_lengths"),
            np.zeros(0, dtype=np.int64),
        ),
    )
    other = replace(output, teacher=1)
    for fusion in FUSIONS.values():
        fused = finish(merge(local([output], fusion, 2), local([other], fusion, 2)))
        assert fused.tokens.log_probs.shape == (0, 0, 5)
        assert len(fused.labels.weights) == 0


def test_outputs_about_different_batches_or_vocabularies_are_refused():
    a, b = example_outputs(0, teachers=2)
    fusion = Fusion(Average())
    with pytest.raises(ValueError, match=r"teachers 0 and 1 .* positions are \[4, 2, 3\]"):
        local([a, replace(b, positions=np.array([4, 2, 2]))], fusion, 2)
    with pytest.raises(ValueError, match="share one vocabulary"):
        local([a, replace(b, log_probs=b.log_probs[..., :4])], fusion, 2)
    with pytest.raises(ValueError, match="only one of them sent distributions"):
        local([a, replace(b, log_probs=None)], fusion, 2)
    with pytest.raises(ValueError, match="no teacher output"):
        local([], fusion, 2)
    with pytest.raises(ValueError, match=r"distinct and in 0\.\.1"):
        local([a, replace(b, teacher=2)], fusion, 2)


def test_partials_that_do_not_belong_together_are_refused():
    a, b = example_outputs(0, teachers=2)
    one = local([a], Fusion(Average()), 2)
    with pytest.raises(ValueError, match=r"teacher\(s\) \[0\] would count twice"):
        merge(one, local([a], Fusion(Average()), 2))
    with pytest.raises(ValueError, match="fused differently"):
        merge(one, local([b], Fusion(Best()), 2))
    with pytest.raises(ValueError, match="reference_lengths are"):
        merge(one, local([replace(b, reference_lengths=np.ones(3, int))], Fusion(Average()), 2))
    with pytest.raises(ValueError, match="only one of them has label strings"):
        merge(one, local([replace(b, strings=())], Fusion(Average()), 2))
    with pytest.raises(ValueError, match=r"distributions \(B, U, V\)"):
        merge(one, local([replace(b, log_probs=None)], Fusion(Average()), 2))
