"""What a run may say: strict, frozen sections in YAML. Imports neither torch nor Ray."""
