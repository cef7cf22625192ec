"""Where in a cluster something may run: custom resources that it takes, labels of its node."""

from typing import Annotated

from pydantic import AfterValidator, Field

_OWN_KEYS = ("CPU", "GPU", "memory", "object_store_memory")
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL = rf"^(?:[A-Za-z0-9.-]+/)?{_NAME}$"
_VALUE = rf"^!?(?:{_NAME}|in\({_NAME}(?:, ?{_NAME})*\))$"


def _are_custom(resources: dict[str, float]) -> dict[str, float]:
    wrong = [name for name in resources if name in _OWN_KEYS]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: these are for a cluster's custom resources; CPUs and GPUs have "
            "keys of their own (cpus_per_host, gpus_per_host; workers.cpus, workers.gpus; "
            "cpus_per_actor, gpus_per_actor)"
        )
    return resources


Resources = Annotated[
    dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(ge=1e-4)]],
    AfterValidator(_are_custom),
]
"""Name of a custom resource to the amount that each process takes of it."""

LabelSelector = dict[
    Annotated[str, Field(pattern=_LABEL)],
    Annotated[str, Field(pattern=_VALUE)],
]
"""Label of a node to the value that it must have: `a`, `!a`, `in(a, b)` or `!in(a, b)`."""
