"""Sentences of two clauses, questions and requests."""

from dataclasses import replace

from kd_ray.speech.corpora.demo import german as de
from kd_ray.speech.corpora.demo.clauses import (
    Adverbial,
    Being,
    Clause,
    NounPhrase,
    Order,
    Pronoun,
    Words,
)
from kd_ray.speech.corpora.demo.patterns.draws import Draws
from kd_ray.speech.corpora.demo.patterns.words import (
    ASK,
    DECIDE,
    GLAD,
    HOPE,
    KNOW,
    PERSON,
    PLAN,
    SAY,
    THINK,
    TRY,
)


class Connected(Draws):
    """Patterns that join, nest or turn clauses."""

    def _activity(self) -> Clause:
        """Something a person does deliberately, present tense, subject yet to be replaced."""
        while True:
            clause = replace(self._clause(short=True, person_only=True), negated=False)
            if clause.verb.base in GLAD.split() and clause.german_verb.third != "funktioniert":
                return replace(clause, tense="present", subject=self._phrases.subject(PERSON))

    def _gladly(self) -> tuple[Words, Words]:
        clause = replace(self._activity(), gladly=True, negated=self._phrases.chance(0.2))
        return clause.english(), clause.german()

    def _infinitive(self) -> tuple[Words, Words]:
        draw = self._phrases
        inner = self._clause(short=True, person_only=True)
        inner = replace(inner, tense="present", negated=False)
        verb = draw.one((TRY, PLAN, DECIDE, HOPE))
        tense = draw.weighted([("present", 2.0), ("past", 2.0), ("future", 0.5)])
        outer = Clause(draw.subject(PERSON), *verb, tense)  # type: ignore[arg-type]
        english = (*outer.english(), "to", inner.verb.base, *inner.english_middle())
        return english, (*outer.german(), *inner.german_infinitive())

    def _reported(self) -> tuple[Words, Words]:
        """`that`, `if`, `why`, `where`, `when` after saying and asking: the verb goes last."""
        draw = self._phrases
        verb = draw.one((SAY, THINK, KNOW, HOPE, ASK))
        inner = self._statement()
        if verb is ASK:
            word = draw.one((("if", "ob"), ("why", "warum"), ("when", "wann"), ("where", "wo")))
        else:
            word = ("that", "dass")
        outer = Clause(draw.subject(PERSON), *verb, "present")
        if draw.chance(0.25) and verb is not KNOW:
            outer = replace(outer, tense="past")
        elif verb is KNOW and draw.chance(0.4):
            word = draw.one((("if", "ob"), ("why", "warum"), ("where", "wo")))
            outer = replace(outer, negated=True)
        german_outer = outer.german()
        if verb is KNOW:
            german_outer = tuple(
                de.IRREGULAR["wissen"][outer.subject.person] if w == outer.german_verbs()[0] else w
                for w in german_outer
            )
        english = (*outer.english(), word[0], *inner.english())
        return english, (*german_outer, word[1], *inner.german(order="subordinate"))

    def _conjoined(self) -> tuple[Words, Words]:
        """Two clauses; `when` is `als` in the past and `wenn` otherwise."""
        draw = self._phrases
        first, second = self._statement(), self._statement()
        is_past = isinstance(second, Being) and second.past
        is_past = is_past or (isinstance(second, Clause) and second.tense == "past")
        word = draw.one(
            (
                ("because", "weil"),
                ("because", "weil"),
                ("although", "obwohl"),
                ("when", "als" if is_past else "wenn"),
                ("if", "wenn"),
                ("before", "bevor"),
                ("while", "während"),
                ("until", "bis"),
                ("but", "aber"),
                ("and", "und"),
            )
        )
        order: Order = "main" if word[0] in ("but", "and") else "subordinate"
        english = (*first.english(), word[0], *second.english())
        return english, (*first.german(), word[1], *second.german(order=order))

    def _relative(self) -> tuple[Words, Words]:
        """`the man who sings is tired`, `the book that she reads is new`."""
        draw = self._phrases
        by_subject = draw.chance(0.5)
        while True:
            clause = replace(self._clause(short=True), negated=False)
            if by_subject and "person" in draw.one(clause.verb.senses).subjects:
                head = draw.noun_phrase(PERSON, definite=True)
                break
            direct = clause.direct
            if (
                not by_subject
                and isinstance(direct, NounPhrase)
                and not clause.german_verb.preposition
                and (direct.noun.plural or direct.determiner)
            ):
                head = direct
                break
        head = replace(head, determiner="the", adjective=None, number=None)
        adjective = draw.adjective_for(head.noun)
        predicate = adjective.german(head.noun.classes) if adjective else None
        if adjective is None or predicate is None or head.noun.singular == "holiday":
            return (), ()
        being = Being(head, Adverbial((adjective.english,), (predicate,)), past=draw.chance(0.3))
        head_english, head_german = head.english(subject=True), head.german("nom")
        if by_subject:
            inner = replace(clause, subject=head)
            english = ("who", *inner.english()[len(head_english) :])
            german = inner.german(order="subordinate")[len(head_german) :]
            german = (de.relative_pronoun("nom", head.shape), *german)
        else:
            inner = replace(clause, direct=None)
            english = ("who" if "person" in head.noun.classes else "that", *inner.english())
            case = inner.german_verb.case
            german = inner.german(order="subordinate")
            german = (de.relative_pronoun(case, head.shape), *german)
        main_english, main_german = being.english(), being.german()
        return (
            (*head_english, *english, *main_english[len(head_english) :]),
            (*head_german, *german, *main_german[len(head_german) :]),
        )

    def _question(self) -> tuple[Words, Words]:
        draw = self._phrases
        kind = draw.weighted([("yes_no", 3.0), ("word", 2.0), ("be", 1.5), ("which", 1.0)])
        if kind == "be":
            being = replace(self._be_clause(), negated=False)
            return being.english(order="question"), being.german(order="question")
        clause = replace(self._clause(short=kind != "yes_no"), negated=False)
        if kind == "yes_no":
            return clause.english(order="question"), clause.german(order="question")
        if kind == "word":
            english, german = draw.one(
                (("when", "wann"), ("why", "warum"), ("where", "wo"), ("how often", "wie oft"))
            )
            return (english, *clause.english(order="question")), clause.german(
                front=tuple(german.split())
            )
        direct = clause.direct
        if (
            not isinstance(direct, NounPhrase)
            or clause.german_verb.preposition
            or not direct.noun.plural
        ):
            return (), ()
        asked = replace(direct, determiner="which", number=None)
        clause = replace(clause, direct=None)
        german_asked = asked.german(clause.german_verb.case)
        return (*asked.english(subject=False), *clause.english(order="question")), clause.german(
            front=german_asked
        )

    def _request(self) -> tuple[Words, Words]:
        """A polite request; German has the pronoun `Sie` and the separable prefix at the end."""
        clause = replace(self._clause(short=True, person_only=True), negated=False, tense="present")
        if clause.direct is None or isinstance(clause.direct, Pronoun):
            return (), ()
        clause = replace(clause, subject=Pronoun("they"))
        german = list(clause.german(order="question"))
        german[1] = "Sie"
        return ("please", clause.verb.base, *clause.english_middle()), ("bitte", *german)
