"""SentencePiece models: training that repeats exactly, and cutting texts into pieces."""

import io
import re
from collections.abc import Iterable, Sequence

import sentencepiece

UNKNOWN = "<unk>"
BYTES = 256
"""Pieces `<0x00>` to `<0xFF>`, which spell characters that the training texts do not have."""


class PiecesError(ValueError):
    """A SentencePiece model that cannot be trained or read."""


def train_pieces(texts: Iterable[str], size: int) -> bytes:
    """Train a unigram model of `size` pieces, and 256 more for bytes, on normalised texts.

    Every character of the texts becomes a piece; others are spelt in bytes. Same texts in any
    order give the same bytes. Texts must be composed (NFC), with single blanks between words: the
    model changes nothing more, so that decoding gives the text back.

    Raises:
        PiecesError: no text, or texts that do not give as many pieces as `size`.
    """
    # Sorted: the estimates are sums of floating-point numbers in the order of the texts.
    sentences = sorted(text for text in texts if text)
    if not sentences:
        raise PiecesError("no text to train a SentencePiece model on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=size + BYTES + 1,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            # Longer ones would be left out of training, with a message on standard error only.
            max_sentence_length=max(4192, *(len(text.encode()) + 1 for text in sentences)),
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise PiecesError(_why(sentences, size, str(error))) from error
    return model.getvalue()


def _why(sentences: Sequence[str], size: int, message: str) -> str:
    """The trainer's message in the terms of `train_pieces`: it counts bytes and `<unk>` too."""
    characters = len({character for text in sentences for character in text})
    what = f"{len(sentences)} texts do not give a SentencePiece model of size {size}: they have "
    what += f"{characters} different characters"
    if most := re.search(r"value <= (\d+)", message):
        return f"{what}, and pieces for a size of at most {int(most[1]) - BYTES - 1}"
    if "required_chars" in message:
        return f"{what}, which all become pieces; choose a larger size"
    return f"{what}; {' '.join(message.split())}"


class Pieces:
    """A trained SentencePiece model.

    Raises:
        PiecesError: the bytes are no such model.
    """

    def __init__(self, model: bytes) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise PiecesError(f"not a SentencePiece model: {error}") from error

    def inventory(self) -> list[str]:
        """All pieces that a text can be cut into, in the model's order."""
        processor = self._processor
        return [
            processor.IdToPiece(number)
            for number in range(processor.GetPieceSize())
            if not processor.IsControl(number)
            and not processor.IsUnknown(number)
            and not processor.IsUnused(number)
        ]

    def cut(self, text: str) -> list[str]:
        """Pieces of a text; a character that a model without bytes lacks stands for itself."""
        pieces: list[str] = self._processor.EncodeAsPieces(text)
        return pieces

    def join(self, pieces: Sequence[str]) -> str:
        """Text of pieces; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._processor.DecodePieces(list(pieces))
        return text
