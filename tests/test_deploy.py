"""The files under deploy/ fit the programs that they are for, and one another."""

import configparser
import getpass
import re
from pathlib import Path

import pytest
from django.conf import settings

from jobs.backends.slurm import reader
from token_broker.configuration import Configuration, read_configuration

ROOT = Path(settings.BASE_DIR)
BROKER = ROOT / "deploy" / "slurm-token-broker"
READ = "/usr/bin/python3 -I /opt/portal/jobs/backends/slurm/reader.py"
GUIDE = (ROOT / "docs" / "admin" / "slurm.md").read_text(encoding="utf-8")


def read_unit() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(BROKER / "slurm-token-broker.service")
    return unit["Service"]


def test_the_brokers_example_is_allowed_and_its_paths_are_those_of_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    example = (BROKER / "broker.toml").read_text(encoding="utf-8")
    file.write_text(example.replace('peers = ["portal"]', f'peers = ["{getpass.getuser()}"]'))
    configuration = read_configuration(str(file))
    unit = read_unit()
    assert configuration.socket.parent == Path("/run") / unit["RuntimeDirectory"]
    assert configuration.audit_log.parent == Path("/var/log") / unit["LogsDirectory"]
    assert configuration.socket_group == unit["SupplementaryGroups"]
    assert unit["ExecStart"].split()[-1] == "/etc/slurm-token-broker/broker.toml"
    assert unit["User"] not in ("root", "slurm", "portal")


def test_every_setting_of_the_broker_is_in_its_example() -> None:
    example = (BROKER / "broker.toml").read_text(encoding="utf-8")
    named = set(re.findall(r"^#? ?(\w+) = ", example, re.MULTILINE))
    assert named == set(Configuration.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("RestrictAddressFamilies", "AF_UNIX"),
        ("CapabilityBoundingSet", ""),
        ("LimitCORE", "0"),
    ],
)
def test_the_unit_gives_the_broker_no_more_than_it_needs(name: str, value: str) -> None:
    assert read_unit()[name] == value


def test_the_guide_shows_the_sudo_rule_that_is_there() -> None:
    rule = (ROOT / "deploy" / "sudoers.d" / "training-portal").read_text(encoding="utf-8")
    lines = [line for line in rule.splitlines() if not line.startswith("#")]
    assert "\n".join(lines) in GUIDE


@pytest.mark.parametrize(
    ("command", "is_allowed"),
    [
        ("/usr/bin/mkdir -m 0700 -- /lustre/portal/jobs/3f2b-1", True),
        ("/usr/bin/mkdir -m 0700 -- /lustre/portal/jobs/3f2b-1 /home/alice/x", False),
        ("/usr/bin/mkdir -m 0700 -- /lustre/portal/jobs/../x", False),
        ("/usr/bin/mkdir -m 0777 -- /lustre/portal/jobs/3f2b-1", False),
        ("/usr/bin/rmdir -- /lustre/portal/jobs/3f2b-1", True),
        ("/usr/bin/rmdir -- /lustre/portal/jobs/3f2b-1/..", False),
        (
            "/usr/bin/python3 -I /opt/portal/jobs/backends/slurm/reader.py /lustre/portal/jobs/a-1 stdout.log -4 10 7",
            True,
        ),
        ("/usr/bin/python3 -I /opt/portal/jobs/backends/slurm/reader.py /home/alice stdout.log -4 10 7", False),
        ("/usr/bin/python3 -c 1", False),
    ],
)
def test_the_sudo_rule_matches_what_the_portal_runs_and_little_else(command: str, is_allowed: bool) -> None:
    rule = (ROOT / "deploy" / "sudoers.d" / "training-portal").read_text(encoding="utf-8")
    patterns = re.findall(r"(/usr/bin/\w+) \^(.*)\$", rule)
    assert len(patterns) == 3
    program, _, words = command.partition(" ")
    assert any(program == name and re.fullmatch(pattern, words) for name, pattern in patterns) is is_allowed
    assert Path(reader.__file__).name == "reader.py"
