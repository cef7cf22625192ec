"""`kd-ray bench soak`: a pool under load for half an hour or longer, while processes are killed.

run.py        the soak: a private Ray, a named pool, clients, faults, samples
clients.py    jobs that come, ask, check every answer, and go
faults.py     which process is killed or stopped, and when
processes.py  what processes there are, and their memory
verdict.py    what the samples say
pages.py      samples as a table and as a plot
"""

from kd_ray.bench.soak.pages import log_soak, write_samples
from kd_ray.bench.soak.run import SoakFailed, measure_soak

__all__ = ["SoakFailed", "log_soak", "measure_soak", "write_samples"]
