"""German inflection for the demo grammar: endings, agreement, contractions, verb forms, numbers."""

from typing import Literal

from kd_ray.speech.corpora.demo import tables
from kd_ray.speech.corpora.demo.lexicon import (
    Case,
    Gender,
    GermanVerb,
    Noun,
    entries,
)

Person = Literal["i", "you", "he", "she", "we", "they"]
"""Who: `he` and `she` are third person singular, `they` is third person plural."""

Shape = Literal["m", "f", "n", "pl"]
"""Gender of a singular noun, or plural, where German no longer tells genders apart."""

# Columns: masculine, feminine, neuter, plural. A hyphen is the empty ending.
_COLUMN: dict[Shape, int] = {"m": 0, "f": 1, "n": 2, "pl": 3}
_DEFINITE = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem den"}
_DER_WORD = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"}
_EIN_WORD = {"nom": "- e - e", "acc": "en e - e", "dat": "em er em en"}
_AFTER_DER = {"nom": "e e e en", "acc": "en e e en", "dat": "en en en en"}
_AFTER_EIN = {"nom": "er e es en", "acc": "en e es en", "dat": "en en en en"}
_ALONE = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"}

_IRREGULAR_STEMS = {"teuer": "teur", "dunkel": "dunkl"}
_CONTRACTIONS = {
    ("in", "dem"): "im",
    ("an", "dem"): "am",
    ("zu", "dem"): "zum",
    ("zu", "der"): "zur",
    ("von", "dem"): "vom",
    ("bei", "dem"): "beim",
    ("in", "das"): "ins",
    ("an", "das"): "ans",
}
_HABEN = {"i": "habe", "you": "hast", "he": "hat", "she": "hat", "we": "haben", "they": "haben"}
_SEIN = {"i": "bin", "you": "bist", "he": "ist", "she": "ist", "we": "sind", "they": "sind"}
_SEIN_PAST = {"i": "war", "you": "warst", "he": "war", "she": "war", "we": "waren", "they": "waren"}
_WERDEN = {"i": "werde", "you": "wirst", "he": "wird", "she": "wird", "we": "werden"}
_WOLLEN = {"i": "will", "you": "willst", "he": "will", "she": "will", "we": "wollen"}
_WISSEN = {"i": "weiß", "you": "weißt", "he": "weiß", "she": "weiß", "we": "wissen"}
_MOEGEN = {"i": "mag", "you": "magst", "he": "mag", "she": "mag", "we": "mögen"}
IRREGULAR: dict[str, dict[str, str]] = {
    "haben": _HABEN,
    "sein": _SEIN,
    "war": _SEIN_PAST,
    "werden": _WERDEN | {"they": "werden"},
    "wollen": _WOLLEN | {"they": "wollen"},
    "wissen": _WISSEN | {"they": "wissen"},
    "mögen": _MOEGEN | {"they": "mögen"},
}
"""Full paradigms, by person."""

_UNITS = tuple(german for _, german in entries(tables.NUMBER_WORDS))
_TENS = tuple(german for _, german in entries(tables.TENS_WORDS))


def _pick(table: dict[str, str], case: Case, shape: Shape) -> str:
    ending = table[case].split()[_COLUMN[shape]]
    return "" if ending == "-" else ending


def determiner(word: str, case: Case, shape: Shape) -> str:
    """Inflect `der`, a der-word stem (`dies`, `jed`, `welch`) or an ein-word (`ein`, `mein`)."""
    if word == "der":
        return _pick(_DEFINITE, case, shape)
    if word in ("dies", "jed", "welch"):
        return word + _pick(_DER_WORD, case, shape)
    return word + _pick(_EIN_WORD, case, shape)


def relative_pronoun(case: Case, shape: Shape) -> str:
    """`der`, `die`, `das`, `den`, `dem`, `denen`."""
    return "denen" if (case, shape) == ("dat", "pl") else determiner("der", case, shape)


def adjective(stem: str, after: str, case: Case, shape: Shape) -> str:
    """Inflect an adjective `after` a determiner word (empty: none, or a number)."""
    if not after:
        table = _ALONE
    elif after in ("der", "dies", "jed", "welch"):
        table = _AFTER_DER
    else:
        table = _AFTER_EIN
    stem = _IRREGULAR_STEMS.get(stem, stem).removesuffix("e")  # müde, müden
    return stem + _pick(table, case, shape)


def noun_form(noun: Noun, case: Case, *, plural: bool) -> str:
    """The noun in its case: dative plural takes -n, weak masculines -(e)n in the singular."""
    if not plural:
        return noun.oblique if noun.oblique and case != "nom" else noun.german
    if case == "dat" and not noun.german_plural.endswith(("n", "s")):
        return noun.german_plural + "n"
    return noun.german_plural


def shape_of(gender: Gender, *, plural: bool) -> Shape:
    """Gender in the singular, `pl` in the plural."""
    return "pl" if plural else gender


def contract(words: list[str]) -> list[str]:
    """Join preposition and article where German does: `in dem` becomes `im`."""
    joined: list[str] = []
    for word in words:
        short = _CONTRACTIONS.get((joined[-1], word)) if joined else None
        if short:
            joined[-1] = short
        else:
            joined.append(word)
    return joined


def present(verb: GermanVerb, person: Person) -> str:
    """Present tense without the separable prefix."""
    if person in ("he", "she"):
        return verb.third
    if person in ("we", "they"):
        return verb.infinitive
    if person == "i":
        if verb.infinitive.endswith("eln"):
            return verb.infinitive[:-3] + "le"
        return verb.infinitive[:-1]
    if verb.third == "hält":
        return "hältst"
    stem = verb.third.removesuffix("t")
    return stem + ("t" if stem.endswith(("s", "ß", "z", "x")) else "st")


def zu_infinitive(verb: GermanVerb) -> list[str]:
    """`zu öffnen`, but `einzuschalten`."""
    if verb.prefix:
        return [f"{verb.prefix}zu{verb.infinitive}"]
    return ["zu", verb.infinitive]


def number(value: int) -> str:
    """A number from 1 to 99: units stand before tens."""
    if value < 20:
        return _UNITS[value - 1]
    tens, units = divmod(value, 10)
    if units == 0:
        return _TENS[tens - 2]
    return ("ein" if units == 1 else _UNITS[units - 1]) + "und" + _TENS[tens - 2]
