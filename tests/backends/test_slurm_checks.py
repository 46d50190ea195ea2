"""What an administrator is told of a real cluster, good and broken."""

import multiprocessing
import os
import pwd
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.backends.base import SchedulerUnavailable
from jobs.backends.checks import Check, Outcome
from jobs.backends.slurm.checks import check_clock, check_holes, check_jobs_directory, check_support
from jobs.backends.slurm.probes import Server
from jobs.backends.slurm.releases import parse_release
from tests.backends.slurm_harness import (
    SlurmCliHarness,
    SlurmHarness,
    SlurmRestHarness,
    SlurmSshHarness,
    TokenDirectoryHarness,
    write_token,
)
from tests.integration.slurm.lab import SlurmLab
from tests.integration.slurm.layout import ALICE, BOB, CAROL, DAVE, PORTAL_USER


def look(slurm: SlurmHarness, as_user: str = "", **options: Any) -> dict[str, Check]:
    """Each check by its name; where several have one name, the worst."""
    if "JOBS_DIRECTORY" not in options and not isinstance(slurm, SlurmSshHarness):
        slurm.directory.mkdir(mode=0o711, exist_ok=True)
        slurm.directory.chmod(0o711)
    backend = slurm.open_backend(SETTLE_S=30, **options)
    order = [Outcome.FAILED, Outcome.WARNING, Outcome.OK]
    found: dict[str, Check] = {}
    for check in backend.check(as_user=as_user, poll_interval_s=2.0):
        assert check.found
        assert bool(check.remedy) is (check.outcome is not Outcome.OK), "what is wrong has a remedy"
        if check.name not in found or order.index(check.outcome) < order.index(found[check.name].outcome):
            found[check.name] = check
    return found


def with_outcome(checks: dict[str, Check], outcome: Outcome) -> set[str]:
    return {name for name, check in checks.items() if check.outcome is outcome}


def test_a_good_cluster_is_called_so(slurm: SlurmHarness) -> None:
    checks = look(slurm, as_user=ALICE)
    assert [check for check in checks.values() if check.outcome is Outcome.FAILED] == []
    # Debian keeps its release's number; the tests' portal is root; slurmrestd doesn't show slurm.conf.
    by_rest = isinstance(slurm, SlurmRestHarness)
    assert with_outcome(checks, Outcome.WARNING) == {"security", "configuration" if by_rest else "key"}
    both = {"controller", "version", "clock", "partitions", "accounting", "sight", "accelerators", "jobs directory"}
    both |= {"researcher", "submission"}
    only = {"tokens", "interface"} if by_rest else {"enforcement", "partition limits", "comment", "memory", "patience"}
    assert with_outcome(checks, Outcome.OK) == both | only
    assert "22.05.8" in checks["version"].found
    assert "Debian 12" in checks["security"].found
    assert "a800" in checks["partitions"].found
    assert list(slurm.directory.iterdir()) == [], "nothing is left behind"


def test_nothing_of_a_look_at_a_cluster_stays_in_slurm(slurm: SlurmHarness) -> None:
    def list_ids() -> set[str]:
        return set(slurm.lab.run("squeue", "--noheader", "--states=all", f"--user={ALICE}", "--format=%A").split())

    before = list_ids()  # of earlier tests: ended jobs stay for a while
    look(slurm, as_user=ALICE)
    assert list_ids() <= before


def test_without_a_researcher_it_is_said_that_nothing_was_tried_as_one(slurm: SlurmHarness) -> None:
    checks = look(slurm)
    assert checks["researcher"].outcome is Outcome.WARNING
    assert "submission" not in checks


def test_a_controller_that_is_down_is_named_and_the_rest_still_looked_at(slurm: SlurmHarness) -> None:
    slurm.lab.stop("slurmctld")
    try:
        checks = look(slurm, as_user=ALICE)
    finally:
        slurm.lab.start("slurmctld")
        slurm.lab.wait_for_nodes()
    assert with_outcome(checks, Outcome.FAILED) == {"controller"}
    assert checks["jobs directory"].outcome is Outcome.OK
    assert checks["researcher"].outcome is Outcome.OK
    assert "version" not in checks


