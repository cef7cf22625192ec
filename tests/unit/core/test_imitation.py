from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_examples import example_outputs

from kd_ray.config.imitation import (
    Always,
    BetaPerSentence,
    Both,
    InverseSigmoidBeta,
    LinearBeta,
    Never,
    QualityGate,
    ReverseSigmoidBeta,
    Rollout,
)
from kd_ray.config.strategies import Average
from kd_ray.config.teachers import Distillation
from kd_ray.core.contracts import Fusion, Labels
from kd_ray.core.criteria import DistillationCriterion
from kd_ray.core.imitation import (
    Items,
    plan_items,
    rollout_caps,
    rows_of,
    rows_to_roll_out,
    select_rows,
    uniform_draws,
)
from kd_ray.core.schedules import Progress, alpha_at, beta_at
from kd_ray.core.strategies import fuse

BLANK, EOS, VOCABULARY = 0, 2, 5
DATA = Labels.of([[1, 3, 4], [3], [4, 4]])
FRAMES = np.array([9, 5, 7])
IDS = [f"utterance-{i}" for i in range(2000)]


def described(items: Items):
    strings = [string.tolist() for string in items.prefix.strings()]
    return [
        (int(row), string, bool(on), kd, gold, bool(asked))
        for row, string, on, kd, gold, asked in zip(
            items.utterance,
            strings,
            items.on_policy,
            items.kd_weight,
            items.gold_weight,
            items.asked,
            strict=True,
        )
    ]


# Who gets a rollout.


def test_beta_one_selects_nobody_and_beta_zero_everybody():
    assert not select_rows(IDS, 1.0, 3, 7).any()
    assert select_rows(IDS, 0.0, 3, 7).all()
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        select_rows(IDS, 1.5, 3, 7)


def test_the_selected_share_is_one_minus_beta():
    beta = 200**-0.5
    share = np.mean([select_rows(IDS, beta, 1, update).mean() for update in range(10)])
    assert share == pytest.approx(0.9292893219, abs=0.006)


