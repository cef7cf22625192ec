"""What can go wrong with the demo corpus."""


class DemoCorpusError(ValueError):
    """The corpus cannot be made as asked."""


class SynthesisError(RuntimeError):
    """espeak-ng is missing or did not do what was asked."""
