"""`kd-ray status` as a job; see jobs/README.md."""

import os
import sys

# The checkout in place of this folder: its code comes before an installed one, and no file here
# can be taken for a module of the standard library.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from kd_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["status", *sys.argv[1:]]))
