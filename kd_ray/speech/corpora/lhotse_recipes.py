"""Import of corpora that lhotse has recipes for; `lhotse_cuts` reads what the recipes write."""

import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from kd_ray.config.data import MustC, TedLium
from kd_ray.speech.corpora.lhotse_cuts import LhotseError, read_cuts
from kd_ray.speech.corpora.tables import Collector, CorpusError, Imported, read_lines

_MUST_C_SPLITS = {"train": "train", "valid": "dev", "test": "tst-COMMON", "test_he": "tst-HE"}
_TEDLIUM_SPLITS = {"train": "train", "valid": "dev", "test": "test"}


def read_must_c(corpus: MustC, root: Path) -> dict[str, Imported]:
    """Rows of each split; ids are lhotse's (`ted_767-seg-0`).

    lhotse's recipe reads one language, the translation; the transcripts are read beside it and
    joined by the segment's id.

    Raises:
        LhotseError: lhotse is not installed.
        CorpusError: the folder is not a MuST-C release, or its files do not pair up.
    """
    folder, language = root / corpus.folder, corpus.target_language
    pair = f"en-{language}"
    splits = {}
    with TemporaryDirectory() as output:
        _run("must_c", "prepare_must_c", folder, Path(output), tgt_lang=language)
        for split, name in _MUST_C_SPLITS.items():
            rows = read_cuts(Path(output) / f"must_c_recordings_{pair}_{name}.jsonl.gz", root=root)
            transcripts = _transcripts(folder / pair / "data" / name / "txt", name)
            collector = Collector()
            for row in rows:
                translated = replace(
                    row,
                    transcript=transcripts.get(row.id),
                    translation=row.transcript,
                    source_language="en",
                    target_language=language,
                )
                found = row.id in transcripts
                collector.add(translated, *([] if found else [f"no segment {row.id} in the yaml"]))
            splits[split] = _finish(collector, len(transcripts))
    return splits


def read_tedlium(corpus: TedLium, root: Path) -> dict[str, Imported]:
    """Rows of each split, transcripts only; ids are lhotse's (talk and line of its STM file).

    Raises:
        LhotseError: lhotse is not installed.
        CorpusError: the folder is not a TED-LIUM 3 release.
    """
    folder = root / corpus.folder
    splits = {}
    with TemporaryDirectory() as output:
        _run("tedlium", "prepare_tedlium", folder, Path(output))
        for split, name in _TEDLIUM_SPLITS.items():
            rows = read_cuts(Path(output) / f"tedlium_recordings_{name}.jsonl.gz", root=root)
            collector = Collector()
            for row in rows:
                collector.add(replace(row, source_language="en"))
            splits[split] = collector.done()
    return splits


def _run(module: str, function: str, folder: Path, output: Path, **options: Any) -> None:
    try:
        recipe: Callable[..., Any] = getattr(
            importlib.import_module(f"lhotse.recipes.{module}"), function
        )
        backends = importlib.import_module("lhotse.audio.backend")
    except ImportError as error:
        raise LhotseError(
            f"importing {folder} needs lhotse ({error}); install it with: "
            "pip install kd-ray[lhotse]"
        ) from error
    former = backends.get_current_audio_backend()
    # libsndfile reads SPHERE; lhotse would call sph2pipe, a program that has to be built.
    backends.set_current_audio_backend("LibsndfileBackend")
    try:
        recipe(folder, output, **options)
    except (AssertionError, OSError, ValueError, KeyError) as error:
        # Recipes check the layout with assertions that name a path at best.
        raise CorpusError(
            f"lhotse's {function} could not read {folder}: {type(error).__name__}: {error}. "
            "corpus.folder must be the unpacked release"
        ) from error
    finally:
        backends.set_current_audio_backend(former)


def _transcripts(folder: Path, name: str) -> dict[str, str]:
    """English line of each segment, under the ids that lhotse gives: talk and place in it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with (folder / f"{name}.yaml").open("rb") as file:
        segments: list[dict[str, Any]] = yaml.load(file, loader)
    lines = read_lines(folder / f"{name}.en")
    if len(lines) != len(segments):
        raise CorpusError(
            f"{folder}: {name}.en has {len(lines)} lines, {name}.yaml {len(segments)} segments"
        )
    count: Counter[str] = Counter()
    transcripts = {}
    for segment, line in zip(segments, lines, strict=True):
        talk = Path(segment["wav"]).stem
        transcripts[f"{talk}-seg-{count[talk]}"] = line.strip()
        count[talk] += 1
    return transcripts


def _finish(collector: Collector, segments: int) -> Imported:
    missing = segments - len(collector.rows)
    if missing:
        collector.left_out["outside their recording, by lhotse's recipe"] = missing
    return collector.done()
