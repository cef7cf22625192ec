"""A made-up evaluation of translations whose counts agree with its hypotheses."""

from pathlib import Path
from typing import Any

import numpy as np
from report_folders import environment, write_json, write_lines

from kd_ray.core.translation_scores import (
    REPORTED,
    count_translations,
    sentence_statistics,
    signature,
)

_TEXT = "der die das Haus Zug fährt geht nach Bonn um acht Uhr ein Buch liest alt neu"
WORDS = _TEXT.split()
SYSTEMS: tuple[tuple[str, str, str | None, float], ...] = (
    ("nll", "student", None, 0.5),
    ("word-kd", "student", "average", 0.4),
    ("imitation", "student", "average", 0.3),
    ("expert <b>", "expert", None, 0.1),
    ("cascade", "cascade", None, 0.35),
)


def noisy(reference: str, rate: float, draw: np.random.Generator) -> str:
    return " ".join(
        str(draw.choice(WORDS)) if draw.random() < rate else word for word in reference.split()
    )


def write_translations(
    folder: Path,
    *,
    systems: tuple[tuple[str, str, str | None, float], ...] = SYSTEMS,
    utterances: int = 30,
    seed: int = 4,
    shuffled: bool = False,
    splits: tuple[str, ...] = ("valid", "test"),
) -> Path:
    draw = np.random.default_rng(seed)
    described: dict[str, Any] = {}
    everyone: list[dict[str, Any]] = [
        {
            "label": label,
            "kind": kind,
            "folder": f"runs/st/{label}/model",
            "parameters": 400_000 if kind == "student" else 3_000_000,
            "bytes": 1_700_000,
            "real_time_factor": 0.02,
            "strategy": strategy,
            "scores": {},
        }
        for label, kind, strategy, _ in systems
    ]
    for split in splits:
        references = [
            " ".join(draw.choice(WORDS, int(draw.integers(4, 12)))) for _ in range(utterances)
        ]
        described[split] = {"manifest": f"data/st/{split}.parquet", "utterances": utterances}
        for system, (label, kind, _, rate) in zip(everyone, systems, strict=True):
            texts = [noisy(reference, rate, draw) for reference in references]
            statistics = {m: sentence_statistics(texts, references, m) for m in REPORTED}
            rows = []
            for place, (reference, text) in enumerate(zip(references, texts, strict=True)):
                row: dict[str, Any] = {
                    "id": f"{split}-{place:03d}",
                    "transcript": f"english {place} & more",
                    "reference": reference,
                    "hypothesis": text,
                    "counts": {m: statistics[m][place].astype(int).tolist() for m in REPORTED},
                }
                if kind == "cascade":
                    row["heard"] = f"anguish {place}"
                rows.append(row)
            counts = count_translations(texts, references)
            system["scores"][split] = {
                **{m: counts.score(m) for m in REPORTED},
                "length_ratio": counts.length_ratio,
                "sentences": utterances,
                "counts": {m: list(counts.counts[m]) for m in REPORTED},
            }
            if kind == "cascade":
                system["scores"][split]["transcript_word_error_rate"] = 66.7
            if shuffled:
                rows = [rows[int(i)] for i in draw.permutation(utterances)]
            write_lines(folder / "hypotheses" / split / f"{label.replace('/', '-')}.jsonl", rows)
    write_json(
        folder / "results.json",
        {
            "family": "translation",
            "decoding": "beam",
            "protocol": "raw",
            "signatures": {m: signature(m) for m in REPORTED},
            "splits": described,
            "systems": everyone,
        },
    )
    write_json(folder / "config.json", {"command": "evaluate", "name": "st/evaluation"})
    write_json(folder / "environment.json", environment())
    return folder
