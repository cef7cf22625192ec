"""Sentences of the demo corpus: English with German translations, from a seeded grammar.

English is lowercase without punctuation; German keeps its capitals for nouns and names, has no
punctuation either, and does not capitalise the first word, so that each word has one spelling.
"""

import hashlib
from collections import Counter, deque
from functools import cache

from kd_ray.speech.corpora.demo.patterns import Grammar, SentencePair

SPLIT_SHARES = {"train": 30, "valid": 8, "test": 10, "unlabelled": 12, "text_only": 40}
"""Percent of all sentences that may be drawn for each split."""


def split_of(english: str) -> str:
    """The split that a sentence belongs to, whatever the seed and the sizes.

    A hash of the sentence decides, so that corpora of different seeds or sizes never share
    a sentence between one's training and the other's test split.
    """
    position = int.from_bytes(hashlib.sha256(english.encode()).digest()[:8], "big") % 100
    for split, share in SPLIT_SHARES.items():
        position -= share
        if position < 0:
            return split
    raise AssertionError("the shares of the splits must add up to 100")


_COUNTED_SENTENCES = 10_000
"""Draws in which words are counted to tell frequent ones."""


@cache
def frequent_words(count: int, max_words: int) -> frozenset[str]:
    """The English words that most distinct sentences of this length hold, whatever the seed."""
    grammar = Grammar(0, max_words)
    sentences = {grammar.draw().english for _ in range(_COUNTED_SENTENCES)}
    counts = Counter(word for sentence in sentences for word in set(sentence.split()))
    return frozenset(sorted(counts, key=lambda word: (-counts[word], word))[:count])


class GrammarExhaustedError(ValueError):
    """The grammar has fewer distinct sentences than were asked for."""


class SentenceSource:
    """Distinct sentence pairs for each split, in an order that depends on the seed alone.

    One stream of sentences is dealt out to the splits by `split_of`, so how many are taken of
    one split does not change another's. `vocabulary`: only sentences of that many most frequent
    English words; None: all.
    """

    _PATIENCE = 20_000
    """Draws without a new sentence of the wanted split before the grammar counts as exhausted."""

    def __init__(self, seed: int, max_words: int, vocabulary: int | None = None) -> None:
        self._grammar = Grammar(seed, max_words)
        self._max_words = max_words
        self._words = None if vocabulary is None else frequent_words(vocabulary, max_words)
        self._waiting: dict[str, deque[SentencePair]] = {split: deque() for split in SPLIT_SHARES}
        self._seen: set[str] = set()

    def next(self, split: str) -> SentencePair:
        """The next sentence of a split.

        Raises:
            GrammarExhaustedError: there is (almost surely) no further one of this length.
        """
        waiting = self._waiting[split]
        for _ in range(self._PATIENCE):
            if waiting:
                return waiting.popleft()
            pair = self._grammar.draw()
            if pair.english not in self._seen and self._allows(pair):
                self._seen.add(pair.english)
                self._waiting[split_of(pair.english)].append(pair)
        words = "" if self._words is None else f" out of {len(self._words)} different ones"
        way_out = "max_words" if self._words is None else "max_words or vocabulary"
        raise GrammarExhaustedError(
            f"no further sentence for the split {split!r} with at most {self._max_words} words"
            f"{words}, after {len(self._seen)} distinct ones over all splits; raise {way_out} or "
            "ask for fewer"
        )

    def _allows(self, pair: SentencePair) -> bool:
        return self._words is None or self._words.issuperset(pair.english.split())
