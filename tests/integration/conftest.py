"""A real Slurm, shared with the backends' tests."""

from tests.backends.conftest import slurm, slurm_lab

__all__ = ["slurm", "slurm_lab"]
