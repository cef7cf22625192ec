"""The rules that every section of a configuration follows."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")]
"""Letters, digits, dot, dash, underscore; a slash makes a sub-folder of `runs/`."""


class Section(BaseModel):
    """Frozen and strict about keys; values are converted (YAML reads `1e-4` as a string)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )
