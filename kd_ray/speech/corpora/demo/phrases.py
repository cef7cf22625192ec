"""Random phrases of the demo grammar: who, what, when, where and how, in both languages."""

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import TypeVar

from kd_ray.speech.corpora.demo import german as de
from kd_ray.speech.corpora.demo import lexicon, tables
from kd_ray.speech.corpora.demo.clauses import Adverbial, Name, NounPhrase, Phrase, Pronoun, Tense
from kd_ray.speech.corpora.demo.lexicon import Adjective, Noun, entries

Item = TypeVar("Item")


@cache
def _nouns(classes: frozenset[str]) -> tuple[Noun, ...]:
    return tuple(noun for noun in lexicon.NOUNS if noun.classes & classes)


@cache
def adjectives_for(classes: frozenset[str]) -> tuple[Adjective, ...]:
    """Adjectives that fit what has these classes."""
    return tuple(a for a in lexicon.ADJECTIVES if a.german(classes))


_PRONOUN_WEIGHTS: dict[de.Person, int] = {"i": 4, "you": 2, "he": 4, "she": 4, "we": 4, "they": 4}
_POSSESSIVES = ("my", "your", "his", "her", "our", "their")
_NAMES = entries(tables.NAMES)
_CITIES = entries(tables.CITIES)
_COUNTRIES = tuple(tuple(line.split("|")) for line in tables.ARTICLE_COUNTRIES.strip().split("\n"))
_WEEKDAYS = entries(tables.WEEKDAYS)
_MONTHS = entries(tables.MONTHS)
_ORDINALS = entries(tables.ORDINALS)
_MANNER = entries(tables.MANNER)
_ENGLISH_NUMBERS = tuple(english for english, _ in entries(tables.NUMBER_WORDS))
_ENGLISH_TENS = tuple(english for english, _ in entries(tables.TENS_WORDS))


def _adverbials(table: str) -> tuple[Adverbial, ...]:
    pairs = (line.split("=") for line in table.strip().split("\n"))
    return tuple(Adverbial(tuple(en.split()), tuple(ger.split())) for en, ger in pairs)


_ANY_TIME = """
today=heute
in the morning=am Morgen
in the evening=am Abend
at night=in der Nacht
in spring=im Frühling
in summer=im Sommer
in autumn=im Herbst
in winter=im Winter
before lunch=vor dem Mittagessen
after the lesson=nach der Stunde
during the holiday=während der Ferien
at noon=mittags
"""
_TIMES: dict[str, tuple[Adverbial, ...]] = {
    "present": _adverbials(_ANY_TIME + "now=jetzt\nevery day=jeden Tag\nthis week=diese Woche"),
    "past": _adverbials(
        _ANY_TIME + "yesterday=gestern\nlast week=letzte Woche\nlast night=letzte Nacht\n"
        "last year=letztes Jahr\nthis morning=heute Morgen\nthree times=dreimal\ntwice=zweimal"
    ),
    "future": _adverbials(
        _ANY_TIME + "tomorrow=morgen\nnext week=nächste Woche\nsoon=bald\nlater=später\n"
        "next year=nächstes Jahr\ntonight=heute Abend\ntomorrow morning=morgen früh"
    ),
}
_OFTEN = _adverbials("often=oft\nalways=immer\nnever=nie\nsometimes=manchmal\nrarely=selten")
_ALREADY = _adverbials("already=schon\nnever=nie\njust=gerade\noften=oft")
_MEANS = _adverbials(
    "by train=mit dem Zug\nby bus=mit dem Bus\nby car=mit dem Auto\nby ship=mit dem Schiff"
)
_FIXED_PLACES = _adverbials(
    "at home=zu Hause\nat school=in der Schule\nat the bank=in der Bank\non the bank=am Ufer\n"
    "at the station=am Bahnhof\nat the airport=am Flughafen\noutside=draußen\nhere=hier\n"
    "by the sea=am Meer\non the beach=am Strand\nin the mountains=in den Bergen\n"
    "at the market=auf dem Markt\nin the park=im Park\nupstairs=oben\nin the sun=in der Sonne"
)


