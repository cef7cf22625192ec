import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.speech.corpora.demo import german as de
from kd_ray.speech.corpora.demo import grammar as grammar_module
from kd_ray.speech.corpora.demo import lexicon
from kd_ray.speech.corpora.demo.clauses import (
    DETERMINERS,
    Adverbial,
    Being,
    Clause,
    Name,
    NounPhrase,
    Pronoun,
)
from kd_ray.speech.corpora.demo.grammar import (
    SPLIT_SHARES,
    GrammarExhaustedError,
    SentenceSource,
    frequent_words,
    split_of,
)
from kd_ray.speech.corpora.demo.patterns import Grammar
from kd_ray.speech.corpora.demo.phrases import number


def noun(singular):
    return next(entry for entry in lexicon.NOUNS if entry.singular == singular)


def adjective(english):
    return next(entry for entry in lexicon.ADJECTIVES if entry.english == english)


def clause(subject, base, german, **values):
    """A clause with the verb whose German infinitive (with prefix) is given."""
    for verb in lexicon.VERBS + lexicon.GIVING:
        for sense in verb.senses:
            full = sense.german.prefix + sense.german.infinitive
            if (verb.base, full) == (base, german):
                return Clause(subject, verb, sense.german, **values)
    raise AssertionError((base, german))


def german(words):
    return " ".join(de.contract(" ".join(words).split()))


TOMORROW = Adverbial(("tomorrow",), ("morgen",))
MUST = ("must", "muss", "musst", "müssen")


