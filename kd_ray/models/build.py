"""From a configuration section to a model with fresh weights."""

from kd_ray.config.model import Model, Recognizer, SpeechToText
from kd_ray.models.recognizer import RecognizerModel
from kd_ray.models.sequence_model import SequenceModel
from kd_ray.models.speech_to_text import SpeechToTextModel
from kd_ray.models.text_to_text import TextToTextModel


def build_model(
    section: Model,
    *,
    vocabulary_size: int,
    blank: int,
    bos: int,
    eos: int,
    source_vocabulary_size: int | None = None,
) -> SequenceModel:
    """A model whose weights are drawn from torch's global generator.

    Args:
        section: its architecture.
        vocabulary_size: tokens that it writes.
        blank: id of the CTC blank, never written by a decoder.
        bos: id that a decoder reads first.
        eos: id of the end of a sentence.
        source_vocabulary_size: tokens that it reads; for text readers, and for them alone.

    Raises:
        ValueError: ids or vocabulary sizes that do not fit each other or the architecture.
    """
    ids = {"vocabulary_size": vocabulary_size, "blank": blank, "bos": bos, "eos": eos}
    if isinstance(section, Recognizer):
        _reads_no_text(section.type, source_vocabulary_size)
        return RecognizerModel(section, **ids)
    if isinstance(section, SpeechToText):
        _reads_no_text(section.type, source_vocabulary_size)
        return SpeechToTextModel(section, **ids)
    if source_vocabulary_size is None:
        raise ValueError(
            f"a {section.type} model needs source_vocabulary_size: it reads tokens, not speech"
        )
    return TextToTextModel(section, source_vocabulary_size=source_vocabulary_size, **ids)


def _reads_no_text(kind: str, source_vocabulary_size: int | None) -> None:
    if source_vocabulary_size is not None:
        raise ValueError(
            f"a {kind} model reads speech and has no source tokens, got source_vocabulary_size "
            f"{source_vocabulary_size}; only text_to_text models read text"
        )
