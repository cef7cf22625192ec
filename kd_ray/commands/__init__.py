"""One module per command: typed functions that return their result, for CLI, jobs and notebooks."""
