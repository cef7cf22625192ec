"""Clauses of the demo grammar in two languages: noun phrases, verb phrases, word order.

A clause is built once from its parts; `english` and `german` lay the same parts out by each
language's own rules. German puts the finite verb second in main clauses, first in yes/no
questions and last after a conjunction; participles and infinitives go to the end.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from kd_ray.speech.corpora.demo import german as de
from kd_ray.speech.corpora.demo import tables
from kd_ray.speech.corpora.demo.lexicon import (
    Adjective,
    Case,
    GermanVerb,
    Noun,
    Verb,
    entries,
)

Words = tuple[str, ...]
Tense = Literal["present", "progressive", "perfect", "past", "future", "modal", "want"]
Order = Literal["main", "question", "subordinate"]

PRONOUNS: dict[de.Person, tuple[str, str, str, str, str]] = {
    "i": ("i", "me", "ich", "mich", "mir"),
    "you": ("you", "you", "du", "dich", "dir"),
    "he": ("he", "him", "er", "ihn", "ihm"),
    "she": ("she", "her", "sie", "sie", "ihr"),
    "we": ("we", "us", "wir", "uns", "uns"),
    "they": ("they", "them", "sie", "sie", "ihnen"),
}
"""English subject and object; German nominative, accusative, dative."""

DETERMINERS = {
    "the": "der",
    "a": "ein",
    "my": "mein",
    "your": "dein",
    "his": "sein",
    "her": "ihr",
    "our": "unser",
    "their": "ihr",
    "this": "dies",
    "every": "jed",
    "which": "welch",
    "no": "kein",
}

_MAY = next(forms for forms in entries(tables.MODALS) if forms[0] == "may")
_CASE_INDEX = {"nom": 2, "acc": 3, "dat": 4}


@dataclass(frozen=True)
class Pronoun:
    """A personal pronoun."""

    person: de.Person
    is_indefinite: bool = False

    def english(self, *, subject: bool) -> Words:
        """The English form."""
        return (PRONOUNS[self.person][0 if subject else 1],)

    def german(self, case: Case) -> Words:
        """The German form."""
        return (PRONOUNS[self.person][_CASE_INDEX[case]],)


@dataclass(frozen=True)
class Name:
    """A person's name; the same in every case."""

    name: str
    german_name: str
    person: de.Person
    is_indefinite: bool = False

    def english(self, *, subject: bool) -> Words:
        """The name."""
        return (self.name,)

    def german(self, case: Case) -> Words:
        """The name."""
        return (self.german_name,)


@dataclass(frozen=True)
class NounPhrase:
    """Determiner or number, adjective, noun. An empty determiner: bare plural or mass noun."""

    noun: Noun
    determiner: str = "the"
    plural: bool = False
    adjective: Adjective | None = None
    number: tuple[str, str] | None = None
    """English and German number word; the phrase is then plural and has no determiner."""

    @property
    def person(self) -> de.Person:
        """Third person, singular or plural."""
        return "they" if self.plural else "he"

    @property
    def is_indefinite(self) -> bool:
        """Whether German negates it by `kein`."""
        return self.number is None and self.determiner in ("", "a")

    @property
    def shape(self) -> de.Shape:
        """German gender or plural."""
        return de.shape_of(self.noun.gender, plural=self.plural)

    def english(self, *, subject: bool) -> Words:
        """The English words."""
        rest = [self.adjective.english] if self.adjective else []
        rest.append(self.noun.plural if self.plural else self.noun.singular)
        if self.number:
            return (self.number[0], *rest)
        determiner = self.determiner
        if determiner == "a" and rest[0][0] in "aeiou" and not rest[0].startswith("uni"):
            determiner = "an"
        if determiner == "this" and self.plural:
            determiner = "these"
        return (determiner, *rest) if determiner else tuple(rest)

    def german(self, case: Case, *, negated: bool = False) -> Words:
        """The German words; `negated` puts `kein` in place of `ein` or nothing."""
        determiner = "kein" if negated else DETERMINERS.get(self.determiner, "")
        words: list[str] = []
        if self.number:
            determiner = ""
            words.append(self.number[1])
        elif determiner:
            words.append(de.determiner(determiner, case, self.shape))
        if self.adjective:
            stem = self.adjective.german(self.noun.classes)
            assert stem, (self.adjective.english, self.noun.singular)
            words.append(de.adjective(stem, determiner, case, self.shape))
        return (*words, de.noun_form(self.noun, case, plural=self.plural))


