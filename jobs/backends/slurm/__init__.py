"""Slurm: by its commands, and by slurmrestd."""

from jobs.backends.slurm.cli import SlurmCliBackend
from jobs.backends.slurm.rest import SlurmRestBackend

__all__ = ["SlurmCliBackend", "SlurmRestBackend"]
