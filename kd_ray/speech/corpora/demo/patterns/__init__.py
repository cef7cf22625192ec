"""The patterns of the demo grammar, and who draws sentences by them."""

from dataclasses import dataclass

from kd_ray.speech.corpora.demo import german as de
from kd_ray.speech.corpora.demo.patterns.connected import Connected
from kd_ray.speech.corpora.demo.patterns.events import Events
from kd_ray.speech.corpora.demo.patterns.states import States


@dataclass(frozen=True)
class SentencePair:
    """An English sentence, its German translation, and the pattern it was made by."""

    english: str
    german: str
    domain: str


class Grammar(Events, States, Connected):
    """Draws sentence pairs of 3 to `max_words` English words from `seed`."""

    def __init__(self, seed: int, max_words: int) -> None:
        super().__init__(seed)
        self._max_words = max_words
        self._patterns = [
            (self._plain, 9.0),
            (self._fronted, 2.0),
            (self._giving, 1.5),
            (self._being, 2.5),
            (self._comparison, 0.8),
            (self._position, 1.3),
            (self._there_is, 0.8),
            (self._motion, 2.0),
            (self._placing, 3.0),
            (self._living, 0.7),
            (self._clock, 0.8),
            (self._counting, 1.2),
            (self._having, 1.2),
            (self._skill, 1.0),
            (self._gladly, 1.2),
            (self._infinitive, 1.2),
            (self._reported, 3.5),
            (self._conjoined, 5.0),
            (self._relative, 2.5),
            (self._question, 2.5),
            (self._request, 0.9),
        ]

    def draw(self) -> SentencePair:
        """One sentence pair; pairs repeat in the long run."""
        while True:
            pattern = self._phrases.weighted(self._patterns)
            english, german = pattern()
            words = " ".join(english).split()
            if 3 <= len(words) <= self._max_words:
                pair = (" ".join(words), " ".join(de.contract(" ".join(german).split())))
                return SentencePair(*pair, domain=pattern.__name__.lstrip("_"))
