"""Files at addresses (S3, GCS, file:// and others) behind local paths; a bounded local cache.

Every function takes any path. One that stands for no address is left alone, at the cost of a look
at its name; so all code calls them where it opens what others wrote, and where it has written.
"""

from kd_ray.storage.files import (
    exists,
    fetch,
    fetch_folder,
    matches,
    open_end,
    open_file,
    open_range,
    open_seekable,
    peek,
    publish,
    publish_folder,
    remove,
    shown,
)
from kd_ray.storage.lease import hold, release, require
from kd_ray.storage.remote import StorageError, file_system, probe

__all__ = [
    "StorageError",
    "exists",
    "fetch",
    "fetch_folder",
    "file_system",
    "hold",
    "matches",
    "open_end",
    "open_file",
    "open_range",
    "open_seekable",
    "peek",
    "probe",
    "publish",
    "publish_folder",
    "release",
    "remove",
    "require",
    "shown",
]
