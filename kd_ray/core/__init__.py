"""The mathematics and the contracts: no files, no Ray."""
