"""The part of `kd-ray check` about addresses: can they be reached, read, and written?"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kd_ray.config.base import Section
from kd_ray.config.places import Address, address_of, is_address
from kd_ray.storage import probe


def check_places(config: Section, root: Path, attempt: Callable[..., Any]) -> None:
    """Try every address that a configuration names, and the root, which must be writable.

    Args:
        config: any command's.
        root: of the command.
        attempt: calls its first argument with the others, and collects errors.
    """
    top = address_of(root)
    if top is not None:
        attempt(probe, top, write=True)
    tried: set[tuple[str, str, str]] = set()
    for text in _strings(config.model_dump(mode="json")):
        if is_address(text):
            address: Address | None = attempt(address_of, Path(text))
            if address is None:
                continue
            key = (address.scheme, address.place, address.query)
            if key not in tried:
                tried.add(key)
                attempt(probe, address, write=False)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