def test_accounting_that_is_down_is_named(slurm: SlurmHarness) -> None:
    slurm.lab.stop("slurmdbd")
    checks = look(slurm)
    assert "slurmdbd" in checks["accounting"].found
    assert "accounting" in with_outcome(checks, Outcome.FAILED)
    assert checks["controller"].outcome is Outcome.OK


@pytest.mark.parametrize(
    ("user", "name", "words"),
    [("no-such-user", "researcher", "no Unix account"), ("root", "researcher", "system's")],
)
def test_who_can_have_no_jobs_is_named(slurm: SlurmHarness, user: str, name: str, words: str) -> None:
    if isinstance(slurm, SlurmRestHarness) and user != "root":
        assert look(slurm, as_user=user)["tokens"].outcome is Outcome.FAILED
    check = look(slurm, as_user=user)[name]
    assert (check.outcome, words in check.found) == (Outcome.FAILED, True)


def test_a_missing_jobs_directory_comes_with_the_command_that_makes_it(slurm: SlurmHarness) -> None:
    missing = f"{slurm.directory}/none"
    check = look(slurm, JOBS_DIRECTORY=missing)["jobs directory"]
    assert check.outcome is Outcome.FAILED
    mode = "1733" if isinstance(slurm, SlurmSshHarness) else "0711"  # there the portal is not root
    assert f"install -d -m {mode}" in check.remedy
    assert missing in check.remedy


def give_up_rights_and_look(slurm: SlurmHarness, user: str, answer: Any) -> None:
    account = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    answer.put(list(slurm.open_backend(SETTLE_S=30).check(as_user="", poll_interval_s=2.0)))


def look_as_unix_user(slurm: SlurmHarness, user: str) -> dict[str, Check]:
    """As a portal that runs as this Unix user: in a process of its own, which can't take its rights back."""
    slurm.directory.mkdir(mode=0o700)
    slurm.directory.chmod(0o1733)
    shutil.chown(slurm.directory, user)
    processes = multiprocessing.get_context("fork")
    answer = processes.Queue()
    process = processes.Process(target=give_up_rights_and_look, args=(slurm, user, answer))
    process.start()
    try:
        return {check.name: check for check in answer.get(timeout=60)}
    finally:
        process.join(10)
        process.kill()


def test_the_portals_own_unix_user_needs_no_further_right(slurm: SlurmHarness) -> None:
    by_ssh = isinstance(slurm, SlurmSshHarness)  # it is that user there as it is
    checks = look(slurm) if by_ssh else look_as_unix_user(slurm, PORTAL_USER)
    assert [check for check in checks.values() if check.outcome is Outcome.FAILED] == []
    assert checks["jobs directory"].outcome is Outcome.OK
    assert (checks["sight"].outcome, PORTAL_USER in checks["sight"].found) == (Outcome.OK, True)
    if not isinstance(slurm, SlurmRestHarness | SlurmSshHarness):
        assert checks["key"].outcome is Outcome.OK


# The command line alone


@pytest.fixture
def cli(slurm_lab: SlurmLab) -> Iterator[SlurmHarness]:
    with SlurmCliHarness.on(slurm_lab) as harness:
        yield harness


@pytest.mark.slurm
def test_who_has_no_account_in_slurm_is_told_in_slurms_words(cli: SlurmHarness) -> None:
    check = look(cli, as_user=CAROL)["submission"]
    assert check.outcome is Outcome.FAILED
    assert "Invalid account" in check.found
    assert CAROL in check.remedy


@pytest.mark.slurm
def test_a_portal_that_can_not_become_the_researcher_is_told_so(cli: SlurmHarness) -> None:
    refusing = ["/bin/sh", "-c", "echo sudo: a password is required >&2; exit 1", "{user}"]
    check = look(cli, as_user=ALICE, RUN_AS=refusing)["submission"]
    assert (check.outcome, "a password is required" in check.found) == (Outcome.FAILED, True)
    assert "RUN_AS" in check.remedy


