import math

import numpy as np
import pytest
import sacrebleu

from kd_ray.core.sentence_rewards import gate_scores, sentence_rewards

HYPOTHESES = ["the cat sat on the mat", "a b", "x y z", "", "", "one two three four five six"]
REFERENCES = ["the cat sat on a mat", "a b c", "a b c", "", "words", "one"]


def test_rewards_are_sacrebleus_sentence_scores_between_zero_and_one():
    makers = {
        "bleu": lambda: sacrebleu.BLEU(effective_order=True),
        "chrf": sacrebleu.CHRF,
        "ter": sacrebleu.TER,
    }
    for metric, maker in makers.items():
        found = sentence_rewards(HYPOTHESES, REFERENCES, metric)
        assert ((found >= 0) & (found <= 1)).all()
        assert found[3] == 1.0
        assert found[4] == 0.0
        for row in (0, 1, 2):
            percent = maker().sentence_score(HYPOTHESES[row], [REFERENCES[row]]).score
            expected = max(0.0, 100 - percent) if metric == "ter" else percent
            assert found[row] == pytest.approx(expected / 100, abs=1e-9)
    # Five words too many for a reference of one: TER is 500 %.
    assert sentence_rewards(HYPOTHESES, REFERENCES, "ter")[5] == 0.0


def test_the_gates_bleu_weighs_the_orders_by_hand():
    found = gate_scores(HYPOTHESES, REFERENCES, "bleu")
    # 5 of 6 words, 3 of 5 pairs (the cat, cat sat, sat on), 2 of 4 triples; equally long.
    expected = math.exp(0.1 * math.log(5 / 6) + 0.4 * math.log(3 / 5) + 0.5 * math.log(2 / 4))
    assert found[0] == pytest.approx(expected)
    # No triple in two words: .1 and .4 become .2 and .8; both match; one word too short.
    assert found[1] == pytest.approx(math.exp(1 - 3 / 2))
    np.testing.assert_array_equal(found[2:5], [0.0, 1.0, 0.0])
    same = gate_scores(REFERENCES[:3], REFERENCES[:3], "bleu")
    np.testing.assert_allclose(same, 1.0)
    # A match of words but of no pair is nothing.
    assert gate_scores(["b a d c"], ["a b c d"], "bleu")[0] == 0.0


def test_other_metrics_gate_by_their_reward():
    for metric in ("chrf", "ter"):
        np.testing.assert_array_equal(
            gate_scores(HYPOTHESES, REFERENCES, metric),
            sentence_rewards(HYPOTHESES, REFERENCES, metric),
        )
