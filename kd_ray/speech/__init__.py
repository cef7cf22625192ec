"""From files to batches: manifests, audio, features, tokens, batches, checks."""
