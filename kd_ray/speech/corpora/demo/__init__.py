"""The demo corpus: a bilingual grammar, a speech synthesiser, noise and rooms."""

from kd_ray.speech.corpora.demo.corpus import DemoCorpusError, build_demo_corpus
from kd_ray.speech.corpora.demo.synthesizer import SynthesisError

__all__ = ["DemoCorpusError", "SynthesisError", "build_demo_corpus"]