@pytest.mark.slurm
def test_a_wrong_configuration_file_is_named(cli: SlurmHarness) -> None:
    checks = look(cli, SLURM_CONF="/nonexistent/slurm.conf")
    assert checks["controller"].outcome is Outcome.FAILED
    assert "SLURM_CONF" in checks["controller"].remedy


@pytest.mark.slurm
def test_lines_that_were_taken_out_of_slurm_conf_are_missed(cli: SlurmHarness) -> None:
    file = cli.lab.layout.slurm_conf
    text = file.read_text()
    changed = text.replace("EnforcePartLimits=ALL", "EnforcePartLimits=NO").replace("MinJobAge=300", "MinJobAge=5")
    file.write_text(changed)
    cli.lab.run("scontrol", "reconfigure")
    try:
        checks = look(cli)
    finally:
        file.write_text(text)
        cli.lab.run("scontrol", "reconfigure")
        cli.lab.wait_for_nodes()
    assert checks["partition limits"].outcome is Outcome.FAILED
    assert checks["memory"].outcome is Outcome.WARNING


@pytest.mark.slurm
def test_a_portal_from_which_others_jobs_are_hidden_is_told_what_it_lacks(cli: SlurmHarness) -> None:
    file = cli.lab.layout.slurm_conf
    text = file.read_text()
    file.write_text(f"{text}PrivateData=jobs\n")
    cli.lab.run("scontrol", "reconfigure")
    try:
        check = look_as_unix_user(cli, BOB)["sight"]
    finally:
        file.write_text(text)
        cli.lab.run("scontrol", "reconfigure")
        cli.lab.wait_for_nodes()
    assert (check.outcome, "PrivateData=jobs" in check.found) == (Outcome.FAILED, True)
    assert f"sacctmgr modify user {BOB} set AdminLevel=Operator" in check.remedy


@pytest.mark.slurm
def test_a_portal_whose_user_can_read_the_key_is_told_to_exchange_it(cli: SlurmHarness) -> None:
    key = cli.lab.layout.jwt_key
    key.chmod(0o644)
    try:
        check = look_as_unix_user(cli, PORTAL_USER)["key"]
    finally:
        key.chmod(0o600)
    assert (check.outcome, str(key) in check.found) == (Outcome.FAILED, True)


# Slurmrestd alone


@pytest.fixture
def rest(slurm_lab: SlurmLab) -> Iterator[SlurmRestHarness]:
    with SlurmRestHarness.on(slurm_lab) as harness:
        yield harness


@pytest.fixture
def files(slurm_lab: SlurmLab) -> Iterator[TokenDirectoryHarness]:
    with TokenDirectoryHarness.on(slurm_lab) as harness:
        yield harness


@pytest.mark.slurm
def test_a_researcher_whom_the_broker_refuses_is_named(rest: SlurmRestHarness) -> None:
    checks = look(rest, as_user=DAVE)
    assert with_outcome(checks, Outcome.FAILED) == {"tokens", "submission"}
    assert DAVE in checks["tokens"].found


@pytest.mark.slurm
def test_a_broker_that_is_away_is_named(rest: SlurmRestHarness) -> None:
    rest.lab.stop("token_broker")
    checks = look(rest)
    assert "doesn't answer" in checks["tokens"].found
    assert with_outcome(checks, Outcome.FAILED) == {"tokens", "controller"}


@pytest.mark.slurm
def test_a_slurmrestd_that_is_away_is_named(rest: SlurmRestHarness) -> None:
    rest.lab.stop("slurmrestd")
    checks = look(rest)
    assert with_outcome(checks, Outcome.FAILED) == {"controller"}
    assert checks["tokens"].outcome is Outcome.OK


@pytest.mark.slurm
def test_a_token_that_lives_for_days_is_warned_of(files: TokenDirectoryHarness) -> None:
    write_token(files.lab, PORTAL_USER, files.lab.mint_token(PORTAL_USER, lifespan_s=7 * 86400))
    check = look(files)["tokens"]
    assert (check.outcome, "168.0 h" in check.found) == (Outcome.WARNING, True)


