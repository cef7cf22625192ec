"""Trained systems, teachers and students alike: loading, decoding, scoring."""
