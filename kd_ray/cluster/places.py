"""Where Ray Train and Ray Tune keep files of their own."""

from pathlib import Path
from typing import Any

from kd_ray.config.places import address_of
from kd_ray.storage import file_system


def ray_storage(folder: Path) -> dict[str, Any]:
    """Arguments of a `RunConfig`: a folder that all nodes see, also one at an address."""
    address = address_of(folder)
    if address is None:
        return {"storage_path": str(folder)}
    system, path = file_system(address)
    return {"storage_path": path, "storage_filesystem": system}