Phrase = Pronoun | Name | NounPhrase


@dataclass(frozen=True)
class Adverbial:
    """A fixed expression of time, place or manner: English and German words."""

    english: Words
    german: Words


@dataclass(frozen=True)
class Clause:
    """Subject, verb, objects and adverbials, in a tense, perhaps negated.

    `english_verb` is the base, third, past, participle and progressive form; `modal` is the
    English and the four German forms (I/he, you, we) of a modal verb.
    """

    subject: Phrase
    verb: Verb
    german_verb: GermanVerb
    tense: Tense = "present"
    modal: Words = ()
    direct: Phrase | None = None
    """The object whose case and preposition the verb governs."""
    recipient: Phrase | None = None
    """The dative of verbs of giving."""
    time: Adverbial | None = None
    frequency: Adverbial | None = None
    manner: Adverbial | None = None
    place: Adverbial | None = None
    negated: bool = False
    gladly: bool = field(default=False)
    """`likes to` in English, `gern` in German."""

    def english_middle(self) -> Words:
        """What follows the English verb: particle, objects, manner, place, time."""
        words: list[str] = []
        particle = (self.verb.particle,) if self.verb.particle else ()
        direct = self.direct.english(subject=False) if self.direct else ()
        recipient = self.recipient.english(subject=False) if self.recipient else ()
        if self.recipient is not None:
            words += [*direct, *particle, *recipient] if particle else [*recipient, *direct]
        elif isinstance(self.direct, Pronoun) and self.verb.particle in ("on", "off", "up"):
            words += [*direct, *particle]
        else:
            words += [*particle, *direct]
        for adverbial in (self.manner, self.place, self.time):
            words += adverbial.english if adverbial else ()
        return tuple(words)

    def _english_verbs(self) -> tuple[Words, Words]:
        """Finite word and the rest of the English verb group (a lexical finite verb: no rest)."""
        person = self.subject.person
        singular = person in ("he", "she")
        verb = self.verb
        negation = ("not",) if self.negated else ()
        often = self.frequency.english if self.frequency else ()
        to = ("to",) if self.gladly else ()
        base, third = ("like", "likes") if self.gladly else (verb.base, verb.third)
        lexical = (*to, verb.base) if self.gladly else ()
        if self.tense == "progressive":
            be = {"i": "am", "he": "is", "she": "is"}.get(person, "are")
            return (be,), (*negation, verb.progressive)
        if self.tense == "perfect":
            return ("has" if singular else "have",), (*negation, *often, verb.participle)
        if self.tense == "future":
            return ("will",), (*negation, *often, verb.base)
        if self.tense == "modal":
            return (self.modal[0],), (*negation, verb.base)
        if self.tense == "want":
            if self.negated:
                return ("does" if singular else "do",), ("not", "want", "to", verb.base)
            return (), ("wants" if singular else "want", "to", verb.base)
        if self.tense == "past":
            return (("did",), ("not", verb.base)) if self.negated else ((), (*often, verb.past))
        if self.negated:
            return ("does" if singular else "do",), ("not", base, *lexical)
        return (), (*often, third if singular else base, *lexical)

    def english(self, *, order: Order = "main") -> Words:
        """The English words; `question` puts an auxiliary first."""
        finite, rest = self._english_verbs()
        subject = self.subject.english(subject=True)
        if order != "question":
            return (*subject, *finite, *rest, *self.english_middle())
        if not finite:
            if self.tense == "past":
                finite, rest = ("did",), (self.verb.base,)
            else:
                finite = ("does" if self.subject.person in ("he", "she") else "do",)
                rest = ("want", "to", self.verb.base) if self.tense == "want" else (self.verb.base,)
        return (*finite, *subject, *rest, *self.english_middle())

    def german_verbs(self) -> tuple[str, Words]:
        """The finite verb and what stands at the end of a main clause."""
        verb, person = self.german_verb, self.subject.person
        full = verb.prefix + verb.infinitive
        if self.tense in ("present", "progressive"):
            return de.present(verb, person), (verb.prefix,) if verb.prefix else ()
        if self.tense in ("perfect", "past"):
            return de.IRREGULAR[verb.auxiliary][person], (verb.participle,)
        if self.tense == "future":
            return de.IRREGULAR["werden"][person], (full,)
        if self.tense == "want":
            return de.IRREGULAR["wollen"][person], (full,)
        form = {"you": 2, "we": 3, "they": 3}.get(person, 1)
        # "must not" forbids: German says "darf nicht"; "muss nicht" would mean "need not".
        modal = _MAY if self.negated and self.modal[0] == "must" else self.modal
        return modal[form], (full,)

    def german_middle(self) -> Words:
        """The German middle field: pronouns, time, dative, accusative, nicht, manner, place."""
        verb = self.german_verb
        negate_object = self.negated and isinstance(self.direct, NounPhrase)
        kein = negate_object and self.direct is not None and self.direct.is_indefinite
        kein = kein and not verb.preposition
        direct: Words = ()
        if isinstance(self.direct, NounPhrase):
            direct = self.direct.german(verb.case, negated=kein)
        elif self.direct is not None:
            direct = self.direct.german(verb.case)
        prepositional = verb.preposition != ""
        nicht = ("nicht",) if self.negated and not kein else ()
        words: list[str] = []
        pronoun_first = isinstance(self.direct, Pronoun) and not prepositional
        words += direct if pronoun_first else ()
        recipient = self.recipient.german("dat") if self.recipient else ()
        words += recipient if isinstance(self.recipient, Pronoun) else ()
        words += ("gerade",) if self.tense == "progressive" else ()
        words += self.time.german if self.time else ()
        words += self.frequency.german if self.frequency else ()
        words += () if isinstance(self.recipient, Pronoun) else recipient
        if self.gladly:
            words += (*nicht, "gern")
            nicht = ()
        words += direct if not pronoun_first and not prepositional else ()
        words += nicht
        words += self.manner.german if self.manner else ()
        words += (verb.preposition, *direct) if prepositional else ()
        words += self.place.german if self.place else ()
        return tuple(words)

    def german(self, *, order: Order = "main", front: Words = ()) -> Words:
        """The German words; `front` (a fronted phrase or question word) stands before the verb."""
        finite, tail = self.german_verbs()
        subject, middle = self.subject.german("nom"), self.german_middle()
        if order == "subordinate":
            if self.tense in ("present", "progressive"):
                return (*subject, *middle, self.german_verb.prefix + finite)
            return (*subject, *middle, *tail, finite)
        if order == "question" or front:
            return (*front, finite, *subject, *middle, *tail)
        return (*subject, finite, *middle, *tail)

    def german_infinitive(self) -> Words:
        """The clause as an infinitive with `zu`, without its subject."""
        return (*self.german_middle(), *de.zu_infinitive(self.german_verb))


