"""The teachers' wing: from a request to a fused signal, in plain Python and torch (no Ray)."""
