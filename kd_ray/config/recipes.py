"""Sections of commands that run other commands: recipes, and studies over seeds."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from kd_ray.config.base import Name, Section


class RecipeTask(Section):
    """One command of a recipe."""

    config: str
    overrides: dict[str, Any] = Field(default_factory=dict)


class RecipeStep(Section):
    """Tasks that may run at the same time."""

    title: str
    tasks: tuple[RecipeTask, ...] = Field(min_length=1)
    parallel: int = Field(1, ge=1)


class RecipeConfig(Section):
    """`kd-ray recipe`: commands in order, as `make demo` runs them."""

    command: Literal["recipe"]
    name: Name
    steps: tuple[RecipeStep, ...] = Field(min_length=1)


class StudyRow(Section):
    """A line of a study's table: what is made for each seed, and how it is scored."""

    tasks: tuple[RecipeTask, ...] = ()
    """In order, for each seed. `{seed}` and `{row}` in overrides (keys and values) are filled in;
    a value that is `{seed}` alone is a number."""
    evaluation: RecipeTask
    """A configuration of `evaluate`, with the same placeholders."""
    system: str
    """Label of the row's system in that evaluation."""
    seeds: tuple[int, ...] | None = Field(None, min_length=1)
    """Where it differs from the study's: a system that has no seed needs one row only."""


class StudyConfig(Section):
    """`kd-ray study`: systems times seeds, one JSON file for each, and a table of means."""

    command: Literal["study"]
    name: Name
    results: str
    """Folder for the rows' JSON files and for `table.md`; finished rows are not made again."""
    seeds: tuple[int, ...] = Field((1, 2, 3), min_length=1)
    parallel: int = Field(1, ge=1)
    """Rows at a time."""
    first: tuple[RecipeStep, ...] = ()
    """What all rows share, made before the first."""
    rows: dict[str, StudyRow] = Field(min_length=1)
    baseline: str | None = None
    """Row that differences are shown to."""
    commit: bool = False
    """Commit each finished row's file with git, so that an interrupted study loses nothing."""

    @model_validator(mode="after")
    def _rows_can_be_told_apart(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        if self.baseline is not None and self.baseline not in self.rows:
            raise ValueError(
                f"baseline must be one of the rows ({', '.join(self.rows)}), got {self.baseline!r}"
            )
        return self
