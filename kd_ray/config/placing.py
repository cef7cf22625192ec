"""Where in a cluster something may run: custom resources that it takes, labels of its node."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from kd_ray.config.base import Section

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


class PlacedActors(Section):
    """What each of a command's actors takes, and where it may live."""

    cpus_per_actor: float = Field(1, gt=0)
    gpus_per_actor: float = Field(0, ge=0)
    """Fractions share a device; above 0, actors compute on it."""
    resources_per_actor: Resources = Field({})
    """Custom resources of the cluster that each actor takes, e.g. `{teachers: 1}`."""
    label_selector: LabelSelector = Field({})
    """Labels that an actor's node must have."""

    @property
    def placed(self) -> bool:
        """Whether actors are sent to nodes of a certain kind."""
        return bool(self.resources_per_actor or self.label_selector)


class DecodingActors(PlacedActors):
    """Processes that decode batches side by side."""

    actors: int = Field(0, ge=0)
    """How many; 0: the command decodes by itself, on CPU."""

    @model_validator(mode="after")
    def _actors_that_are_placed(self) -> Self:
        if self.actors == 0 and (self.gpus_per_actor or self.placed):
            raise ValueError(
                "gpus_per_actor, resources_per_actor and label_selector say what actors take, and "
                "actors is 0; set actors to 1 or more, or leave them out"
            )
        return self
