"""Nouns, adjectives and verbs of the demo grammar, read from `tables`.

Classes (person, food, ...) say which words go together; where a word has several translations,
the class of what it stands with decides.
"""

from dataclasses import dataclass
from typing import Literal

from kd_ray.speech.corpora.demo import tables

Gender = Literal["m", "f", "n"]
Case = Literal["nom", "acc", "dat"]


@dataclass(frozen=True)
class Noun:
    """A noun; `plural` is empty for mass nouns, `oblique` is set for weak masculines."""

    singular: str
    plural: str
    gender: Gender
    german: str
    german_plural: str
    classes: frozenset[str]
    oblique: str = ""


@dataclass(frozen=True)
class Adjective:
    """An adjective; the first sense that shares a class with the noun gives the German stem."""

    english: str
    senses: tuple[tuple[frozenset[str], str], ...]

    def german(self, classes: frozenset[str]) -> str | None:
        """The German word for a noun of these classes, or None where it does not fit."""
        return next((german for fits, german in self.senses if fits & classes), None)


@dataclass(frozen=True)
class GermanVerb:
    """Infinitive without separable prefix, third person, participle, auxiliary, prefix.

    `case` and `preposition` govern the object.
    """

    infinitive: str
    third: str
    participle: str
    auxiliary: Literal["haben", "sein"] = "haben"
    prefix: str = ""
    case: Case = "acc"
    preposition: str = ""


@dataclass(frozen=True)
class Sense:
    """One meaning: which subjects and objects (no classes: no object), and its German verb."""

    subjects: frozenset[str]
    objects: frozenset[str]
    german: GermanVerb


@dataclass(frozen=True)
class Verb:
    """An English verb (particle and preposition apart) with its meanings."""

    base: str
    third: str
    past: str
    participle: str
    progressive: str
    particle: str
    senses: tuple[Sense, ...]


def entries(table: str) -> tuple[tuple[str, ...], ...]:
    """Rows of a table whose entries are separated by line ends or `|`, split at spaces."""
    return tuple(
        tuple(cell.split())
        for line in table.split("\n")
        for cell in line.split("|")
        if cell.strip()
    )


def _classes(text: str) -> frozenset[str]:
    return frozenset() if text == "-" else frozenset(text.split(","))


def _noun(line: str) -> Noun:
    singular, plural, gender, german, german_plural, classes, *oblique = line.split()
    assert gender in ("m", "f", "n"), line
    return Noun(
        singular,
        "" if plural == "-" else plural,
        gender,  # type: ignore[arg-type]
        german,
        german_plural,
        _classes(classes) | {singular},
        oblique[0] if oblique else "",
    )


def _adjective(line: str) -> Adjective:
    english, senses = line.split(" ", 1)
    pairs = [sense.split(":") for sense in senses.split("|")]
    return Adjective(english, tuple((_classes(fits), german) for fits, german in pairs))


def _german_verb(text: str) -> GermanVerb:
    infinitive, third, participle, *flags = text.split()
    return GermanVerb(
        infinitive,
        third,
        participle,
        "sein" if "sein" in flags else "haben",
        next((flag[:-1] for flag in flags if flag.endswith("-")), ""),
        "dat" if "dat" in flags else "acc",
        next((flag[1:] for flag in flags if flag.startswith("+")), ""),
    )


def _sense(line: str) -> Sense:
    classes, german = line.split("=")
    subjects, objects = classes.split(">")
    return Sense(_classes(subjects.strip()), _classes(objects.strip()), _german_verb(german))


def _verb(block: list[str]) -> Verb:
    base, third, past, participle, progressive, *particle = block[0].split()
    senses = tuple(_sense(line) for line in block[1:])
    progressive = "" if progressive == "-" else progressive
    return Verb(base, third, past, participle, progressive, " ".join(particle), senses)


def _verbs(table: str) -> tuple[Verb, ...]:
    blocks: list[list[str]] = []
    for line in table.strip().split("\n"):
        if line.startswith(" "):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return tuple(_verb(block) for block in blocks)


def _giving(line: str) -> Verb:
    english, german = line.split("=")
    german, things = german.split(";")
    sense = Sense(frozenset({"person"}), _classes(things.strip()), _german_verb(german))
    base, third, past, participle, progressive, *particle = english.split()
    return Verb(base, third, past, participle, progressive, " ".join(particle), (sense,))


NOUNS = tuple(_noun(line) for line in tables.NOUNS.strip().split("\n"))
ADJECTIVES = tuple(_adjective(line) for line in tables.ADJECTIVES.strip().split("\n"))
VERBS = _verbs(tables.VERBS)
GIVING = tuple(_giving(line) for line in tables.GIVING.strip().split("\n"))
