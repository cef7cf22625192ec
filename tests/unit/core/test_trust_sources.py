import json
from dataclasses import replace

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_examples import example_outputs

from kd_ray.config.strategies import Average, Best, Confidence, Fixed, TopM, TrustTable, Weighted
from kd_ray.core.contracts import Fusion
from kd_ray.core.strategies import finish, fuse, local, merge
from kd_ray.core.trust import TrustError, check_trust, table_for

RATES = (12.0, 3.5, 40.0, 3.5, 9.0, 25.0, 60.0)
WEIGHTS = (0.0, 2.0, 1.0, 0.0, 3.0, 0.5, 0.5)


def table(n: int, rates: tuple[float, ...] = RATES) -> TrustTable:
    return TrustTable(
        split="dev",
        measure="1 - chrF",
        teachers=tuple(f"teacher{i}" for i in range(n)),
        error_percent=rates[:n],
    )


def strategies(n: int):
    corpus = {"scope": "corpus", "table": table(n)}
    return {
        "top_1": TopM(m=1),
        "top_2": TopM(m=2),
        "top_3_weighted": TopM(m=3, scale=0.2, trust="teacher_forced"),
        "top_2_batch": TopM(m=2, scope="batch"),
        "top_2_corpus": TopM(m=2, **corpus),
        "top_2_confidence": TopM(m=2, trust="confidence"),
        "confidence": Confidence(power=2.0),
        "confidence_weighted": Weighted(trust="confidence"),
        "confidence_best": Best(trust="confidence"),
        "confidence_batch": Weighted(trust="confidence", scope="batch"),
        "fixed": Fixed(weights=WEIGHTS[:n]),
        "corpus_weighted": Weighted(**corpus),
        "corpus_best": Best(ties="average", **corpus),
    }


def outputs_of(seed: int, teachers: int, *, references: bool = True):
    rng = np.random.default_rng(seed + 1)
    outputs = [
        replace(output, confidence=-rng.random(3).astype(np.float32) * 2)
        for output in example_outputs(seed, teachers=teachers)
    ]
    if references:
        return outputs
    none = np.full(3, -1)
    return [
        replace(output, ctc_errors=none, decoder_errors=none, reference_lengths=none)
        for output in outputs
    ]


def probabilities(fused):
    kept = np.exp(fused.tokens.log_probs.astype(np.float64))
    kept[np.arange(kept.shape[1]) >= fused.tokens.lengths[:, None]] = 0
    return kept


def expected_weights(name: str, outputs, teachers: int) -> np.ndarray:
    """Slow and obvious: teachers one by one, utterance by utterance."""
    rows = len(outputs[0].reference_lengths)
    percent = np.zeros((teachers, rows))
    for n, output in enumerate(outputs):
        for i in range(rows):
            errors = output.decoder_errors if name == "top_3_weighted" else output.ctc_errors
            percent[n, i] = 100 * errors[i] / output.reference_lengths[i]
            if "corpus" in name:
                percent[n, i] = RATES[n]
            elif "confidence" in name:
                percent[n, i] = 100 * (1 - np.exp(float(output.confidence[i])))
    if name.endswith("batch"):
        percent = np.repeat(percent.mean(axis=1, keepdims=True), rows, axis=1)
    columns = []
    for i in range(rows):
        rates = percent[:, i].tolist()
        if name == "fixed":
            column = [weight / sum(WEIGHTS[:teachers]) for weight in WEIGHTS[:teachers]]
        elif name == "confidence":
            column = oracles.softmax([2 * float(output.confidence[i]) for output in outputs])
        elif name.startswith("top"):
            m, scale = int(name[4]), 0.2 if name == "top_3_weighted" else 0.0
            best = sorted(range(teachers), key=lambda n: (rates[n], n))[:m]
            among = dict(zip(best, oracles.softmax([-scale * rates[n] for n in best]), strict=True))
            column = [among.get(n, 0.0) for n in range(teachers)]
        elif name.endswith("best"):
            winners = [n for n in range(teachers) if rates[n] == min(rates)]
            column = [1 / len(winners) if n in winners else 0.0 for n in range(teachers)]
        else:
            column = oracles.softmax([-0.1 * rate for rate in rates])
        columns.append(column)
    return np.array(columns).T


@pytest.mark.parametrize("name", sorted(strategies(4)))
def test_weights_and_target_match_the_slow_reference(name):
    outputs = outputs_of(3, 4)
    fused = fuse(outputs, Fusion(strategies(4)[name], temperature=1.5), 4)
    weights = expected_weights(name, outputs, 4)
    np.testing.assert_allclose(fused.weights_tokens, weights, atol=1e-12)
    np.testing.assert_allclose(fused.weights_labels, weights, atol=1e-12)
    for i, positions in enumerate([4, 2, 3]):
        for u in range(positions):
            soft = np.array([oracles.softmax(o.log_probs[i, u], 1.5) for o in outputs])
            np.testing.assert_allclose(probabilities(fused)[i, u], weights[:, i] @ soft, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    groups=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    name=st.sampled_from(sorted(strategies(2))),
    shuffle=st.randoms(use_true_random=False),
)
def test_any_tree_of_hosts_gives_what_one_process_gives(seed, groups, name, shuffle):
    outputs = outputs_of(seed, len(groups))
    fusion = Fusion(strategies(len(groups))[name])
    whole = fuse(outputs, fusion, len(groups))
    hosts = [
        [output for output, group in zip(outputs, groups, strict=True) if group == host]
        for host in set(groups)
    ]
    partials = [local(host, fusion, len(groups)) for host in hosts]
    while len(partials) > 1:
        shuffle.shuffle(partials)
        partials = [merge(partials[0], partials[1]), *partials[2:]]
    merged = finish(partials[0])
    np.testing.assert_allclose(probabilities(merged), probabilities(whole), atol=1e-6, rtol=0)
    np.testing.assert_array_equal(merged.weights_tokens, whole.weights_tokens)
    np.testing.assert_array_equal(merged.weights_labels, whole.weights_labels)
    np.testing.assert_array_equal(merged.labels.weights, whole.labels.weights)


