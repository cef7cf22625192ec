"""The parts of `kd-ray check`: what each kind of command would read."""
