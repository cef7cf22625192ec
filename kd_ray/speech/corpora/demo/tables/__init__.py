"""The words of the demo grammar as tables: English beside German, with what inflection needs.

Text, one entry a line (or between `|`), because that is how people read and check a lexicon.
"""

from kd_ray.speech.corpora.demo.tables.names import (
    ARTICLE_COUNTRIES,
    CITIES,
    LANGUAGES,
    NAMES,
)
from kd_ray.speech.corpora.demo.tables.nouns import (
    ADJECTIVES,
    NOUNS,
)
from kd_ray.speech.corpora.demo.tables.smaller import (
    COMPARATIVES,
    MANNER,
    MONTHS,
    NUMBER_WORDS,
    ORDINALS,
    TENS_WORDS,
    WEEKDAYS,
)
from kd_ray.speech.corpora.demo.tables.verbs import (
    GIVING,
    MODALS,
    VERBS,
)

__all__ = [
    "ADJECTIVES",
    "ARTICLE_COUNTRIES",
    "CITIES",
    "COMPARATIVES",
    "GIVING",
    "LANGUAGES",
    "MANNER",
    "MODALS",
    "MONTHS",
    "NAMES",
    "NOUNS",
    "NUMBER_WORDS",
    "ORDINALS",
    "TENS_WORDS",
    "VERBS",
    "WEEKDAYS",
]