@pytest.mark.parametrize(
    "name", ["confidence", "confidence_best", "fixed", "corpus_weighted", "top_2_corpus"]
)
def test_without_references_teachers_are_still_told_apart(name):
    fused = fuse(outputs_of(1, 4, references=False), Fusion(strategies(4)[name]), 4)
    np.testing.assert_allclose(fused.weights_tokens.sum(0), 1, atol=1e-12)
    assert np.ptp(fused.weights_tokens) > 0.1


def test_teachers_that_do_not_answer_leave_their_share_to_the_others():
    outputs = outputs_of(0, 4)[1:3]
    fused = fuse(outputs, Fusion(Fixed(weights=(5, 2, 1, 4))), 4)
    np.testing.assert_allclose(fused.weights_tokens[:, 0], [0, 2 / 3, 1 / 3, 0])
    best = fuse(outputs, Fusion(TopM(m=3)), 4)
    np.testing.assert_allclose(best.weights_tokens[:, 0], [0, 1 / 2, 1 / 2, 0])


def test_top_m_holds_no_more_distributions_than_m():
    partial = local(outputs_of(0, 5), Fusion(TopM(m=2)), 9)
    assert partial.probabilities.shape == (2, 3, 4, 5)
    joined = merge(partial, local([replace(outputs_of(1, 6)[5])], Fusion(TopM(m=2)), 9))
    assert joined.probabilities.shape == (2, 3, 4, 5)
    assert local(outputs_of(0, 1), Fusion(TopM(m=2)), 9).probabilities.shape[0] == 1


def test_broken_confidence_and_wrong_numbers_of_teachers_are_named():
    broken = [replace(o, confidence=np.array([0, np.nan, 0])) for o in outputs_of(0, 2)]
    with pytest.raises(TrustError, match=r"confidence, .* row\(s\) 1 "):
        fuse(broken, Fusion(Confidence()), 2)
    with pytest.raises(TrustError, match="weights has 3 numbers for 2 teachers"):
        fuse(outputs_of(0, 2), Fusion(Fixed(weights=(1, 1, 1))), 2)
    with pytest.raises(TrustError, match="error_percent has 3 numbers for 2"):
        fuse(outputs_of(0, 2), Fusion(Weighted(scope="corpus", table=table(3))), 2)
    with pytest.raises(TrustError, match=r"'dev.json' was not read"):
        fuse(outputs_of(0, 2), Fusion(Weighted(scope="corpus", table="dev.json")), 2)
    with pytest.raises(TrustError, match="knows average, best and weighted, not 'top_m'"):
        fuse(outputs_of(0, 2), Fusion(TopM(m=1), compatibility="reference"), 2)


def test_a_table_follows_the_order_of_the_list_and_is_digested():
    measured = table(3)
    turned = table_for(measured, ["teacher2", "teacher0"])
    assert turned.error_percent == (RATES[2], RATES[0])
    with pytest.raises(TrustError, match=r"'dev' does not have .* nobody"):
        table_for(measured, ["teacher0", "nobody"])
    assert TrustTable.model_validate(json.loads(measured.model_dump_json())) == measured
    assert measured.digest == table(3).digest
    assert len({measured.digest, turned.digest, table(3, (1.0, 2.0, 3.0)).digest}) == 3


def test_the_schema_wants_a_table_in_corpus_scope_and_nowhere_else():
    with pytest.raises(ValueError, match="scope 'corpus' needs a table"):
        Weighted(scope="corpus")
    with pytest.raises(ValueError, match="the other scopes take none"):
        Best(table=table(2))
    with pytest.raises(ValueError, match="must not all be zero"):
        Fixed(weights=(0.0, 0.0))
    with pytest.raises(ValueError, match="2 teachers, but 1 error rates"):
        TrustTable(split="dev", measure="wer", teachers=("a", "b"), error_percent=(1.0,))


def test_error_rates_along_a_rollout_are_refused_and_the_rest_is_not():
    about = {"num_teachers": 4, "labels": False, "rollouts": True}
    forced = [Weighted(trust="teacher_forced"), Best(trust="teacher_forced_chrf")]
    for strategy in (*forced, Best(), TopM(m=2)):
        with pytest.raises(TrustError, match=r"Ways out: scope 'corpus'.*trust 'confidence'"):
            check_trust(strategy, **about)
        check_trust(strategy, num_teachers=1, labels=False, rollouts=True)
    for strategy in forced:
        with pytest.raises(TrustError, match="the student's mistakes"):
            check_trust(strategy, num_teachers=2, labels=True, rollouts=True)
        check_trust(strategy, num_teachers=2, labels=False, rollouts=False)
    for name in ("confidence", "confidence_best", "fixed", "corpus_weighted", "top_2_corpus"):
        check_trust(strategies(4)[name], **about)
    check_trust(Average(), **about)
    check_trust(Weighted(), num_teachers=4, labels=True, rollouts=True)


def test_errors_of_paths_that_nobody_writes_are_refused_on_references_too():
    with pytest.raises(TrustError, match=r"which not all .* Ways out: trust 'teacher_forced', sco"):
        check_trust(Weighted(), num_teachers=2, labels=False, rollouts=False)
    check_trust(Weighted(), num_teachers=2, labels=True, rollouts=False)
