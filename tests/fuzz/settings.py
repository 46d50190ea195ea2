"""The portal's own settings, without a limit on calls: an answer 429 would hide what is looked for."""

from portal.settings import *  # noqa: F403
from portal.settings import REST_FRAMEWORK

REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"] = dict.fromkeys(REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"], "100000/min")
