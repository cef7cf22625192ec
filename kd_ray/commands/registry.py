"""Which function does which command; imported lazily, so that `kd-ray --help` needs no torch."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def _lazily(module: str, function: str) -> Callable[[], Callable[..., Any]]:
    def find() -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(import_module(f"kd_ray.commands.{module}"), function)
        return found

    return find


COMMANDS: dict[str, Callable[[], Callable[..., Any]]] = {
    "prepare": _lazily("prepare", "prepare"),
    "train": _lazily("train", "train"),
    "train-teachers": _lazily("train_teachers", "train_teachers"),
    "infer-teachers": _lazily("infer_teachers", "infer_teachers"),
    "distill": _lazily("train", "distill"),
    "evaluate": _lazily("evaluate", "evaluate"),
    "decode": _lazily("decode", "decode"),
    "transcribe": _lazily("generate", "transcribe"),
    "translate": _lazily("generate", "translate"),
    "report": _lazily("report", "report"),
    "compare": _lazily("compare", "compare"),
    "recipe": _lazily("recipe", "recipe"),
    "study": _lazily("study", "study"),
    "search": _lazily("search", "search"),
    "replay": _lazily("replay", "replay"),
    "pool": _lazily("pool", "pool"),
    "bench": _lazily("bench", "bench"),
}
"""Commands that read a configuration file of their own: name to a function that finds them."""