class Statement(Protocol):
    """What subordinate patterns embed: a clause with a lexical verb or with `be`."""

    def english(self, *, order: Order = "main") -> Words:
        """The English words."""
        ...

    def german(self, *, order: Order = "main", front: Words = ()) -> Words:
        """The German words."""
        ...


@dataclass(frozen=True)
class Being:
    """`subject is predicate`, present or past."""

    subject: Phrase
    predicate: Adverbial
    past: bool = False
    negated: bool = False
    verb: str = ""
    """German verb in place of `sein`, third person singular and plural: `liegt liegen`."""

    def english(self, *, order: Order = "main") -> Words:
        """The English words."""
        person = self.subject.person
        if self.past:
            be = "was" if person in ("i", "he", "she") else "were"
        else:
            be = {"i": "am", "he": "is", "she": "is"}.get(person, "are")
        subject = self.subject.english(subject=True)
        rest = (*(("not",) if self.negated else ()), *self.predicate.english)
        return (be, *subject, *rest) if order == "question" else (*subject, be, *rest)

    def german(self, *, order: Order = "main", front: Words = ()) -> Words:
        """The German words."""
        finite = de.IRREGULAR["war" if self.past else "sein"][self.subject.person]
        if self.verb:
            finite = self.verb.split()[self.subject.person == "they"]
        subject = self.subject.german("nom")
        rest = (*(("nicht",) if self.negated else ()), *self.predicate.german)
        if order == "subordinate":
            return (*subject, *rest, finite)
        if order == "question" or front:
            return (*front, finite, *subject, *rest)
        return (*subject, finite, *rest)
