"""Telling a refusal from a silence, by Slurm's own words. See slurm_errno.c in Slurm's sources."""

from typing import Final

from jobs.backends.base import SchedulerUnavailable

DUPLICATE_CODE: Final = 2011
"""ESLURM_DUPLICATE_JOB_ID, with which deploy/slurm/job_submit.lua refuses a second job with the same key."""

_DUPLICATE: Final = "Duplicate job id"
UNSPECIFIED: Final = "Unspecified error"
"""All that Slurm says of a refusal by a site's rule that gives no code of its own."""

_UNAVAILABLE: Final = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "connection timed out",
    "connection reset",
    "communication connection failure",
    "communication shutdown failure",
    "zero bytes were transmitted",
    "insane message length",
    "unexpected message received",
    "transport endpoint",
    "temporarily unable",
    "temporarily unavailable",
    "backup controller",
    "unable to establish",
    "authentication failure",
    "protocol authentication error",
    "invalid authentication credential",
    "munge",
    "could not establish a configuration source",
    "resolve_ctls_from_dns_srv",
    "invalid user id",
    "config is unable to load",
    "no route to host",
    "incompatible versions",
    "unspecified error",
    # The controller's disk.
    "i/o error writing script",
)


class DuplicateSubmission(SchedulerUnavailable):
    """A guard at the controller knows the key of this job already: nothing was queued now, but something was before."""


def is_duplicate(words: str) -> bool:
    """Whether Slurm's words are those of that guard."""
    return _DUPLICATE in words


def is_unavailability(words: str) -> bool:
    """Whether Slurm's words say that it can't be asked now, rather than that it refuses this job."""
    lowered = words.lower()
    return any(sign in lowered for sign in _UNAVAILABLE)


_BAD_TOKEN: Final = ("unspecified error", "zero bytes were transmitted", "authentication", "config is unable to load")


def may_mean_bad_token(words: str) -> bool:
    """Whether slurmrestd may say so of a token that Slurm doesn't take. It says the same of some other troubles."""
    lowered = words.lower()
    return any(sign in lowered for sign in _BAD_TOKEN)