@given(beta=st.floats(0, 1), split=st.integers(0, 40), seed=st.integers(0, 99))
def test_selection_knows_neither_order_nor_workers_and_grows_as_beta_falls(beta, split, seed):
    ids = IDS[:40]
    whole = select_rows(ids, beta, seed, 5)
    parts = [select_rows(ids[:split], beta, seed, 5), select_rows(ids[split:], beta, seed, 5)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(select_rows(ids[::-1], beta, seed, 5)[::-1], whole)
    assert (select_rows(ids, beta / 2, seed, 5) >= whole).all()


def test_draws_differ_by_update_seed_and_purpose_and_stay_put():
    draws = uniform_draws("rollout", IDS, 0, 0)
    assert ((draws >= 0) & (draws < 1)).all()
    for other in (("rollout", 0, 1), ("rollout", 1, 0), ("step", 0, 0)):
        correlation = np.corrcoef(draws, uniform_draws(other[0], IDS, *other[1:]))[0, 1]
        assert abs(correlation) < 0.1
    # Resumed runs of other versions must select the same rows.
    assert uniform_draws("rollout", ["a"], 1, 2)[0] == pytest.approx(PINNED, abs=1e-15)


PINNED = 0.6199295931395665


def test_only_rows_that_will_be_used_are_rolled_out():
    def rows(selector, beta=0.5):
        return rows_to_roll_out(selector, IDS, beta=beta, seed=0, update=0)

    assert not rows(Never()).any()
    assert rows(Always()).all()
    assert rows(QualityGate()).all()
    assert rows(Both()).all()
    assert not rows(Both(), 1.0).any()
    np.testing.assert_array_equal(rows(BetaPerSentence()), select_rows(IDS, 0.5, 0, 0))


def test_length_caps_depend_on_the_row_alone():
    caps = rollout_caps(Rollout(max_length=50, max_length_ratio=1.5), np.array([4, 100, 0, 1]))
    assert caps.tolist() == [6, 50, 1, 2]
    assert rollout_caps(Rollout(max_length=50), np.array([4, 100])).tolist() == [50, 50]


# Items.


def test_without_rollouts_items_are_the_data_prefixes():
    items = plan_items(Never(), DATA, {}, learns_gold=True)
    assert described(items) == [
        (0, [1, 3, 4], False, 1, 1, True),
        (1, [3], False, 1, 1, True),
        (2, [4, 4], False, 1, 1, True),
    ]
    assert items.positions.tolist() == [4, 2, 3]


def test_a_replaced_sentence_learns_gold_from_an_item_that_no_teacher_scores():
    items = plan_items(BetaPerSentence(), DATA, {1: [4, 1]}, learns_gold=True)
    assert described(items) == [
        (0, [1, 3, 4], False, 1, 1, True),
        (1, [4, 1], True, 1, 0, True),
        (2, [4, 4], False, 1, 1, True),
        (1, [3], False, 0, 1, False),
    ]
    assert items.asked_rows.tolist() == [0, 1, 2]
    assert [s.tolist() for s in items.asked_prefix().strings()] == [[1, 3, 4], [4, 1], [4, 4]]
    assert len(plan_items(BetaPerSentence(), DATA, {1: [4, 1]})) == 3


def test_an_empty_rollout_is_a_prefix_of_no_tokens():
    items = plan_items(BetaPerSentence(), DATA, {1: []})
    assert items.positions.tolist() == [4, 1, 3]


def test_teacher_output_as_data_prefix_keeps_gold_on_the_references():
    references = Labels.of([[1, 3, 4], [1], [4]])
    items = plan_items(
        BetaPerSentence(), DATA, {}, references=references, learns_gold=True, ask_on_data=False
    )
    assert described(items) == [
        (0, [1, 3, 4], False, 1, 1, False),
        (1, [3], False, 1, 0, False),
        (2, [4, 4], False, 1, 0, False),
        (1, [1], False, 0, 1, False),
        (2, [4], False, 0, 1, False),
    ]


def test_both_weighs_data_by_beta_and_rollouts_by_the_rest():
    rollouts = {0: [1], 1: [2], 2: [3]}
    items = plan_items(Both(), DATA, rollouts, beta=0.25, learns_gold=True)
    assert items.utterance.tolist() == [0, 1, 2, 0, 1, 2]
    assert items.kd_weight.tolist() == [0.25] * 3 + [0.75] * 3
    assert items.gold_weight.tolist() == [1] * 3 + [0] * 3
    assert len(plan_items(Both(), DATA, {}, beta=1.0)) == 3
    only = plan_items(Both(), DATA, rollouts, beta=0.0)
    assert only.on_policy.all()
    assert len(only) == 3


def test_a_quality_gate_keeps_rollouts_that_reach_the_threshold():
    rollouts, gate = {0: [1], 1: [2], 2: [3]}, QualityGate(threshold=0.3)
    items = plan_items(gate, DATA, rollouts, scores={0: 0.3, 1: 0.2999, 2: 1.0})
    assert items.on_policy.tolist() == [True, False, True]
    with pytest.raises(ValueError, match="a score for each rollout"):
        plan_items(gate, DATA, rollouts, scores={0: 1.0})


def test_rollouts_are_neither_wasted_nor_missing():
    with pytest.raises(ValueError, match="1 rollouts were made that selector 'never'"):
        plan_items(Never(), DATA, {0: [1]})
    with pytest.raises(ValueError, match=r"'both' \(beta 1.0\) never"):
        plan_items(Both(), DATA, {0: [1]}, beta=1.0)
    with pytest.raises(ValueError, match=r"'always' needs a rollout .* rows \[1, 2\]"):
        plan_items(Always(), DATA, {0: [1]})


def test_an_utterance_without_any_prefix_is_named():
    data = Labels(DATA.ids, np.array([3, -1, 2]))
    with pytest.raises(ValueError, match="row 1 has no data prefix"):
        plan_items(BetaPerSentence(), data, {})
    items = plan_items(BetaPerSentence(), data, {1: [3]}, learns_gold=True)
    assert items.gold_weight.tolist() == [1, 0, 1]


def test_items_refuse_columns_of_other_lengths():
    items = plan_items(Never(), DATA, {})
    with pytest.raises(ValueError, match="3 items, but asked has 1"):
        replace(items, asked=np.array([True]))


# Items in the criterion.


def signal_about(items: Items, seed: int = 0, rows=None):
    """Two teachers on the asked items; utterances keep their label strings."""
    asked = items.asked_rows if rows is None else rows
    outputs = example_outputs(seed, teachers=2, positions=(4,) * 9, vocabulary=VOCABULARY)
    utterance, positions = items.utterance[asked], items.positions[asked]
    about = []
    for output in outputs:
        log_probs = output.log_probs[asked][:, : int(positions.max(initial=0))]
        about.append(
            replace(
                output,
                log_probs=log_probs,
                positions=positions,
                strings=tuple(output.strings[row] for row in utterance),
                frames=output.frames[utterance],
                ctc_errors=output.ctc_errors[utterance],
                decoder_errors=output.decoder_errors[utterance],
                reference_lengths=output.reference_lengths[utterance],
                confidence=output.confidence[utterance],
            )
        )
    return fuse(about, Fusion(Average()), 2).signal(("x",) * len(asked))


def logits(rows: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    ctc = torch.randn(3, 9, VOCABULARY, generator=generator, dtype=torch.float64)
    decoder = torch.randn(9, 4, VOCABULARY, generator=generator, dtype=torch.float64)[:rows]
    return ctc.requires_grad_(), decoder.clone().requires_grad_()


def run(config, items, signal, references=DATA, decoder=None, alpha=None):
    criterion = DistillationCriterion(config, blank=BLANK, eos=EOS)
    rows = len(references.lengths) if items is None else len(items)
    ctc, made = logits(rows)
    decoder = made if decoder is None else decoder
    about = {"references": references, "signal": signal, "frames": FRAMES, "items": items}
    losses = criterion.losses(ctc_logits=ctc, decoder_logits=decoder, **about)
    counts = criterion.counts(**about)
    assert counts == {part: losses[part].count for part in counts}
    total = criterion.total(losses, counts, alpha=alpha)
    return total, losses, (ctc, decoder)


@pytest.mark.parametrize("alpha", [1.0, 0.6])
@pytest.mark.parametrize("unlabelled", [[], [1]], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("target", ["distribution", "argmax"])
def test_identity_items_give_exactly_what_no_items_give(alpha, unlabelled, target):
    config = Distillation(alpha=alpha, data_target=target)
    lengths = DATA.lengths.copy()
    lengths[unlabelled] = -1
    references = Labels(DATA.ids, lengths)
    items = plan_items(Never(), DATA, {}, references=references, learns_gold=alpha < 1)
    signal = signal_about(items)
    with_items = run(config, items, signal, references)
    without = run(config, None, signal, references)
    assert with_items[0].item() == without[0].item()
    for part, loss in without[1].items():
        np.testing.assert_array_equal(with_items[1][part].rows.detach(), loss.rows.detach())
    with_items[0].backward()
    without[0].backward()
    for mine, theirs in zip(with_items[2], without[2], strict=True):
        np.testing.assert_allclose(mine.grad, theirs.grad, atol=1e-15)


def test_total_on_items_matches_the_slow_reference():
    config = Distillation(
        preset="mixer", alpha=0.6, beta={"type": "constant", "value": 0.3}, ctc_weight=0.2
    )
    items = plan_items(Both(), DATA, {0: [1], 1: [3, 3], 2: []}, beta=0.3, learns_gold=True)
    signal = signal_about(items)
    total, losses, (_, decoder) = run(config, items, signal)
    kd = gold = kd_count = gold_count = 0.0
    for r in range(6):
        weight = 0.3 if r < 3 else 0.7
        for u in range(items.positions[r]):
            p = np.exp(signal.tokens.log_probs[r, u].astype(float)).tolist()
            q = oracles.softmax(decoder[r, u].tolist())
            loss = oracles.cross_entropy(p, q) if r < 3 else -np.log(q[oracles.argmax(p)])
            kd, kd_count = kd + weight * loss, kd_count + weight
            if r < 3:
                label = [*DATA.strings()[r].tolist(), EOS][u]
                gold += oracles.smoothed_nll(decoder[r, u].tolist(), label, 0.1)
                gold_count += 1
    expected = 0.8 * (0.6 * kd / kd_count + 0.4 * gold / gold_count)
    expected += 0.2 * (0.6 * losses["kd_ctc"].mean + 0.4 * losses["sup_ctc"].mean).item()
    assert total.item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    selected=st.sets(st.integers(0, 2)),
    alpha=st.sampled_from([1.0, 0.5]),
    unlabelled=st.sets(st.integers(0, 2)),
    target=st.sampled_from(["own", "argmax", "distribution"]),
    cut=st.integers(0, 3),
)
def test_any_split_into_micro_batches_gives_the_same_loss(selected, alpha, unlabelled, target, cut):
    config = Distillation(
        alpha=alpha, selector={"type": "beta"}, data_target=target, rollout_target="argmax"
    )
    criterion = DistillationCriterion(config, blank=BLANK, eos=EOS)
    lengths = DATA.lengths.copy()
    lengths[list(unlabelled)] = -1
    references = Labels(DATA.ids, lengths)
    rollouts = {row: [1, row] for row in selected}
    items = plan_items(
        BetaPerSentence(),
        DATA,
        rollouts,
        references=references,
        learns_gold=alpha < 1,
        ask_on_data=target != "own",
        ask_every_utterance=True,
    )
    whole, _, _ = run(config, items, signal_about(items), references)
    ctc, decoder = logits(len(items))
    pieces = []
    for rows in (np.arange(cut), np.arange(cut, 3)):
        places = np.flatnonzero(np.isin(items.utterance, rows))
        mine = items.select(places)
        mine = replace(mine, utterance=mine.utterance - (rows[0] if len(rows) else 0))
        wide = int(mine.positions.max(initial=0))
        about = {
            "references": rows_of(references, rows),
            "signal": signal_about(items, rows=places[mine.asked]) if len(rows) else EMPTY,
            "frames": FRAMES[rows],
            "items": mine,
        }
        losses = criterion.losses(
            ctc_logits=ctc[rows], decoder_logits=decoder[places][:, : max(wide, 1)], **about
        )
        pieces.append((losses, criterion.counts(**about)))
    counts = {part: sum(count[part] for _, count in pieces) for part in pieces[0][1]}
    total = sum(criterion.total(losses, counts) for losses, _ in pieces)
    assert total.item() == pytest.approx(whole.item(), abs=1e-9)


NOBODY = plan_items(Never(), Labels.of([]), {})
EMPTY = fuse(
    [
        replace(
            output,
            log_probs=np.zeros((0, 0, VOCABULARY), dtype=np.float32),
            strings=(),
            **{
                name: np.zeros(0, dtype=np.int64)
                for name in (
                    "positions",
                    "frames",
                    "ctc_errors",
                    "decoder_errors",
                    "reference_lengths",
                )
            },
            confidence=np.zeros(0, dtype=np.float32),
        )
        for output in example_outputs(0, teachers=2)
    ],
    Fusion(Average()),
    2,
).signal(())


def test_masked_places_and_batch_mates_do_not_touch_a_row():
    config = Distillation(preset="imitkd_full", gold_weight=0.3)
    items = plan_items(BetaPerSentence(), DATA, {1: [4]}, learns_gold=True)
    signal = signal_about(items)
    clean, losses, _ = run(config, items, signal)
    dirty = logits(4)[1].detach().clone()
    dirty[np.arange(4) >= items.positions[:, None]] = torch.nan
    dirty[3, :, 0] = torch.where(torch.isnan(dirty[3, :, 0]), dirty[3, :, 0], 50.0)
    dirty.requires_grad_()
    total, changed, _ = run(config, items, signal, decoder=dirty)
    total.backward()
    assert total.isfinite()
    assert total.item() != clean.item()
    assert torch.isfinite(dirty.grad).all()
    np.testing.assert_array_equal(changed["kd_att"].rows.detach(), losses["kd_att"].rows.detach())


def test_teachers_are_not_asked_for_tokens_that_nobody_learns():
    config = Distillation(preset="imitkd_gold_on_data")
    items = plan_items(BetaPerSentence(), DATA, {}, ask_on_data=False)
    assert not items.asked.any()
    total, _, _ = run(config, items, None)
    assert total.isfinite()
    assert DistillationCriterion(config, blank=BLANK, eos=EOS).wanted == {"tokens"}
    only = Distillation(data_target="own", ctc_weight=0.5)
    assert DistillationCriterion(only, blank=BLANK, eos=EOS).wanted == {"labels"}


def test_what_does_not_fit_is_named():
    config = Distillation(preset="imitkd_full")
    items = plan_items(BetaPerSentence(), DATA, {1: [4]}, learns_gold=True)
    signal = signal_about(items)
    other = plan_items(BetaPerSentence(), DATA, {1: [4, 4]}, learns_gold=True)
    with pytest.raises(ValueError, match=r"item 1: teachers scored 2 positions, .* have 3"):
        run(config, other, signal)
    with pytest.raises(ValueError, match=r"signal has 3 rows, .* about 2 of 2 items"):
        run(config, items.select(np.array([0, 1])), signal)
    with pytest.raises(ValueError, match=r"4 items of up to 4 positions, .* 3 rows of 4"):
        run(config, items, signal, decoder=logits(3)[1])
    unasked = plan_items(BetaPerSentence(), DATA, {1: [4]}, ask_on_data=False)
    with pytest.raises(ValueError, match="item 0 learns from teachers, who were not asked"):
        run(config, unasked, signal_about(unasked))
    ungold = plan_items(BetaPerSentence(), DATA, {1: [4]})
    with pytest.raises(ValueError, match="row 0 has no item with its reference"):
        run(Distillation(alpha=0.5, ctc_weight=0), ungold, signal)


# Schedules of beta and of the gold share.


def test_inverse_sigmoid_counts_epochs_and_survives_long_trainings():
    config = InverseSigmoidBeta(mu=5.0)
    for epoch in (0, 3, 10):
        expected = 5 / (5 + np.exp(epoch / 5))
        assert beta_at(config, Progress(0, 9, epoch, 20)) == pytest.approx(expected, abs=1e-12)
    assert beta_at(InverseSigmoidBeta(by="update"), Progress(10**6, 10**6, 0, 1)) == 0


def test_warm_up_keeps_beta_at_one_and_still_reaches_the_end():
    linear = LinearBeta(floor=0.2, warmup_share=0.5)
    values = [beta_at(linear, Progress(done, 100, 0, 1)) for done in (0, 49, 50, 75, 100, 150)]
    assert values == pytest.approx([1, 1, 1, 0.6, 0.2, 0.2])
    late = ReverseSigmoidBeta(warmup_share=0.9)
    assert beta_at(late, Progress(95, 100, 0, 1)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="at least 1 epoch, got 0"):
        beta_at(LinearBeta(by="epoch"), Progress(0, 1, 0, 0))


def test_a_scheduled_gold_share_moves_the_total_and_keeps_the_parts():
    config = Distillation(preset="word_kd", gold_weight={"start": 1.0, "final": 0.0})
    assert config.alpha == 0
    shares = [alpha_at(config, Progress(done, 4, 0, 1)) for done in (0, 1, 4, 9)]
    assert shares == pytest.approx([0, 0.25, 1, 1])
    items = plan_items(Never(), DATA, {}, learns_gold=True)
    signal = signal_about(items)
    for alpha in shares:
        total, losses, _ = run(config, items, signal, alpha=alpha)
        mean = alpha * losses["kd_att"].mean + (1 - alpha) * losses["sup_att"].mean
        assert total.item() == pytest.approx(mean.item(), abs=1e-12)
    assert alpha_at(Distillation(alpha=0.4), Progress(3, 4, 0, 1)) == 0.4
