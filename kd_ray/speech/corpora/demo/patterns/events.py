"""Sentences of one clause about what somebody does."""

from dataclasses import replace

from kd_ray.speech.corpora.demo import lexicon
from kd_ray.speech.corpora.demo.clauses import (
    Adverbial,
    Clause,
    Name,
    Words,
)
from kd_ray.speech.corpora.demo.patterns.draws import Draws
from kd_ray.speech.corpora.demo.patterns.words import (
    FLY,
    GO_BY_VEHICLE,
    GO_ON_FOOT,
    HAVE,
    LANGUAGES,
    LAY,
    LIVE,
    MODALS,
    PERSON,
    PLAY,
    RUN,
    SPEAK,
    STAND,
    TRAVEL,
)


class Events(Draws):
    """Patterns about doing, giving, moving and having."""

    def _plain(self) -> tuple[Words, Words]:
        clause = self._clause()
        return clause.english(), clause.german()

    def _fronted(self) -> tuple[Words, Words]:
        clause = self._clause(short=True)
        if clause.tense in ("progressive", "perfect"):
            clause = replace(clause, tense="future")
        time = self._phrases.time(clause.tense)
        return (*time.english, *clause.english()), clause.german(front=time.german)

    def _giving(self) -> tuple[Words, Words]:
        draw = self._phrases
        verb = draw.one(lexicon.GIVING)
        sense = verb.senses[0]
        subject = draw.subject(PERSON)
        tense = self._tense(verb)
        clause = Clause(
            subject,
            verb,
            sense.german,
            tense,
            modal=draw.one(MODALS),
            direct=draw.noun_phrase(sense.objects),
            recipient=draw.object(PERSON, subject),
        )
        return clause.english(), clause.german()

    def _motion(self) -> tuple[Words, Words]:
        draw = self._phrases
        verb, kind = draw.one(
            (
                (GO_BY_VEHICLE, "city"),
                (GO_ON_FOOT, "place"),
                (FLY, "city"),
                (TRAVEL, "city"),
                (RUN, "place"),
            )
        )
        tense = self._tense(verb[0])
        clause = Clause(
            draw.subject(PERSON),
            *verb,
            tense,
            modal=draw.one(MODALS),
            place=draw.to_city() if kind == "city" else draw.to_place(),
            negated=draw.chance(0.12),
        )
        if kind == "city" and verb is not FLY and draw.chance(0.25):
            clause = replace(clause, manner=draw.means())
        elif tense not in ("progressive", "perfect") and draw.chance(0.4):
            clause = replace(clause, time=draw.time(tense))
        return clause.english(), clause.german()

    def _placing(self) -> tuple[Words, Words]:
        """`put`: flat things are laid, others are stood; both govern the accusative."""
        draw = self._phrases
        verb, classes = draw.one(((LAY, "flat"), (STAND, "upright")))
        clause = Clause(
            draw.subject(PERSON),
            *verb,
            self._tense(verb[0]),
            modal=draw.one(MODALS),
            direct=draw.noun_phrase(frozenset({classes}), definite=True),
            place=Adverbial(*self._surface("acc")),
        )
        return clause.english(), clause.german()

    def _living(self) -> tuple[Words, Words]:
        draw = self._phrases
        tense = draw.weighted([("present", 3.0), ("past", 1.0), ("want", 2.0)])
        clause = Clause(draw.subject(PERSON), *LIVE, tense, place=draw.city())  # type: ignore[arg-type]
        return clause.english(), clause.german()

    def _having(self) -> tuple[Words, Words]:
        draw = self._phrases
        subject = draw.subject(PERSON)
        tense = draw.weighted([("present", 3.0), ("past", 1.0), ("future", 0.7)])
        owned = draw.weighted(
            [
                (draw.noun_phrase(frozenset({"kin", "animal", "thing", "vehicle", "room"})), 5.0),
                (Name("time", "Zeit", "he"), 0.6),
                (Name("no time", "keine Zeit", "he"), 0.6),
                (Name("no money", "kein Geld", "he"), 0.4),
                (Name("glasses", "eine Brille", "he"), 0.4),
            ]
        )
        clause = Clause(subject, *HAVE, tense, direct=owned)  # type: ignore[arg-type]
        if draw.chance(0.3):
            clause = replace(clause, time=draw.time(clause.tense))
        return clause.english(), clause.german()

    def _skill(self) -> tuple[Words, Words]:
        """Languages and instruments: German has no article here."""
        draw = self._phrases
        if draw.chance(0.5):
            english, german = draw.one(LANGUAGES)
            verb, skill = SPEAK, Name(english, german, "he")
        else:
            noun = draw.one([n for n in lexicon.NOUNS if "instrument" in n.classes])
            verb, skill = PLAY, Name(f"the {noun.singular}", noun.german, "he")
        clause = Clause(
            draw.subject(PERSON), *verb, self._tense(verb[0]), draw.one(MODALS), direct=skill
        )
        if draw.chance(0.3) and clause.tense not in ("progressive", "perfect"):
            clause = replace(clause, time=draw.time(clause.tense))
        return clause.english(), clause.german()
