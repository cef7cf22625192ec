"""Clauses and statements that several patterns are made of."""

from dataclasses import replace
from random import Random

from kd_ray.speech.corpora.demo import lexicon
from kd_ray.speech.corpora.demo.clauses import (
    Adverbial,
    Being,
    Clause,
    NounPhrase,
    Statement,
    Tense,
    Words,
)
from kd_ray.speech.corpora.demo.lexicon import Verb
from kd_ray.speech.corpora.demo.patterns.words import (
    MODALS,
    PERSON,
)
from kd_ray.speech.corpora.demo.phrases import Phrases, adjectives_for


class Draws:
    """Draws clauses and statements; patterns are methods of classes that build on it."""

    def __init__(self, seed: int) -> None:
        self._phrases = Phrases(Random(seed))

    def _tense(self, verb: Verb) -> Tense:
        tenses: list[tuple[Tense, float]] = [
            ("present", 4.0),
            ("perfect", 1.5),
            ("past", 3.0),
            ("future", 2.0),
            ("modal", 2.5),
            ("want", 1.0),
        ]
        if verb.progressive:
            tenses.append(("progressive", 2.0))
        return self._phrases.weighted(tenses)

    def _clause(self, *, short: bool = False, person_only: bool = False) -> Clause:
        """A clause about anything; `short` ones carry no adverbials and no long subjects."""
        draw = self._phrases
        while True:
            verb = draw.one(lexicon.VERBS)
            sense = draw.one(verb.senses)
            if not person_only or "person" in sense.subjects:
                break
        subject = draw.subject(sense.subjects)
        if short and "person" in sense.subjects and draw.chance(0.7):
            subject = draw.pronoun()
        direct = draw.object(sense.objects, subject) if sense.objects else None
        tense = self._tense(verb)
        if tense in ("modal", "want") and "person" not in sense.subjects:
            tense = "present"
        clause = Clause(subject, verb, sense.german, tense, direct=direct)
        if tense == "modal":
            clause = replace(clause, modal=draw.one(MODALS))
        if draw.chance(0.15) and clause.modal[:1] != ("should",):
            clause = replace(clause, negated=True)
        return clause if short else self._with_adverbials(clause)

    def _with_adverbials(self, clause: Clause) -> Clause:
        draw = self._phrases
        if clause.tense in ("present", "perfect", "past", "future") and draw.chance(0.2):
            if not clause.negated:
                clause = replace(clause, frequency=draw.frequency(clause.tense))
        elif clause.tense not in ("progressive", "perfect") and draw.chance(0.45):
            clause = replace(clause, time=draw.time(clause.tense))
        if clause.direct is None and draw.chance(0.35):
            clause = replace(clause, place=draw.place())
        if not clause.negated and clause.place is None and draw.chance(0.1):
            clause = replace(clause, manner=draw.manner())
        return clause

    def _be_clause(self, *, short: bool = False) -> Being:
        """`X is (not) (very) adjective`."""
        draw = self._phrases
        classes = PERSON if short or draw.chance(0.5) else frozenset({"thing", "building", "food"})
        classes = (
            classes if classes is PERSON else classes | {"abstract", "event", "room", "animal"}
        )
        subject = draw.subject(classes)
        if isinstance(subject, NounPhrase):
            subject = replace(subject, adjective=None)
        noun_classes = subject.noun.classes if isinstance(subject, NounPhrase) else PERSON
        adjective = draw.one(adjectives_for(noun_classes))
        german = adjective.german(noun_classes)
        assert german
        degree = draw.weighted([(("", ""), 4.0), (("very", "sehr"), 1.5), (("too", "zu"), 1.0)])
        predicate = Adverbial((degree[0], adjective.english), (degree[1], german))
        return Being(subject, predicate, past=draw.chance(0.35), negated=draw.chance(0.15))

    def _statement(self) -> Statement:
        draw = self._phrases
        return self._be_clause(short=True) if draw.chance(0.3) else self._clause(short=True)

    def _surface(self, case: lexicon.Case) -> tuple[Words, Words]:
        """`on the table` or `in(to) the box`, in the wanted case."""
        draw = self._phrases
        if draw.chance(0.6):
            phrase = draw.noun_phrase(frozenset({"surface"}), definite=True)
            preposition, german = "on", "auf"
        else:
            phrase = draw.noun_phrase(frozenset({"inside"}), definite=True)
            preposition, german = ("into" if case == "acc" else "in"), "in"
        return (preposition, *phrase.english(subject=False)), (german, *phrase.german(case))
