"""Corpora: the one kd_ray makes itself, and importers of what others have prepared."""
