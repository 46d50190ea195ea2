"""What makes this machine a submit host of the lab: an ssh server of its own, and sudo for the portal's account.

The rule for sudo is the one of docs/admin/slurm-connections.md, for the lab's users and directories.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.integration.slurm.layout import ALICE, BOB, CAROL, PORTAL_USER, Layout

SUDOERS: Final = Path("/etc/sudoers.d/portal-slurm-lab")
_RULE: Final = rf"""# Made by the portal's Slurm lab, and removed with it.
Cmnd_Alias PORTAL_SLURM_LAB = /usr/bin/sbatch, /usr/bin/scancel, \
    /usr/bin/mkdir ^-m 0700 -- /tmp/portal-slurm-[A-Za-z0-9./-]+$, \
    /usr/bin/rmdir ^-- /tmp/portal-slurm-[A-Za-z0-9./-]+$, \
    /usr/bin/python3 ^-I - /tmp/portal-slurm-[A-Za-z0-9./-]+ [a-z.]+ -?[0-9]+ [0-9]+ [0-9]+$
Defaults!PORTAL_SLURM_LAB !requiretty, env_reset, env_keep += "SLURM_CONF SLURM_TIME_FORMAT TZ LC_ALL"
{PORTAL_USER} ALL=({ALICE},{BOB},{CAROL}) NOPASSWD: PORTAL_SLURM_LAB
"""


def write_sudo_rule() -> None:
    """Let the portal's account run, as researchers, what the portal runs as them. Raises CalledProcessError."""
    new = SUDOERS.with_name(f".{SUDOERS.name}.new")  # sudo reads no file with a dot in its name
    new.touch(mode=0o440)
    new.write_text(_RULE)
    subprocess.run(["/usr/sbin/visudo", "--check", "--quiet", f"--file={new}"], check=True)
    new.replace(SUDOERS)


def write_ssh_configuration(layout: Layout) -> None:
    """Keys of the host and of the portal, and what sshd is told."""
    layout.ssh.mkdir(mode=0o755)
    for name in ("host_key", "portal_key"):
        _make_key(layout.ssh / name)
    shutil.copyfile(layout.ssh / "portal_key.pub", layout.ssh / "authorized_keys")
    write_known_hosts(layout)
    lines = [
        f"Port {layout.ports['sshd']}",
        "ListenAddress 127.0.0.1",
        f"HostKey {layout.ssh}/host_key",
        f"PidFile {layout.ssh}/sshd.pid",
        f"AuthorizedKeysFile {layout.ssh}/authorized_keys",
        f"AllowUsers {PORTAL_USER}",
        "AuthenticationMethods publickey",
        "PermitRootLogin no",
        "UsePAM no",
        # The key lies below /tmp, which others may write to.
        "StrictModes no",
        "MaxSessions 10",
        "MaxStartups 50",
        "LogLevel VERBOSE",
    ]
    (layout.ssh / "sshd_config").write_text("\n".join(lines) + "\n")
    # Where sshd locks up its part that talks to strangers. Debian makes it when it starts its own.
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)


def write_known_hosts(layout: Layout) -> None:
    """What the portal is told of the host's key."""
    key = (layout.ssh / "host_key.pub").read_text()
    (layout.ssh / "known_hosts").write_text(f"[127.0.0.1]:{layout.ports['sshd']} {key}")


def make_new_host_key(layout: Layout) -> None:
    """As a machine that was set up anew has; sshd takes it when it is started again."""
    _make_key(layout.ssh / "host_key")


def _make_key(path: Path) -> None:
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
