"""Systems that say what they are told, and small real ones on the tiny corpus."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from kd_ray.evaluation.decode import Hypothesis, Input, Search
from kd_ray.speech.manifest import Utterance, read_manifest, write_manifest
from kd_ray.speech.tokens import Tokens

ENGLISH = ["the house", "a train goes", "the book is old", "we go home", "yes"]
GERMAN = ["das Haus", "ein Zug fährt", "das Buch bleibt alt", "wir gehen heim", "ja"]

_LAYERS = {"size": 16, "heads": 2, "feed_forward_size": 24, "layers": 1}
SECTIONS: dict[str, dict[str, Any]] = {
    "speech": {
        "type": "speech_to_text",
        "front_end": {"num_mels": 40},
        "encoder": {**_LAYERS, "conv_channels": 12},
        "decoder": _LAYERS,
    },
    "text": {"type": "text_to_text", "encoder": _LAYERS, "decoder": _LAYERS},
}


@dataclass
class Parrot:
    """Says the text that it was given for an utterance; notes what it was asked."""

    texts: dict[str, str]
    tokens: Tokens
    reads: str = "text"
    batches: list[list[str]] = field(default_factory=list)

    def read_inputs(self, rows: Sequence[Utterance], root: Path) -> list[Input]:
        return [row.transcript or "" for row in rows]

    def decode_inputs(
        self, inputs: Sequence[Input], utterance_ids: Sequence[str], search: Search
    ) -> list[Hypothesis]:
        self.batches.append(list(utterance_ids))
        return [
            Hypothesis(
                name, dict.fromkeys(search.heads, tuple(self.tokens.encode(self.texts[name])))
            )
            for name in utterance_ids
        ]


def pairs(count: int = 5, language: str | None = "de") -> list[Utterance]:
    """Text-only utterances `u0`, `u1`, ..."""
    return [
        Utterance(
            id=f"u{number}",
            transcript=ENGLISH[number % 5],
            translation=GERMAN[number % 5],
            target_language=language,
        )
        for number in range(count)
    ]


def german_tokens() -> Tokens:
    return Tokens.train(GERMAN, "characters")


def make_translators(root: Path) -> None:
    """Below the root of the tiny corpus: `data/st.parquet`, and systems of all kinds in `st/`."""
    from kd_ray.config.model import Model
    from kd_ray.models.build import build_model
    from kd_ray.models.checkpoint import save_model

    spoken = read_manifest(root / "data" / "valid.parquet")
    rows = [
        Utterance(
            id=row.id,
            audio=row.audio,
            duration_s=row.duration_s,
            transcript=ENGLISH[number % 5],
            translation=GERMAN[number % 5],
            extra={"asr_transcript": ENGLISH[(number + 1) % 5]},
        )
        for number, row in enumerate(spoken)
    ]
    write_manifest(root / "data" / "st.parquet", rows)
    english, german = Tokens.train(ENGLISH, "characters"), german_tokens()
    sections: Any = TypeAdapter(Model)
    for seed, (name, kind, tokens) in enumerate(
        [
            ("student", "speech", german),
            ("other", "speech", german),
            ("recogniser", "speech", english),
            ("expert", "text", german),
        ]
    ):
        torch.manual_seed(seed)
        source = english if kind == "text" else None
        model = build_model(
            sections.validate_python(SECTIONS[kind]),
            vocabulary_size=len(tokens),
            blank=tokens.blank,
            bos=tokens.bos,
            eos=tokens.eos,
            source_vocabulary_size=None if source is None else len(source),
        )
        save_model(
            root / "st" / name,
            model,
            tokens=tokens.to_dict(),
            extra={},
            source_tokens=None if source is None else source.to_dict(),
        )
