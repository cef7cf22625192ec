"""The rules that every section of a configuration follows."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen and strict about keys; values are converted (YAML reads `1e-4` as a string)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )
