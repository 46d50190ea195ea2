"""A real Slurm, shared with the backends' tests."""

from tests.backends.conftest import slurm_lab

__all__ = ["slurm_lab"]