@pytest.mark.parametrize(
    ("phrase", "nominative", "accusative", "dative"),
    [
        (("man", "the", False, "old"), "der alte Mann", "den alten Mann", "dem alten Mann"),
        (("man", "a", False, "old"), "ein alter Mann", "einen alten Mann", "einem alten Mann"),
        (("woman", "my", False, "young"), "meine junge Frau", None, "meiner jungen Frau"),
        (("child", "a", False, "clever"), "ein kluges Kind", None, "einem klugen Kind"),
        (
            ("car", "our", False, "red"),
            "unser rotes Auto",
            "unser rotes Auto",
            "unserem roten Auto",
        ),
        (
            ("student", "this", False, None),
            "dieser Student",
            "diesen Studenten",
            "diesem Studenten",
        ),
        (("house", "", True, "big"), None, None, "großen Häusern"),
        (("book", "every", False, "new"), "jedes neue Buch", "jedes neue Buch", "jedem neuen Buch"),
        (("tea", "", False, "hot"), "heißer Tee", "heißen Tee", "heißem Tee"),
        (("hat", "their", True, "new"), "ihre neuen Hüte", "ihre neuen Hüte", "ihren neuen Hüten"),
        (("wine", "the", False, "expensive"), "der teure Wein", "den teuren Wein", None),
        (("dog", "this", False, "tired"), "dieser müde Hund", None, "diesem müden Hund"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_noun_phrases_inflect(phrase, nominative, accusative, dative):
    singular, determiner, plural, word = phrase
    quality = adjective(word) if word else None
    made = NounPhrase(noun(singular), determiner, plural, quality)
    for case, expected in (("nom", nominative), ("acc", accusative), ("dat", dative)):
        if expected is not None:
            assert " ".join(made.german(case)) == expected


def test_numbers_take_strong_adjective_endings():
    phrase = NounPhrase(noun("apple"), "", True, adjective("red"), number(3))
    assert " ".join(phrase.english(subject=True)) == "three red apples"
    assert " ".join(phrase.german("nom")) == "drei rote Äpfel"
    assert " ".join(phrase.german("dat")) == "drei roten Äpfeln"


@pytest.mark.parametrize(
    ("value", "english", "expected"),
    [
        (1, "one", "eins"),
        (12, "twelve", "zwölf"),
        (17, "seventeen", "siebzehn"),
        (20, "twenty", "zwanzig"),
        (21, "twenty one", "einundzwanzig"),
        (36, "thirty six", "sechsunddreißig"),
        (99, "ninety nine", "neunundneunzig"),
    ],
)
def test_german_numbers_put_units_first(value, english, expected):
    assert number(value) == (english, expected)


@pytest.mark.parametrize(
    ("infinitive", "forms"),
    [
        ("sehen", "sehe siehst sieht sehen"),
        ("lesen", "lese liest liest lesen"),
        ("arbeiten", "arbeite arbeitest arbeitet arbeiten"),
        ("anhalten", "halte hältst hält halten"),
        ("lächeln", "lächle lächelst lächelt lächeln"),
        ("tanzen", "tanze tanzt tanzt tanzen"),
        ("verlassen", "verlasse verlässt verlässt verlassen"),
        ("einladen", "lade lädst lädt laden"),
    ],
)
def test_german_verbs_conjugate(infinitive, forms):
    verbs = [sense.german for verb in lexicon.VERBS for sense in verb.senses]
    verb = next(verb for verb in verbs if verb.prefix + verb.infinitive == infinitive)
    assert [de.present(verb, person) for person in ("i", "you", "he", "we")] == forms.split()


def test_word_order_follows_each_language():
    window = NounPhrase(noun("window"), "the")
    opening = clause(Pronoun("she"), "open", "öffnen", direct=window)
    modal = replace(opening, tense="modal", modal=MUST, time=TOMORROW)
    assert " ".join(modal.english()) == "she must open the window tomorrow"
    assert german(modal.german()) == "sie muss morgen das Fenster öffnen"
    assert german(modal.german(order="subordinate")) == "sie morgen das Fenster öffnen muss"
    past = replace(opening, tense="past")
    assert " ".join(past.english()) == "she opened the window"
    assert german(past.german()) == "sie hat das Fenster geöffnet"
    assert german(past.german(order="subordinate")) == "sie das Fenster geöffnet hat"
    assert german(past.german(order="question")) == "hat sie das Fenster geöffnet"
    assert " ".join(past.english(order="question")) == "did she open the window"
    assert german(opening.german(front=("heute",))) == "heute öffnet sie das Fenster"


def test_separable_prefix_goes_to_the_end_and_back():
    call = clause(Pronoun("i"), "call", "anrufen", direct=Pronoun("he"))
    assert german(call.german()) == "ich rufe ihn an"
    assert german(call.german(order="subordinate")) == "ich ihn anrufe"
    assert german(replace(call, tense="future").german()) == "ich werde ihn anrufen"
    assert german(replace(call, tense="perfect").german()) == "ich habe ihn angerufen"
    assert german(call.german_infinitive()) == "ihn anzurufen"


def test_negation_is_kein_or_nicht():
    book = NounPhrase(noun("book"), "a")
    reading = clause(Pronoun("we"), "read", "lesen", direct=book, negated=True)
    assert " ".join(reading.english()) == "we do not read a book"
    assert german(reading.german()) == "wir lesen kein Buch"
    definite = replace(reading, direct=replace(book, determiner="the"))
    assert german(definite.german()) == "wir lesen das Buch nicht"


def test_must_not_forbids():
    sleeping = clause(Pronoun("you"), "sleep", "schlafen", tense="modal", modal=MUST, negated=True)
    assert " ".join(sleeping.english()) == "you must not sleep"
    assert german(sleeping.german()) == "du darfst nicht schlafen"


def test_dative_and_preposition_objects():
    helping = clause(Pronoun("he"), "help", "helfen", direct=NounPhrase(noun("neighbour"), "our"))
    assert german(helping.german()) == "er hilft unserem Nachbarn"
    waiting = clause(Pronoun("he"), "wait", "warten", direct=NounPhrase(noun("train"), "the"))
    assert " ".join(waiting.english()) == "he waits for the train"
    assert german(waiting.german()) == "er wartet auf den Zug"
    giving = clause(
        Name("anna", "Anna", "she"),
        "give",
        "geben",
        direct=NounPhrase(noun("apple"), "a"),
        recipient=NounPhrase(noun("child"), "the"),
    )
    assert " ".join(giving.english()) == "anna gives the child an apple"
    assert german(giving.german()) == "Anna gibt dem Kind einen Apfel"


def test_context_decides_between_translations():
    def senses(base):
        verbs = [verb for verb in lexicon.VERBS if verb.base == base]
        return {sense.german.prefix + sense.german.infinitive for v in verbs for sense in v.senses}

    assert {"essen", "fressen"} <= senses("eat")
    assert {"retten", "sparen"} <= senses("save")
    assert {"verpassen", "vermissen"} <= senses("miss")
    hard = adjective("hard")
    assert hard.german(noun("question").classes) == "schwierig"
    assert hard.german(noun("chair").classes) == "hart"
    assert adjective("light").german(noun("kitchen").classes) == "hell"
    assert adjective("light").german(noun("bag").classes) == "leicht"
    lying = Being(
        NounPhrase(noun("key"), "the"), Adverbial(("here",), ("hier",)), verb="liegt liegen"
    )
    assert german(lying.german()) == "der Schlüssel liegt hier"


def test_lexicon_is_consistent():
    assert len({entry.singular for entry in lexicon.NOUNS}) == len(lexicon.NOUNS)
    classes = frozenset().union(*(entry.classes for entry in lexicon.NOUNS))
    for verb in lexicon.VERBS:
        for sense in verb.senses:
            assert sense.subjects <= classes, verb.base
            assert sense.objects <= classes, verb.base
    for entry in lexicon.ADJECTIVES:
        assert any(entry.german(other.classes) for other in lexicon.NOUNS), entry.english
    for word, case, shape in itertools.product(
        DETERMINERS.values(), ("nom", "acc", "dat"), ("m", "f", "n", "pl")
    ):
        assert de.determiner(word, case, shape)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), max_words=st.integers(3, 14))
def test_sentences_keep_the_length_and_the_alphabet(seed, max_words):
    grammar = Grammar(seed, max_words)
    for _ in range(20):
        pair = grammar.draw()
        assert 3 <= len(pair.english.split()) <= max_words
        assert set(pair.english) <= set("abcdefghijklmnopqrstuvwxyz ")
        assert pair.german.replace(" ", "").isalpha()
        assert "  " not in pair.english + pair.german
        assert len(pair.german.split()) >= 2


def test_same_seed_gives_the_same_sentences():
    first, second, other = (Grammar(seed, 7) for seed in (3, 3, 4))
    pairs = [first.draw() for _ in range(50)]
    assert pairs == [second.draw() for _ in range(50)]
    assert pairs != [other.draw() for _ in range(50)]


def test_seven_words_are_enough_for_twenty_thousand_sentences():
    grammar = Grammar(1, 7)
    sample = [grammar.draw().english for _ in range(3_000)]
    # Birthday estimate of the number of equally likely sentences: pairs of draws over coincidences.
    # Frequent sentences raise the coincidences, so this is a lower bound.
    coincidences = sum(count * (count - 1) // 2 for count in Counter(sample).values())
    assert 3_000 * 2_999 / 2 / max(1, coincidences) > 20_000
    assert len({word for sentence in sample for word in sentence.split()}) > 600


def test_splits_share_no_sentence_whatever_is_taken_of_each():
    source, again = SentenceSource(1, 6), SentenceSource(1, 6)
    taken = {split: [source.next(split) for _ in range(30)] for split in SPLIT_SHARES}
    english = [pair.english for pairs in taken.values() for pair in pairs]
    assert len(set(english)) == len(english)
    assert all(split_of(pair.english) == split for split, pairs in taken.items() for pair in pairs)
    assert sum(SPLIT_SHARES.values()) == 100
    assert [again.next("test") for _ in range(30)] == taken["test"]


def test_exhausted_grammar_says_so(monkeypatch):
    class Parrot(Grammar):
        def draw(self):
            return replace(super().draw(), english="we sing")

    monkeypatch.setattr(grammar_module, "Grammar", Parrot)
    monkeypatch.setattr(SentenceSource, "_PATIENCE", 20)
    source = SentenceSource(1, 3)
    split = split_of("we sing")
    assert source.next(split).english == "we sing"
    with pytest.raises(GrammarExhaustedError, match=r"at most 3 words.*raise max_words"):
        source.next(split)


def test_a_small_vocabulary_keeps_to_the_most_frequent_words():
    words = frequent_words(200, 6)
    assert len(words) == 200
    assert {"the", "is", "we"} <= words
    source = SentenceSource(1, 6, vocabulary=200)
    english = [source.next("train").english for _ in range(200)]
    assert len(set(english)) == 200
    assert {word for sentence in english for word in sentence.split()} <= words
    unlimited = SentenceSource(1, 6)
    assert (
        not {word for _ in range(200) for word in unlimited.next("train").english.split()} <= words
    )


def test_an_exhausted_vocabulary_says_so(monkeypatch):
    # Six words: sentences of three are rare among what is drawn. Which words are frequent is told
    # from a tenth of the draws, and forgotten again.
    monkeypatch.setattr(grammar_module, "_COUNTED_SENTENCES", 1_000)
    monkeypatch.setattr(grammar_module, "frequent_words", frequent_words.__wrapped__)
    monkeypatch.setattr(SentenceSource, "_PATIENCE", 300)
    source = SentenceSource(1, 6, vocabulary=40)
    found = []

    def exhaust():
        while True:
            found.append(source.next("text_only"))

    with pytest.raises(GrammarExhaustedError, match=r"out of 40.*raise max_words or vocabulary"):
        exhaust()
    assert found
