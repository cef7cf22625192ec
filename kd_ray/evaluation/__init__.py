"""Trained systems and what they are worth: loading, decoding, scoring; teachers and students alike."""
