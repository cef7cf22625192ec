"""Errors that reach the process that asked."""

from typing import Any


class PortableError(Exception):
    """An error whose `__init__` takes other arguments than its message, and that can be pickled.

    Pickle calls `__init__` with the message alone. That fails, and whoever waits in another process
    is told that an error could not be read instead of which one it was.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(
    kind: type[PortableError], args: tuple[Any, ...], state: dict[str, Any]
) -> PortableError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
