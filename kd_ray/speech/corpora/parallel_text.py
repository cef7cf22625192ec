"""Import of parallel text: two files, line by line, for a text translation expert."""

from pathlib import Path

from kd_ray.config.data import ParallelText
from kd_ray.speech.corpora.tables import Collector, Imported, read_parallel
from kd_ray.speech.manifest import Utterance


def read_parallel_text(corpus: ParallelText, root: Path) -> dict[str, Imported]:
    """Text-only rows of each split; ids are split and line number, from 1.

    An empty line keeps its row, as an empty text: `prepare` reports or skips it.

    Raises:
        CorpusError: missing files, or files with different numbers of lines.
    """
    pairs = {"train": corpus.train, "valid": corpus.valid, "test": corpus.test}
    splits = {}
    for split, pair in pairs.items():
        if pair is None:
            continue
        collector = Collector()
        lines = read_parallel(root / pair.source, root / pair.target)
        for number, (source, target) in enumerate(lines, start=1):
            collector.add(
                Utterance(
                    id=f"{split}-{number:08d}",
                    transcript=source.strip(),
                    translation=target.strip(),
                    source_language=corpus.source_language,
                    target_language=corpus.target_language,
                )
            )
        splits[split] = collector.done()
    return splits
