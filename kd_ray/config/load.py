"""From YAML files and `key=value` overrides to checked sections, with every error at once."""

import difflib
import json
import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from kd_ray.config.base import Section
from kd_ray.config.commands import CommandConfig
from kd_ray.config.places import PlaceError, address_of, is_address, mirror_of, refuse_secrets

_COMMANDS: TypeAdapter[CommandConfig] = TypeAdapter(CommandConfig)


class ConfigError(ValueError):
    """The configuration cannot be used; the text lists everything that is wrong with it."""


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a repeated key (plain YAML lets the last one win in silence)."""


def _mapping_without_repeats(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise ConfigError(f"key {key!r} stands twice, in lines {seen[key]} and {line}")
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, with every `extends: FILE` (relative to the file) merged in."""
    return _read_yaml(path, ())


def _read_yaml(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise ConfigError(f"{path}: `extends` goes round in a circle")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot read the configuration: {reason}") from error
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold `key: value` lines, holds {type(content).__name__}")
    resolved = _extend(content, path, (*parents, path.resolve()))
    assert isinstance(resolved, dict)
    return resolved


def _extend(value: Any, path: Path, parents: tuple[Path, ...]) -> Any:
    if isinstance(value, list):
        return [_extend(item, path, parents) for item in value]
    if not isinstance(value, dict):
        return value
    own = {key: _extend(item, path, parents) for key, item in value.items() if key != "extends"}
    if "extends" not in value:
        return own
    if not isinstance(value["extends"], str):
        raise ConfigError(f"{path}: `extends` must be a file name, is {value['extends']!r}")
    return merge(_read_yaml(path.parent / value["extends"], parents), own)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` upon `base`: mappings merge, anything else replaces; another `type` starts afresh."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            switched = "type" in value and "type" in below and value["type"] != below["type"]
            merged[key] = dict(value) if switched else merge(below, value)
        else:
            merged[key] = value
    return merged


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["training.epochs=3"]` as `{"training.epochs": 3}`; values are read as YAML."""
    parsed: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"override {override!r}: write key=value with a dotted key, e.g. training.epochs=3"
            )
        try:
            parsed[key.strip()] = yaml.load(value, Loader=_StrictLoader)
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: the value is not valid YAML") from error
    return parsed


def apply_overrides(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Set dotted keys in nested mappings; a mapping as value is merged in."""
    for dotted, value in overrides.items():
        nested = value
        for key in reversed(dotted.split(".")):
            nested = {key: nested}
        content = merge(content, nested)
    return dict(content)


def load(path: Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Section:
    """Read, override and check one configuration file; raises `ConfigError` with all problems."""
    changes = overrides if isinstance(overrides, Mapping) else parse_overrides(overrides)
    return check(apply_overrides(read_yaml(path), changes), where=str(path))


def check(content: Mapping[str, Any], where: str) -> Section:
    """The section that `content` describes; raises `ConfigError` with all problems."""
    if "command" not in content:
        raise ConfigError(
            f"{where}: `command` is missing; say what the file is for, one of: "
            f"{', '.join(sorted(_sections_by_command()))}"
        )
    try:
        _refuse_secrets(content)
        return _COMMANDS.validate_python(dict(content))
    except PlaceError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValidationError as error:
        raise ConfigError(_describe(error, where)) from None


def check_as(section: type[Section], content: Mapping[str, Any], where: str) -> Section:
    """Like `check`, for a section that is known."""
    try:
        return section.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigError(_describe(error, where, section)) from None


def dump(section: Section) -> str:
    """The section as JSON (keeps nulls), as it is written into run folders."""
    return json.dumps(section.model_dump(mode="json"), indent=2) + "\n"


def root_folder() -> Path:
    """Where relative paths start: `KD_RAY_ROOT`, else the folder of the command.

    Of an address (`s3://bucket/project`) it is the local mirror: see `kd_ray.config.places`.
    """
    chosen = os.environ.get("KD_RAY_ROOT") or os.getcwd()
    if is_address(chosen):
        address = address_of(Path(chosen))
        assert address is not None
        return mirror_of(address)
    return Path(chosen).resolve()


def _refuse_secrets(value: Any) -> None:
    """`PlaceError` if an address anywhere in a configuration carries a secret."""
    if isinstance(value, str):
        refuse_secrets(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            _refuse_secrets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_secrets(item)


def _sections_by_command() -> dict[str, type[Section]]:
    return {
        typing.get_args(section.model_fields["command"].annotation)[0]: section
        for section in _sections_in(CommandConfig)
    }


def _sections_in(annotation: Any) -> list[type[Section]]:
    """Every section that stands directly in an annotation (unions, tuples, optionals)."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    found = []
    for argument in typing.get_args(annotation):
        found.extend(_sections_in(argument))
    return found


def _describe(error: ValidationError, where: str, section: type[Section] | None = None) -> str:
    details = error.errors(include_url=False)
    roots = [section] if section else _sections_in(CommandConfig)
    lines = [f"{where}: {len(details)} problem{'s' if len(details) > 1 else ''}"]
    lines += [f"  {_explain(detail, roots)}" for detail in details]
    return "\n".join(lines)


_PATTERN_WORDS = (
    "letters, digits, dot, dash and underscore, beginning with a letter or digit; a slash makes a "
    "sub-folder"
)


def _explain(detail: ErrorDetails, roots: list[type[Section]]) -> str:
    keys, sections = _walk(detail["loc"], roots)
    key = ".".join(keys) or "(whole file)"
    came = detail.get("input")
    if detail["type"] == "extra_forbidden":
        allowed = sorted({name for section in sections for name in section.model_fields})
        near = difflib.get_close_matches(keys[-1], allowed, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(allowed)}"
        return f"{key}: no such key; {hint}"
    if detail["type"] == "missing":
        return f"{key}: is required and missing"
    if detail["type"] == "union_tag_invalid":
        allowed_tags = detail["ctx"]["expected_tags"]
        tag = detail["ctx"]["tag"]
        # Of a function that finds the tag, the name is that of the key: `_type()`.
        name = detail["ctx"]["discriminator"].strip("'_()")
        near = difflib.get_close_matches(tag, allowed_tags.replace("'", "").split(", "), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        shown = name if key == "(whole file)" else f"{key}.{name}"
        return f"{shown}: got {tag!r}, allowed: {allowed_tags}{hint}"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}"
    if detail["type"] == "string_pattern_mismatch":
        return f"{key}: got {came!r}: allowed are {_PATTERN_WORDS}"
    if detail["type"] in ("model_attributes_type", "model_type", "dict_type"):
        tags = sorted({tag for section in sections for tag in _tags(section)})
        way = f", e.g. {key}='{{type: {came}}}' or {key}.type={came}" if came in tags else ""
        return f"{key}: got {came!r}: must be a section with keys of its own{way}"
    quote = (
        "; YAML reads yes/no/on/off as true/false: quote it"
        if isinstance(came, bool) and "string" in detail["type"]
        else ""
    )
    return f"{key}: got {came!r}: {detail['msg'].lower()}{quote}"


def _walk(
    location: tuple[int | str, ...], roots: list[type[Section]]
) -> tuple[list[str], list[type[Section]]]:
    """A pydantic location as dotted keys (without union tags), and the sections it ends in."""
    keys: list[str] = []
    sections = roots
    inner: list[type[Section]] = roots
    for step in location:
        tagged = [section for section in inner if step in _tags(section)]
        if tagged and not any(step in section.model_fields for section in inner):
            inner = sections = tagged
            continue
        if isinstance(step, str) and step.startswith("("):
            continue  # The tag of a value that has no `type`: no key.
        keys.append(str(step))
        if isinstance(step, int):
            continue
        sections = inner
        if not any(step in section.model_fields for section in inner):
            continue  # The key of a mapping, whose values are these sections.
        following = []
        for section in inner:
            if step in section.model_fields:
                following.extend(_sections_in(section.model_fields[step].annotation))
        inner = following
    return keys, sections


def _tags(section: type[Section]) -> set[str]:
    tags: set[str] = set()
    for name in ("type", "command", "what"):
        if name in section.model_fields:
            tags.update(typing.get_args(section.model_fields[name].annotation))
    return tags
