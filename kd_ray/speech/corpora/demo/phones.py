"""From espeak-ng's IPA to the 41 phones that labels are written in (ARPAbet, as in TIMIT)."""

# ruff: noqa: RUF001

import re

_TABLE = """
aɪ ay|aʊ aw|eɪ ey|oʊ ow|ɔɪ oy|i iy|ɪ ih|ɛ eh|æ ae|ɑ aa|ɔ ao|ə ax|ʌ ah|ɚ er|ʊ uh|u uw
p p|b b|t t|d d|k k|ɡ g|f f|v v|s s|z z|h hh|l l|m m|n n|w w|dʒ jh|tʃ ch|ʃ sh|ʒ zh|θ th|ð dh
ŋ ng|j y|ɹ r|ɾ dx
ɑɹ aa r|ɔɹ ao r|oɹ ao r|ɛɹ eh r|ʊɹ uh r|ɪɹ ih r|aɪə ay ax|aɪɚ ay er|iə iy ax|əl ax l|n̩ ax n
ɐ ax|ᵻ ih|ɜ er|ʔ t|o ow
"""
# Stress and length are dropped; r-coloured vowels and triphthongs are split; reduced vowels and
# syllabic consonants are written with their usual vowel.
_PHONES_OF = {
    cells[0]: tuple(cells[1:])
    for line in _TABLE.strip().split("\n")
    for cells in (entry.split() for entry in line.split("|"))
}
_MARKS = str.maketrans("", "", "ˈˌː:")
_LANGUAGE_SWITCH = re.compile(r"\([a-z-]+\)")

PHONES = tuple(sorted({phone for phones in _PHONES_OF.values() for phone in phones}))
"""All phones that can occur."""


class UnknownPhoneError(ValueError):
    """espeak-ng wrote a symbol that is neither a phone nor a known combination of phones."""


def normalize_phones(ipa: str) -> list[str]:
    """Phones from espeak-ng's IPA with `_` between symbols and spaces between words.

    Raises:
        UnknownPhoneError: names the symbols.
    """
    symbols = _LANGUAGE_SWITCH.sub(" ", ipa).replace("_", " ").translate(_MARKS).split()
    unknown = sorted(set(symbols) - _PHONES_OF.keys())
    if unknown:
        raise UnknownPhoneError(
            f"espeak-ng wrote {unknown} in {ipa!r}; known are {sorted(_PHONES_OF)}: "
            "the text is not English, or this version of espeak-ng needs new entries"
        )
    return [phone for symbol in symbols for phone in _PHONES_OF[symbol]]
