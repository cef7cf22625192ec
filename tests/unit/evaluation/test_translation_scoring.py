import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from evaluation_doubles import GERMAN, Parrot, german_tokens, pairs

from kd_ray.core.translation_scores import count_translations
from kd_ray.evaluation import references
from kd_ray.evaluation.decode import Hypothesis, Search, decode_utterances
from kd_ray.evaluation.references import reference_texts
from kd_ray.evaluation.system import UnusableSystem
from kd_ray.evaluation.translation import score_translations, translation_scores

SAID = ["das Haus", "ein Zug", "", "wir gehen", "ja ja"]


def scored(rows, said=SAID, **options):
    parrot = Parrot({row.id: text for row, text in zip(rows, said, strict=True)}, german_tokens())
    return score_translations(
        parrot, rows, root=Path(), batch_size=2, search=Search(), head="attention", **options
    )


def test_scores_of_a_split_are_those_of_its_texts():
    found = translation_scores(scored(pairs()))
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(SAID, [GERMAN]).score)
    assert found["ter"] == pytest.approx(sacrebleu.corpus_ter(SAID, [GERMAN]).score)
    expected = sacrebleu.corpus_chrf(SAID, [GERMAN], word_order=2).score
    assert found["chrf++"] == pytest.approx(expected)
    assert found["sentences"] == 5
    assert found["empty_hypotheses"] == 1
    assert "transcript_word_error_rate" not in found


def test_rows_are_in_the_order_of_the_manifest_and_their_counts_add_up():
    result = scored(pairs())
    assert [row["id"] for row in result.rows] == ["u0", "u1", "u2", "u3", "u4"]
    assert [row["hypothesis"] for row in result.rows] == SAID
    assert [row["reference"] for row in result.rows] == GERMAN
    for metric, total in result.counts.counts.items():
        counts = np.array([row["counts"][metric] for row in result.rows])
        assert counts.sum(axis=0).tolist() == list(total)
    assert result.counts == count_translations(SAID, GERMAN)
    assert result.rows[0]["scores"]["bleu"] == pytest.approx(100)
    assert result.rows[2]["scores"]["chrf++"] == 0


def test_utterances_without_translation_are_named():
    rows = [*pairs(2), replace(pairs(3)[2], translation=None)]
    with pytest.raises(UnusableSystem, match=r"1 of 3 utterances have no translation.*u2"):
        scored(rows, SAID[:3])


def test_texts_are_decoded_longest_first_and_every_one_once():
    parrot = Parrot(dict.fromkeys(["u0", "u1", "u2", "u3", "u4"], "ja"), german_tokens())
    found = list(decode_utterances(parrot, pairs(), Path(), 2, Search()))
    assert parrot.batches == [["u2", "u1"], ["u3", "u0"], ["u4"]]
    assert sorted(each.utterance_id for each in found) == ["u0", "u1", "u2", "u3", "u4"]


def test_a_hypothesis_that_was_not_looked_for_is_an_error():
    with pytest.raises(ValueError, match="u1 was decoded by attention, not by ctc"):
        _ = Hypothesis("u1", {"attention": (3,)}).ctc


def test_transcripts_of_a_cascade_are_scored_too():
    rows = pairs(2)

    class Cascading(Parrot):
        def decode_inputs(self, inputs, utterance_ids, search):
            found = super().decode_inputs(inputs, utterance_ids, search)
            return [replace(each, transcript="the hose") for each in found]

    system = Cascading({"u0": "ja", "u1": ""}, german_tokens())
    result = score_translations(
        system, rows, root=Path(), batch_size=2, search=Search(), head="attention"
    )
    assert [row["heard"] for row in result.rows] == ["the hose", "the hose"]
    # the house -> 1 of 2 wrong; a train goes -> 3 of 3: two substituted, one deleted.
    assert translation_scores(result)["transcript_word_error_rate"] == pytest.approx(100 * 4 / 5)


def test_the_reference_protocol_goes_through_moses_and_back():
    pytest.importorskip("sacremoses")
    text = "Er sagte: „Alles gut“ \N{EN DASH} E-Mail…"
    row = replace(pairs(1)[0], translation=text)
    assert reference_texts([row], "raw") == [text]
    assert reference_texts([row], "reference") == ['Er sagte: "Alles gut" - E-Mail...']


def test_the_reference_protocol_needs_the_language():
    with pytest.raises(UnusableSystem, match=r"target_language.*2 of 2 .*u0, u1"):
        reference_texts(pairs(2, language=None), "reference")


def test_without_sacremoses_the_way_out_is_named(monkeypatch):
    references._moses.cache_clear()
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(UnusableSystem, match=r"pip install 'kd-ray\[moses\]'"):
        reference_texts(pairs(1), "reference")
