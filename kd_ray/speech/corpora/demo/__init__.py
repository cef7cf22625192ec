"""The demo corpus: a bilingual grammar, a speech synthesiser, noise and rooms."""

from collections.abc import Callable
from pathlib import Path

from kd_ray.config.data import DemoCorpus
from kd_ray.speech.corpora.demo.errors import DemoCorpusError, SynthesisError

__all__ = ["DemoCorpusError", "SynthesisError", "build_demo_corpus"]


def build_demo_corpus(
    config: DemoCorpus, folder: Path, root: Path, progress: Callable[[int, int], None]
) -> dict[str, Path]:
    """Make the corpus below `folder`; see `corpus.build_demo_corpus`."""
    # Late, because the processes that speak import this package and need no Parquet.
    from kd_ray.speech.corpora.demo import corpus

    return corpus.build_demo_corpus(config, folder, root, progress)