@pytest.mark.slurm
def test_a_token_in_the_wrong_name_is_named(files: TokenDirectoryHarness) -> None:
    write_token(files.lab, ALICE, files.lab.mint_token(BOB))
    checks = look(files, as_user=ALICE)
    assert with_outcome(checks, Outcome.FAILED) == {"tokens", "submission"}
    assert f"is one for {BOB}" in checks["tokens"].found


@pytest.mark.slurm
def test_a_token_that_slurm_does_not_take_is_no_use(files: TokenDirectoryHarness) -> None:
    token = files.lab.mint_token(PORTAL_USER)
    head, claims, signature = token.split(".")
    write_token(files.lab, PORTAL_USER, f"{head}.{claims}.{signature[::-1]}")
    checks = look(files)
    assert with_outcome(checks, Outcome.FAILED) == {"controller"}
    assert "the broker's key is not Slurm's" in checks["controller"].remedy
    with pytest.raises(SchedulerUnavailable):
        files.backend.ping()


# Versions and clocks, without a Slurm


@pytest.mark.parametrize(
    ("release", "support", "holes"),
    [
        ("20.11.7", Outcome.FAILED, Outcome.FAILED),
        ("21.08.5", Outcome.FAILED, Outcome.WARNING),
        ("22.05.8", Outcome.OK, Outcome.WARNING),
        ("22.05.11", Outcome.OK, Outcome.FAILED),
        ("24.11.5", Outcome.OK, Outcome.WARNING),
        ("25.05.9", Outcome.OK, Outcome.OK),
    ],
)
def test_a_release_is_judged_by_age_and_by_holes(release: str, support: Outcome, holes: Outcome) -> None:
    numbers = parse_release(release)
    assert numbers is not None
    server = Server("slurmctld", release, None)
    assert (check_support(server, numbers).outcome, check_holes(server, numbers).outcome) == (support, holes)


@pytest.mark.parametrize(
    ("ahead_s", "outcome"),
    [(0, Outcome.OK), (-20, Outcome.WARNING), (20, Outcome.WARNING), (-90, Outcome.FAILED), (90, Outcome.FAILED)],
)
def test_clocks_that_differ_are_told_of(ahead_s: int, outcome: Outcome) -> None:
    assert check_clock(Server("slurmctld", "22.05.8", time.time() + ahead_s)).outcome is outcome
    assert check_clock(Server("slurmctld", "22.05.8", None)).outcome is Outcome.WARNING


# The jobs' directory, on any machine


def judge(path: Path) -> Check:
    (check,) = check_jobs_directory(path)
    return check


GOOD_MODE = 0o711 if os.geteuid() == 0 else 0o1733


def test_the_mode_that_the_guide_says_is_good(tmp_path: Path) -> None:
    tmp_path.chmod(GOOD_MODE)
    assert judge(tmp_path).outcome is Outcome.OK
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "outcome", "words"),
    [
        (0o777, Outcome.FAILED, "put away"),
        (0o773, Outcome.FAILED, "put away"),
        (0o770, Outcome.FAILED, "put away"),
        (0o1777, Outcome.WARNING, "list"),
        (0o700, Outcome.FAILED, "researchers"),
    ],
)
def test_a_mode_that_is_too_open_or_too_narrow_is_named(
    tmp_path: Path, mode: int, outcome: Outcome, words: str
) -> None:
    tmp_path.chmod(mode)
    check = judge(tmp_path)
    assert (check.outcome, words in check.found) == (outcome, True)
    assert f"chmod {GOOD_MODE:04o} {tmp_path}" in check.remedy


def test_a_file_or_a_link_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        assert "is no directory" in judge(tmp_path / name).found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_named(tmp_path: Path) -> None:
    os.chown(tmp_path, 1, 1)
    assert "belongs to user 1" in judge(tmp_path).found
