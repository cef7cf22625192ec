import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.core.translation_scores import (
    METRICS,
    REPORTED,
    TranslationCounts,
    chrf_errors,
    count_translations,
    num_counts,
    paired_bootstrap,
    resampled_scores,
    score_of,
    sentence_scores,
    sentence_statistics,
    signature,
)

HYPOTHESES = [
    "Der Zug nach Bonn fährt um acht.",
    "",
    "das wird ein Test !",
    "Die Frau, die im Haus wohnt, liest ein Buch über Brücken.",
    "ja",
]
REFERENCES = [
    "Der Zug nach Bonn fährt um acht Uhr ab.",
    "Hier steht etwas.",
    "Das wird kein Test!",
    "Die Frau, die im Haus wohnt, liest ein Buch über alte Brücken.",
    "nein danke",
]
WORDS = ["Haus", "der", "die", "geht", "nach", "Bonn", "um", "acht.", "ein", "Buch,"]


def sacre(metric, sentence=False):
    return {
        "bleu": lambda: sacrebleu.BLEU(effective_order=sentence),
        "chrf": lambda: sacrebleu.CHRF(),
        "chrf++": lambda: sacrebleu.CHRF(word_order=2),
        "ter": lambda: sacrebleu.TER(),
    }[metric]()


@pytest.mark.parametrize("metric", METRICS)
def test_corpus_scores_are_those_of_sacrebleu(metric):
    counts = count_translations(HYPOTHESES, REFERENCES, [metric])
    expected = sacre(metric).corpus_score(HYPOTHESES, [REFERENCES]).score
    assert counts.score(metric) == pytest.approx(expected, abs=1e-9)
    assert counts.sentences == 5


