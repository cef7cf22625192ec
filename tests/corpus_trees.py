"""Small trees in the real layouts of published corpora; each returns its section `corpus`."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16000


def write_sound(path: Path, seconds: float, seed: int = 0, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-3000, 3000, round(seconds * rate))
    soundfile.write(path, samples.astype(np.int16), rate)


def write(path: Path, *lines: str, end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + end).encode())


def must_c(root: Path) -> dict[str, Any]:
    for name in ("train", "dev", "tst-COMMON", "tst-HE"):
        folder = root / "must-c" / "en-de" / "data" / name
        for number in (1, 22):
            write_sound(folder / "wav" / f"ted_{number}.wav", 4.0, number)
        write(
            folder / "txt" / f"{name}.yaml",
            *[
                f"- {{duration: {length}, offset: {start}, rW: 9, uW: 0, speaker_id: spk.{talk}, "
                f"wav: ted_{talk}.wav}}"
                for talk, start, length in (
                    (22, 0.5, 1.25),
                    (22, 2.0, 1.0),
                    (1, 0.0, 0.75),
                    (1, 1.0, 1.0),
                )
            ],
        )
        write(folder / "txt" / f"{name}.en", "same", "same", "so what", "bye")
        write(folder / "txt" / f"{name}.de", "gleich", "eben", "na und", "gleich")
    return {"type": "must_c", "folder": "must-c"}


def parallel(root: Path) -> dict[str, Any]:
    write(root / "text" / "train.en", "a b", "c", "", end="")
    write(root / "text" / "train.de", "A B", " C ", "leer")
    write(root / "text" / "valid.en", "c b")
    write(root / "text" / "valid.de", "C")
    return {
        "type": "parallel_text",
        **{
            split: {"source": f"text/{split}.en", "target": f"text/{split}.de"}
            for split in ("train", "valid")
        },
    }


def europarl(root: Path) -> dict[str, Any]:
    top = root / "v1.1" / "en"
    for number, name in enumerate(("en.20080903.2", "en.20080904.11")):
        write_sound(top / "audios" / f"{name}.wav", 3.0, number)
    for split, speeches in {
        "train": ["en.20080904.11 1.5 2.25", "en.20080903.2 2.0 2.9", "en.20080903.2 0.25 1.5"],
        "dev": ["en.20080903.2 0.0 1.0"],
        "test": ["en.20080904.11 0.0 1.0"],
        "train-noisy": ["en.20080903.2 1.0 2.0"],
    }.items():
        folder = top / "de" / split
        write(folder / "segments.lst", *speeches)
        write(folder / "segments.en", *[f"{split} {row}" for row in range(len(speeches))])
        # As some releases have it: no end at the last line.
        write(folder / "segments.de", *(["ja"] * len(speeches)), end="")
        write(folder / "speeches.lst", "en.20080904.11", "en.20080903.2")
        write(folder / "speakers.lst", "MEP_7", "MEP_9")
    return {"type": "europarl_st", "folder": "v1.1"}


def covost(root: Path) -> dict[str, Any]:
    clips = root / "cv" / "en" / "clips"
    for number in range(4):
        # Two were converted to wav, as pipelines without mp3 do.
        write_sound(clips / f"common_voice_en_{number}.{'wav' if number < 2 else 'flac'}", 0.5)
    write(
        root / "cv" / "en" / "validated.tsv",
        "client_id\tpath\tsentence\tup_votes",
        *[f"c{number}\tcommon_voice_en_{number}.mp3\tsame words\t2" for number in range(4)],
    )
    write(
        root / "covost" / "covost_v2.en_de.tsv",
        "path\ttranslation\tsplit",
        "common_voice_en_3.mp3\tdrei\ttest",
        "common_voice_en_1.mp3\teins\ttrain_covost",
        "common_voice_en_0.mp3\tdrei\ttrain",
        "common_voice_en_2.mp3\teins\tdev",
        end="",
    )
    return {"type": "covost", "folder": "covost", "common_voice": "cv/en"}
