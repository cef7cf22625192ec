"""The schemas of what reads cluster files: Ray's launcher (`ray up`) and KubeRay's operator."""

import copy
import json
from pathlib import Path
from typing import Any

import ray.autoscaler
from jsonschema import Draft7Validator
from ray.autoscaler._private.util import prepare_config

_KUBERAY = json.loads(
    (Path(__file__).parent / "unit" / "cluster" / "data" / "kuberay.json").read_text()
)
_LAUNCHER = json.loads(
    (Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8")
)


def kuberay_errors(manifest: dict[str, Any]) -> list[str]:
    """What KubeRay would refuse of a `RayCluster` or `RayJob`."""
    schema = {**_KUBERAY[manifest["kind"]], "definitions": _KUBERAY["definitions"]}
    return _errors(schema, manifest)


def launcher_errors(config: dict[str, Any]) -> list[str]:
    """What Ray's own schema says of a file for `ray up`, with Ray's defaults filled in."""
    return _errors(_LAUNCHER, prepare_config(copy.deepcopy(config)))


def _errors(schema: dict[str, Any], content: dict[str, Any]) -> list[str]:
    Draft7Validator.check_schema(schema)
    return [error.message for error in Draft7Validator(schema).iter_errors(content)]