@pytest.mark.parametrize("metric", METRICS)
def test_sentence_scores_are_those_of_sacrebleu(metric):
    found = sentence_scores(sentence_statistics(HYPOTHESES, REFERENCES, metric), metric)
    scorer = sacre(metric, sentence=True)
    expected = [
        scorer.sentence_score(hypothesis, [reference]).score
        for hypothesis, reference in zip(HYPOTHESES, REFERENCES, strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_signatures_are_those_of_sacrebleu(metric):
    scorer = sacre(metric)
    scorer.corpus_score(HYPOTHESES, [REFERENCES])
    assert signature(metric) == str(scorer.get_signature())


def test_another_tokenizer_is_in_counts_and_signature():
    scorer = sacrebleu.BLEU(tokenize="char")
    expected = scorer.corpus_score(HYPOTHESES, [REFERENCES])
    statistics = sentence_statistics(HYPOTHESES, REFERENCES, "bleu", tokenizer="char")
    assert score_of(statistics.sum(axis=0), "bleu") == pytest.approx(expected.score, abs=1e-9)
    assert signature("bleu", tokenizer="char") == str(scorer.get_signature())
    assert "tok:char" in signature("bleu", tokenizer="char")


sentences = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


@given(pairs=st.lists(st.tuples(sentences, sentences), min_size=1, max_size=12), data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_merged_counts_score_as_the_whole_corpus(pairs, data):
    cut = data.draw(st.integers(0, len(pairs)))
    whole = count_translations(*map(list, zip(*pairs, strict=True)))
    parts = TranslationCounts()
    for part in (pairs[cut:], pairs[:cut]):
        if part:
            parts = parts + count_translations(*map(list, zip(*part, strict=True)))
    assert parts == whole
    for metric in REPORTED:
        assert parts.score(metric) == whole.score(metric)
    assert parts.length_ratio == whole.length_ratio


def test_no_sentence_at_all_scores_nothing_and_adds_nothing():
    nothing = TranslationCounts()
    some = count_translations(HYPOTHESES, REFERENCES)
    assert nothing + some == some == some + nothing
    assert nothing.score("bleu") == 0.0
    assert nothing.length_ratio == 1.0
    assert sentence_statistics([], [], "chrf++").shape == (0, num_counts("chrf++"))


def test_counts_of_different_metrics_do_not_add_up():
    bleu, ter = (count_translations(["a"], ["a"], [metric]) for metric in ("bleu", "ter"))
    with pytest.raises(ValueError, match=r"\['bleu'\] and of \['ter'\]"):
        bleu + ter


def test_as_many_hypotheses_as_references_are_needed():
    with pytest.raises(ValueError, match="1 hypotheses but 2 references"):
        sentence_statistics(["a"], ["a", "b"], "bleu")


def test_only_empty_hypotheses_score_zero():
    counts = count_translations(["", ""], ["ein Haus", "zwei Häuser"])
    assert counts.score("bleu") == 0.0
    assert counts.score("chrf++") == 0.0
    assert counts.score("ter") == 100.0
    assert counts.length_ratio == 0.0


def test_length_ratio_is_that_of_bleu():
    counts = count_translations(HYPOTHESES, REFERENCES)
    whole = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES])
    assert counts.length_ratio == whole.sys_len / whole.ref_len


def test_trust_is_one_minus_chrf():
    found = chrf_errors(HYPOTHESES, REFERENCES)
    scorer = sacrebleu.CHRF()
    expected = [
        1 - scorer.sentence_score(hypothesis, [reference]).score / 100
        for hypothesis, reference in zip(HYPOTHESES, REFERENCES, strict=True)
    ]
    assert (found / 1e6).tolist() == pytest.approx(expected, abs=0.5e-6 + 1e-12)
    texts = ["", " ", "a", "Haus", "", "H aus"]
    against = ["", "", "", "Haus", "Haus", "Haus"]
    assert chrf_errors(texts, against).tolist() == [0, 0, 1_000_000, 0, 1_000_000, 0]


@given(pairs=st.lists(st.tuples(sentences, sentences), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_trust_of_any_sentence_is_sacrebleu_s_to_the_millionth(pairs):
    mine, theirs = map(list, zip(*pairs, strict=True))
    for found, hypothesis, reference in zip(
        chrf_errors(mine, theirs), *(mine, theirs), strict=True
    ):
        score = sacrebleu.sentence_chrf(hypothesis, [reference]).score
        both_empty = not hypothesis and not reference
        expected = 0.0 if both_empty else 1 - score / 100
        assert found / 1e6 == pytest.approx(expected, abs=0.5e-6 + 1e-12)


def test_equal_chrf_of_different_texts_is_the_same_integer():
    """The same counts order by order, reached by errors in different places."""
    reference = "abcdefgh"
    mine = ["Xbcdefgh", "abcdefgX"]
    assert len(set(chrf_errors(mine, [reference] * 2).tolist())) == 1


def many(count=80, seed=3):
    draw = np.random.default_rng(seed)
    references = [" ".join(draw.choice(WORDS, int(draw.integers(4, 12)))) for _ in range(count)]

    def noisy(rate):
        return [
            " ".join(
                str(draw.choice(WORDS)) if draw.random() < rate else word for word in r.split()
            )
            for r in references
        ]

    return references, noisy(0.1), noisy(0.4)


def test_a_resampled_score_is_the_score_of_the_drawn_utterances():
    references, good, _ = many(20)
    statistics = sentence_statistics(good, references, "bleu")
    found = resampled_scores(statistics, "bleu", resamples=3, seed=11)
    drawn = np.random.default_rng(11).multinomial(20, np.full(20, 1 / 20), 3)
    for score, times in zip(found, drawn, strict=True):
        rows = [row for row, count in enumerate(times) for _ in range(count)]
        expected = sacrebleu.corpus_bleu([good[i] for i in rows], [[references[i] for i in rows]])
        assert score == pytest.approx(expected.score, abs=1e-9)


@pytest.mark.parametrize("metric", REPORTED)
def test_a_clearly_better_system_is_found(metric):
    references, good, bad = many()
    mine, theirs = (sentence_statistics(texts, references, metric) for texts in (good, bad))
    found = paired_bootstrap(mine, theirs, metric, resamples=200)
    expected = (
        sacre(metric).corpus_score(good, [references]).score
        - sacre(metric).corpus_score(bad, [references]).score
    )
    assert found.difference == pytest.approx(expected, abs=1e-9)
    assert found.interval.low < found.difference < found.interval.high
    assert not found.includes_zero
    assert found.p_value == pytest.approx(2 / 201)
    assert (found.difference < 0) == (metric == "ter")


def test_the_bootstrap_is_deterministic_and_antisymmetric():
    references, good, bad = many()
    mine, theirs = (sentence_statistics(texts, references, "bleu") for texts in (good, bad))
    first = paired_bootstrap(mine, theirs, "bleu", resamples=150, seed=5)
    assert first == paired_bootstrap(mine, theirs, "bleu", resamples=150, seed=5)
    assert first != paired_bootstrap(mine, theirs, "bleu", resamples=150, seed=6)
    back = paired_bootstrap(theirs, mine, "bleu", resamples=150, seed=5)
    assert back.difference == -first.difference
    assert back.interval.low == pytest.approx(-first.interval.high)
    assert back.p_value == first.p_value


@pytest.mark.parametrize("metric", REPORTED)
def test_a_system_does_not_differ_from_itself(metric):
    references, good, _ = many()
    statistics = sentence_statistics(good, references, metric)
    found = paired_bootstrap(statistics, statistics.copy(), metric, resamples=100)
    assert found.difference == 0
    assert (found.interval.low, found.interval.high) == (0, 0)
    assert found.p_value == 1


def test_a_bootstrap_needs_the_same_utterances():
    statistics = sentence_statistics(["a", "b"], ["a", "b"], "ter")
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_bootstrap(statistics, statistics[:1], "ter")
    with pytest.raises(ValueError, match="got 0 and 0"):
        paired_bootstrap(statistics[:0], statistics[:0], "ter")
