"""Sentences of one clause about how, where and how many things are."""

from kd_ray.speech.corpora.demo import lexicon
from kd_ray.speech.corpora.demo.clauses import (
    Adverbial,
    Being,
    Clause,
    Name,
    NounPhrase,
    Pronoun,
    Words,
)
from kd_ray.speech.corpora.demo.patterns.draws import Draws
from kd_ray.speech.corpora.demo.patterns.words import (
    COMPARATIVES,
    COST,
    PERSON,
)
from kd_ray.speech.corpora.demo.phrases import number


class States(Draws):
    """Patterns about being."""

    def _being(self) -> tuple[Words, Words]:
        being = self._be_clause()
        return being.english(), being.german()

    def _comparison(self) -> tuple[Words, Words]:
        draw = self._phrases
        first, second = draw.subject(PERSON), draw.object(PERSON, Pronoun("i"))
        if isinstance(second, Pronoun):
            second = draw.name()
        english, german = draw.one(COMPARATIVES)
        predicate = Adverbial(
            (english, "than", *second.english(subject=False)),
            (german, "als", *second.german("nom")),
        )
        being = Being(first, predicate, past=draw.chance(0.2))
        return being.english(), being.german()

    def _position(self) -> tuple[Words, Words]:
        """Things `are` somewhere; German says whether they lie or stand."""
        draw = self._phrases
        classes, verb = draw.one((("flat", "liegt liegen"), ("upright", "steht stehen")))
        subject = draw.noun_phrase(frozenset({classes}), definite=True)
        being = Being(subject, Adverbial(*self._surface("dat")), verb=verb)
        return being.english(), being.german()

    def _there_is(self) -> tuple[Words, Words]:
        draw = self._phrases
        noun = draw.one([n for n in lexicon.NOUNS if n.plural and n.classes & {"person", "animal"}])
        value = 1 + int(draw.random.random() * 12)
        if value == 1:
            phrase = NounPhrase(noun, "a")
        else:
            phrase = NounPhrase(noun, "", plural=True, number=number(value))
        place = draw.place()
        english = ("there", "is" if value == 1 else "are", *phrase.english(subject=True))
        german = (*place.german, "ist" if value == 1 else "sind", *phrase.german("nom"))
        return (*english, *place.english), german

    def _clock(self) -> tuple[Words, Words]:
        draw = self._phrases
        english, german = draw.clock()
        is_it = draw.weighted(
            [(("it is", "es ist"), 3.0), (("it is already", "es ist schon"), 1.5)]
        )
        return (is_it[0], english), (is_it[1], german)

    def _counting(self) -> tuple[Words, Words]:
        """Ages and prices: German numbers put the units before the tens."""
        draw = self._phrases
        english, german = number(2 + int(draw.random.random() * 98))
        if draw.chance(0.5):
            predicate = Adverbial((english, "years", "old"), (german, "Jahre", "alt"))
            being = Being(draw.subject(PERSON), predicate)
            return being.english(), being.german()
        subject = draw.noun_phrase(
            frozenset({"wearable", "furniture", "cycle", "flat"}), definite=True
        )
        price = Name(f"{english} euros", f"{german} Euro", "they")
        clause = Clause(subject, *COST, "present", direct=price)
        return clause.english(), clause.german()