def number(value: int) -> tuple[str, str]:
    """English and German words for 1 to 99."""
    if value < 20:
        english = _ENGLISH_NUMBERS[value - 1]
    else:
        tens, units = divmod(value, 10)
        english = _ENGLISH_TENS[tens - 2] + (f" {_ENGLISH_NUMBERS[units - 1]}" if units else "")
    return english, de.number(value)


class Phrases:
    """Draws phrases; everything random comes from `random`."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random.random() < probability

    def one(self, items: Sequence[Item]) -> Item:
        """One of the items, evenly."""
        return items[int(self.random.random() * len(items))]

    def weighted(self, items: Sequence[tuple[Item, float]]) -> Item:
        """One of the items, by weight."""
        left = self.random.random() * sum(weight for _, weight in items)
        for item, weight in items:
            left -= weight
            if left < 0:
                return item
        return items[-1][0]

    def pronoun(self, unlike: Phrase | None = None) -> Pronoun:
        """A pronoun; as an object it must not be the subject again."""
        allowed = [(Pronoun(person), weight) for person, weight in _PRONOUN_WEIGHTS.items()]
        if isinstance(unlike, Pronoun):
            first = ("i", "we")
            person = unlike.person
            barred = first if person in first else (person,)
            allowed = [(pronoun, w) for pronoun, w in allowed if pronoun.person not in barred]
        return self.weighted(allowed)

    def name(self) -> Name:
        """A person's name."""
        name, german, gender = self.one(_NAMES)
        return Name(name, german, "he" if gender == "m" else "she")

    def adjective_for(self, noun: Noun) -> Adjective | None:
        """An adjective that fits the noun."""
        fitting = adjectives_for(noun.classes)
        return self.one(fitting) if fitting else None

    def noun_phrase(self, classes: frozenset[str], *, definite: bool = False) -> NounPhrase:
        """A noun phrase of one of the classes."""
        noun = self.one(_nouns(classes))
        adjective = self.adjective_for(noun) if self.chance(0.3) else None
        if not noun.plural:
            determiner = self.one(("the", "the", "my", "your") if definite else ("the", "", ""))
            return NounPhrase(noun, determiner, adjective=adjective)
        plural = self.chance(0.25)
        if "kin" in noun.classes and self.chance(0.8):
            return NounPhrase(noun, self.one(_POSSESSIVES), plural, adjective)
        if plural and not definite and self.chance(0.4):
            value = number(2 + int(self.random.random() * 11))
            return NounPhrase(noun, "", True, adjective, value)
        if plural:
            weights = [("the", 4.0), ("this", 2.0), (self.one(_POSSESSIVES), 3.0)]
            return NounPhrase(
                noun, self.weighted(weights + [("", 3.0)] * (not definite)), True, adjective
            )
        weights = [("the", 6.0), ("this", 2.0), (self.one(_POSSESSIVES), 3.0), ("every", 0.5)]
        return NounPhrase(
            noun, self.weighted(weights + [("a", 5.0)] * (not definite)), False, adjective
        )

    def subject(self, classes: frozenset[str]) -> Phrase:
        """Someone or something that acts."""
        if "person" in classes:
            kind = self.weighted([("pronoun", 5.0), ("name", 2.5), ("noun", 4.0)])
            if kind == "pronoun":
                return self.pronoun()
            if kind == "name":
                return self.name()
        return self.noun_phrase(classes, definite=True)

    def object(self, classes: frozenset[str], subject: Phrase) -> Phrase:
        """Someone or something acted upon."""
        if "person" in classes:
            kind = self.weighted([("pronoun", 3.0), ("name", 2.0), ("noun", 4.0)])
            if kind == "pronoun":
                return self.pronoun(unlike=subject)
            if kind == "name":
                name = self.name()
                return name if name != subject else self.pronoun(unlike=subject)
        return self.noun_phrase(classes)

    def clock(self) -> tuple[str, str]:
        """A time of day; German counts the half hour towards the next hour."""
        hour = 1 + int(self.random.random() * 12)
        english, german = number(hour)
        following = number(hour % 12 + 1)
        minute, minute_german = number(self.one((5, 10, 20)))
        return self.weighted(
            [
                ((english, german), 3.0),
                ((f"half past {english}", f"halb {following[1]}"), 3.0),
                ((f"quarter past {english}", f"Viertel nach {german}"), 1.5),
                ((f"quarter to {english}", f"Viertel vor {german}"), 1.5),
                ((f"{minute} past {english}", f"{minute_german} nach {german}"), 1.0),
                ((f"{minute} to {english}", f"{minute_german} vor {german}"), 1.0),
            ]
        )

    def time(self, tense: Tense) -> Adverbial:
        """When; only what goes with the tense."""
        key = {"past": "past", "present": "present"}.get(tense, "future")
        kind = self.weighted(
            [("fixed", 6.0), ("day", 1.5), ("month", 0.7), ("clock", 2.0), ("span", 1.0)]
        )
        if kind == "day":
            day = self.one(_WEEKDAYS)
            return Adverbial(("on", day[0]), ("am", day[1]))
        if kind == "month":
            month = self.one(_MONTHS)
            if self.chance(0.5):
                return Adverbial(("in", month[0]), ("im", month[1]))
            day = self.one(_ORDINALS)
            return Adverbial(("on", "the", day[0], "of", month[0]), ("am", day[1], month[1]))
        if kind == "clock":
            english, german = self.clock()
            return Adverbial(("at", *english.split()), ("um", *german.split()))
        if kind == "span" and key != "present":
            value = number(2 + int(self.random.random() * 9))
            unit = self.one(
                (("days", "Tagen"), ("hours", "Stunden"), ("weeks", "Wochen"), ("years", "Jahren"))
            )
            if key == "past":
                return Adverbial((value[0], unit[0], "ago"), ("vor", value[1], unit[1]))
            return Adverbial(("in", value[0], unit[0]), ("in", value[1], unit[1]))
        return self.one(_TIMES[key])

    def frequency(self, tense: Tense) -> Adverbial:
        """How often; with the perfect also `already` and `just`."""
        return self.one(_ALREADY if tense == "perfect" else _OFTEN)

    def manner(self) -> Adverbial:
        """How."""
        english, german = self.one(_MANNER)
        return Adverbial((english,), (german,))

    def means(self) -> Adverbial:
        """By which vehicle."""
        return self.one(_MEANS)

    def place(self) -> Adverbial:
        """Where: two-way prepositions take the dative."""
        kind = self.weighted([("fixed", 3.0), ("city", 2.0), ("in", 3.0), ("front", 1.5)])
        if kind == "city":
            return self.city()
        if kind == "in":
            phrase = self.noun_phrase(frozenset({"room", "town", "forest"}), definite=True)
            return Adverbial(("in", *phrase.english(subject=False)), ("in", *phrase.german("dat")))
        if kind == "front":
            phrase = self.noun_phrase(frozenset({"building", "tree"}), definite=True)
            english, german = self.one(
                (("behind", "hinter"), ("near", "bei"), ("in front of", "vor"))
            )
            return Adverbial(
                (*english.split(), *phrase.english(subject=False)), (german, *phrase.german("dat"))
            )
        return self.one(_FIXED_PLACES)

    def city(self) -> Adverbial:
        """In which city or country."""
        if self.chance(0.06):
            english, where, _ = self.one(_COUNTRIES)
            return Adverbial(("in", english), tuple(where.split()))
        english, german = self.one(_CITIES)
        return Adverbial(("in", english), ("in", german))

    def to_city(self) -> Adverbial:
        """To which city or country: `nach`, but `in die Schweiz`."""
        if self.chance(0.06):
            english, _, whither = self.one(_COUNTRIES)
            return Adverbial(("to", english), tuple(whither.split()))
        english, german = self.one(_CITIES)
        return Adverbial(("to", english), ("nach", german))

    def to_place(self) -> Adverbial:
        """To which building (`zu`, dative) or into which room (`in`, accusative)."""
        if self.chance(0.12):
            return Adverbial(("home",), ("nach", "Hause"))
        if self.chance(0.5):
            phrase = self.noun_phrase(frozenset({"building", "kin"}), definite=True)
            return Adverbial(("to", *phrase.english(subject=False)), ("zu", *phrase.german("dat")))
        phrase = self.noun_phrase(frozenset({"room", "forest"}), definite=True)
        return Adverbial(("into", *phrase.english(subject=False)), ("in", *phrase.german("acc")))
