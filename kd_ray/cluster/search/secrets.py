"""Keys of the environment stay there: Ray Tune would pass some on where everybody can read them."""

import logging

from ray.tune.execution import class_cache

logger = logging.getLogger(__name__)

_PASSED_ON = "ENV_VARS_TO_PROPAGATE"


def withhold_keys() -> None:
    """Keep Tune from passing keys on to its trials.

    It puts `AWS_SECRET_ACCESS_KEY` and its like into the runtime environment of every trial, which
    Ray writes into logs and shows on its dashboard. Our processes find keys where Ray was started.
    """
    names = getattr(class_cache, _PASSED_ON, None)
    if names is None:
        logger.debug("Ray Tune has no list of variables to pass on any more")
        return
    kept = {name for name in names if not name.startswith("AWS_")}
    setattr(class_cache, _PASSED_ON, kept)
