"""What translations are compared with: the manifest's text, or its round trip through Moses."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from kd_ray.config.evaluation import Protocol
from kd_ray.evaluation.system import UnusableSystem, some
from kd_ray.speech.manifest import Utterance


def reference_texts(utterances: Sequence[Utterance], protocol: Protocol) -> list[str]:
    """The reference translation of each utterance.

    `reference` normalises punctuation, tokenises with aggressive splitting of hyphens and
    detokenises again, by the rules of the utterance's target language (sacremoses): published
    systems that were trained on text so prepared were scored against it. Scores against it are
    lower or higher than against raw text; the two must not stand in one table.

    Raises:
        UnusableSystem: sacremoses is not installed, or utterances do not name their language.
    """
    texts = [row.translation or "" for row in utterances]
    if protocol == "raw":
        return texts
    nameless = [row.id for row in utterances if not row.target_language]
    if nameless:
        raise UnusableSystem(
            f"protocol: reference needs the column target_language (such as de), and "
            f"{len(nameless)} of {len(utterances)} utterances have none: {some(nameless)}; fill it "
            "in, or score with protocol: raw"
        )
    return [
        _round_trip(text, row.target_language or "")
        for text, row in zip(texts, utterances, strict=True)
    ]


def _round_trip(text: str, language: str) -> str:
    normalizer, tokenizer, detokenizer = _moses(language)
    pieces = tokenizer.tokenize(normalizer.normalize(text), aggressive_dash_splits=True)
    return str(detokenizer.detokenize(pieces))


@cache
def _moses(language: str) -> tuple[Any, Any, Any]:
    try:
        from sacremoses import MosesDetokenizer, MosesPunctNormalizer, MosesTokenizer
    except ImportError as error:
        raise UnusableSystem(
            "protocol: reference needs sacremoses, which is not installed: "
            "`pip install 'kd-ray[moses]'`, or score with protocol: raw"
        ) from error
    return (
        MosesPunctNormalizer(lang=language),
        MosesTokenizer(lang=language),
        MosesDetokenizer(lang=language),
    )
