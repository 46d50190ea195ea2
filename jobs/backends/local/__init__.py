"""Runs real batch scripts as processes on this machine with Slurm's semantics.

For one machine, not a second Slurm. There is no daemon: the queue is one SQLite file, every started job has
a small supervisor process of its own, and whoever touches the queue (a submit, a poll, a cancel, or the end
of another job) moves it on.
"""

from jobs.backends.local.backend import LocalBackend

__all__ = ["LocalBackend"]
