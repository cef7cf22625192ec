import numpy as np
import oracles
import pytest
import torch

from kd_ray.config.imitation import BetaPerSentence
from kd_ray.core.contracts import Labels, Signal
from kd_ray.core.diagnostics import (
    ImitationSums,
    divergence_sums,
    rollout_sums,
    teacher_sums,
)
from kd_ray.core.imitation import Items, plan_items
from kd_ray.core.targets import TokenTarget, truncate

EOS = 2
DATA = Labels.of([[1, 3, 4], [3], [4, 4], [1]])
REFERENCES = Labels(DATA.ids, np.array([3, 1, 2, -1]))
ROLLOUTS = {1: [4, 1, 3], 3: []}


def example():
    items = plan_items(BetaPerSentence(), DATA, ROLLOUTS, references=REFERENCES, learns_gold=True)
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(len(items.asked_rows), 4, 6)) * 2
    log_probs = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
    positions = items.positions[items.asked_rows]
    log_probs[np.arange(4) >= positions[:, None]] = np.nan
    decoder = torch.tensor(rng.normal(size=(len(items), 4, 6)))
    return items, signal_of(TokenTarget(log_probs, positions)), decoder


def signal_of(target: TokenTarget) -> Signal:
    rows = len(target.lengths)
    none = np.zeros((1, rows), dtype=int)
    return Signal(
        utterance_ids=("x",) * rows,
        tokens=target,
        labels=None,
        weights_tokens=np.ones((1, rows)),
        weights_labels=np.ones((1, rows)),
        ctc_errors=none,
        decoder_errors=none,
        reference_lengths=none[0],
        answered=(0,),
        num_teachers=1,
    )


def all_sums(items: Items, signal: Signal, decoder, references, utterances, caps):
    return (
        rollout_sums(items, references, utterances, caps)
        + teacher_sums(items, signal, eos=EOS)
        + divergence_sums(items, signal, decoder)
    )


def test_figures_match_the_slow_reference():
    items, signal, decoder = example()
    caps = np.array([9, 3, 9, 9])
    figures = all_sums(items, signal, decoder, REFERENCES, 4, caps).figures()
    entropy: dict[bool, list[float]] = {True: [], False: []}
    agreed: dict[bool, list[bool]] = {True: [], False: []}
    kl: dict[bool, list[float]] = {True: [], False: []}
    for place, row in enumerate(items.asked_rows):
        on = bool(items.on_policy[row])
        string = [*items.prefix.strings()[row].tolist(), EOS]
        for u, token in enumerate(string):
            p = np.exp(signal.tokens.log_probs[place, u]).tolist()
            entropy[on].append(oracles.entropy(p))
            agreed[on].append(oracles.argmax(p) == token)
            kl[on].append(oracles.kl(p, oracles.softmax(decoder[row, u].tolist())))
    assert figures == pytest.approx(
        {
            "replaced_share": 0.5,
            "rollout_cap_share": 0.5,
            "rollout_length_ratio": 3.0,
            "teacher_entropy_data": np.mean(entropy[False]),
            "teacher_entropy_rollout": np.mean(entropy[True]),
            "teacher_agrees_data": np.mean(agreed[False]),
            "teacher_agrees_rollout": np.mean(agreed[True]),
            "kl_data": np.mean(kl[False]),
            "kl_rollout": np.mean(kl[True]),
        },
        abs=1e-9,
    )


@pytest.mark.parametrize("rows", [[0], [1, 3], [0, 1, 2, 3]])
def test_sums_of_parts_add_up_to_those_of_the_whole(rows):
    items, signal, decoder = example()
    caps = np.array([9, 3, 9, 9])

    def part(wanted):
        places = np.flatnonzero(np.isin(items.utterance, wanted))
        asked = np.flatnonzero(np.isin(items.asked_rows, places))
        target = TokenTarget(signal.tokens.log_probs[asked], signal.tokens.lengths[asked])
        return all_sums(
            items.select(places), signal_of(target), decoder[places], REFERENCES, len(wanted), caps
        )

    rest = [row for row in range(4) if row not in rows]
    whole = all_sums(items, signal, decoder, REFERENCES, 4, caps)
    joined = ImitationSums.of(
        [a + b for a, b in zip(part(rows).values(), part(rest).values(), strict=True)]
    )
    assert joined.values() == pytest.approx(whole.values(), abs=1e-9)
    assert (part(rows) + part(rest)).values() == pytest.approx(whole.values(), abs=1e-9)


def test_what_never_happened_has_no_figure():
    assert ImitationSums().figures() == {}
    items = plan_items(BetaPerSentence(), DATA, {}, ask_on_data=False)
    assert teacher_sums(items, example()[1], eos=EOS) == ImitationSums()
    assert rollout_sums(items, None, 4).figures() == {"replaced_share": 0}
    with pytest.raises(ValueError, match="20 sums are needed, 2 came"):
        ImitationSums.of([1.0, 2.0])


def test_a_sparse_target_counts_its_tail_as_one_outcome():
    items, signal, _ = example()
    whole = teacher_sums(items, signal, eos=EOS)
    full = teacher_sums(items, signal_of(truncate(signal.tokens, 6)), eos=EOS)
    assert full.values() == pytest.approx(whole.values(), abs=1e-9)
    coarse = teacher_sums(items, signal_of(truncate(signal.tokens, 1)), eos=EOS)
    assert coarse.data_agreement == whole.data_agreement
    assert coarse.data_entropy < whole.data_entropy
