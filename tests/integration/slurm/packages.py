"""Debian's packages that the lab runs on."""

import os
import shutil
import subprocess
from typing import Final

PACKAGES: Final = (
    *("slurm-wlm", "slurmdbd", "slurmrestd", "slurm-wlm-jwt-plugin", "munge", "mariadb-server"),
    *("openssh-server", "openssh-client", "sudo"),
)
_PROGRAMS: Final = (
    *("slurmctld", "slurmd", "slurmdbd", "slurmrestd", "sbatch", "sacctmgr"),
    *("munged", "mariadbd", "mariadb", "mariadb-install-db"),
    *("sshd", "ssh", "ssh-keygen", "sudo", "visudo"),
)


def missing_programs() -> list[str]:
    """What is not installed."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in _PROGRAMS if shutil.which(name, path=path) is None]


def install_packages() -> None:
    """Install what is missing. Raises subprocess.CalledProcessError; needs root on Debian."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Installing must start no daemon of the system's own: the lab runs its own, elsewhere.
    policy = "/usr/sbin/policy-rc.d"
    is_ours = not os.path.exists(policy)
    if is_ours:
        with open(os.open(policy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755), "w") as file:
            file.write("#!/bin/sh\nexit 101\n")
    try:
        subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    finally:
        if is_ours:
            os.unlink(policy)
