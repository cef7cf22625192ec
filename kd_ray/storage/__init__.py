"""Files at addresses (S3, GCS, file:// and others) behind local paths; a bounded local cache.

Every function takes any path. One that stands for no address is left alone, at the cost of a look
at its name; so all code calls them where it opens what others wrote, and where it has written.
"""

from kd_ray.storage.files import (
    changed_here,
    exists,
    fetch,
    fetch_folder,
    fetched_folder,
    matches,
    names_below,
    open_end,
    open_file,
    open_range,
    open_seekable,
    peek,
    publish,
    publish_folder,
    remove,
    shown,
    unpin,
    was_there,
)
from kd_ray.storage.lease import (
    LeaseHeld,
    held,
    hold,
    release,
    release_if_possible,
    require,
    waiting_to_hold,
)
from kd_ray.storage.lock import alone, hold_here, release_here
from kd_ray.storage.processes import place_of_processes
from kd_ray.storage.remote import StorageError, file_system, probe

__all__ = [
    "LeaseHeld",
    "StorageError",
    "alone",
    "changed_here",
    "exists",
    "fetch",
    "fetch_folder",
    "fetched_folder",
    "file_system",
    "held",
    "hold",
    "hold_here",
    "matches",
    "names_below",
    "open_end",
    "open_file",
    "open_range",
    "open_seekable",
    "peek",
    "place_of_processes",
    "probe",
    "publish",
    "publish_folder",
    "release",
    "release_here",
    "release_if_possible",
    "remove",
    "require",
    "shown",
    "unpin",
    "waiting_to_hold",
    "was_there",
]
