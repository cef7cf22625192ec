"""Every error of the package survives the way to another process."""

import importlib
import inspect
import pickle
import pkgutil

import pytest

import kd_ray
from kd_ray.core.errors import PortableError
from kd_ray.core.partials import TeacherNaN
from kd_ray.speech.checks import BadRow, BadRowsError


def all_errors():
    found = set()
    for module in pkgutil.walk_packages(kd_ray.__path__, "kd_ray."):
        if "corpora.lhotse" in module.name or module.name == "kd_ray.__main__":
            continue
        for _, thing in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(thing, BaseException) and thing.__module__.startswith("kd_ray."):
                found.add(thing)
    return sorted(found, key=lambda kind: kind.__qualname__)


def test_errors_with_arguments_of_their_own_are_portable():
    errors = all_errors()
    assert len(errors) > 30
    own = [kind for kind in errors if "__init__" in vars(kind)]
    assert len(own) >= 6
    assert [kind for kind in own if not issubclass(kind, PortableError)] == []


def test_plain_errors_are_pickled_with_their_message():
    for kind in all_errors():
        if not issubclass(kind, PortableError):
            again = pickle.loads(pickle.dumps(kind("what happened")))
            assert (type(again), str(again)) == (kind, str(kind("what happened")))


@pytest.mark.parametrize(
    "error",
    [
        TeacherNaN((3, 5)),
        BadRowsError([BadRow("u1", "too long", 4)], what="train.parquet"),
    ],
)
def test_message_and_attributes_travel(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
