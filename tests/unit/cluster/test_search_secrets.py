"""What Ray Tune puts into the runtime environment of trials."""

from ray.tune.execution.class_cache import _ActorClassCache

from kd_ray.cluster.search.secrets import withhold_keys

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")


class Trainable:
    pass


def passed_on():
    """Variables of an actor class that Tune makes."""
    return _ActorClassCache().get(Trainable)._default_options["runtime_env"]["env_vars"]


def test_tune_does_not_pass_keys_on(monkeypatch):
    for name in KEYS:
        monkeypatch.setenv(name, "planted")
    withhold_keys()
    withhold_keys()
    found = passed_on()
    assert "planted" not in found.values()
    # What Tune sets for itself is still there.
    assert "PL_DISABLE_FORK" in found
