"""What commands show and exit with, before a portal that answers as the test says."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings

from jobs.states import TERMINAL
from portalctl.exits import Exit, exit_of_state
from portalctl.output import duration, hours, plain, plain_log
from portalctl.profiles import Profile, Profiles, load_profiles, profiles_file, save_profiles
from tests.portalctl.conftest import (
    JOB_ID,
    URL,
    CommandLine,
    FakePortal,
    Wrote,
    ended_job,
    page,
    piece,
    problem,
    summary,
    whole_job,
)

JOB = "project: nlp\ncluster: demo\npartition: a800\nname: train\ndevices_per_node: 8\nentry: {command: [train.py]}\n"
ME = {"username": "lin", "name": "Lin", "is_staff": False, "projects": []}


# Exit codes


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(400, "invalid-request"), Exit.USAGE),
        (problem(401, "unauthenticated"), Exit.NOT_SIGNED_IN),
        (problem(403, "forbidden"), Exit.REFUSED),
        (problem(404, "not-found"), Exit.NOT_FOUND),
        (problem(409, "policy-limit"), Exit.REFUSED),
        (problem(422, "idempotency-conflict"), Exit.REFUSED),
        (problem(429, "too-many-requests", headers={"Retry-After": "600"}), Exit.UNAVAILABLE),
        (problem(500, "internal-error"), Exit.ERROR),
        (problem(503, "scheduler-unavailable", headers={"Retry-After": "600"}), Exit.UNAVAILABLE),
        (httpx.Response(200, text="<html>"), Exit.ERROR),
        (httpx.UnsupportedProtocol("no"), Exit.UNAVAILABLE),
    ],
)
def test_the_exit_code_says_what_went_wrong_and_nobody_sees_a_traceback(
    cli: CommandLine, fake: FakePortal, answer: Any, code: Exit
) -> None:
    fake.say(answer)
    result = cli("show", JOB_ID)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr
    assert "Traceback" not in result.output


def test_who_is_not_signed_in_is_told_how_to(monkeypatch: pytest.MonkeyPatch, fake: FakePortal) -> None:
    cli = CommandLine(httpx.MockTransport(fake.handle))
    result = cli("list")
    assert (result.exit_code, "portalctl login" in result.stderr) == (Exit.NOT_SIGNED_IN, True)
    monkeypatch.setenv("PORTAL_URL", "portal.example")
    assert cli("list").exit_code == Exit.USAGE


def test_errors_are_json_where_json_was_asked_for(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(problem(409, "policy-limit", "Too many jobs."))
    error = json.loads(cli("show", JOB_ID, "--json").stderr)["error"]
    assert (error["status"], error["detail"]) == (409, "Too many jobs.")


def test_a_word_that_is_no_id_is_refused_before_anything_is_sent(cli: CommandLine, fake: FakePortal) -> None:
    assert cli("show", "../me").exit_code == Exit.USAGE
    assert fake.requests == []


def test_every_end_of_a_job_has_an_exit_code_of_its_own_and_only_one_is_zero() -> None:
    codes = {state.value: exit_of_state(state.value) for state in TERMINAL}
    assert len(set(codes.values())) == len(codes)
    assert [state for state, code in codes.items() if code == 0] == ["COMPLETED"]
    assert exit_of_state("SOMETHING_NEW") == Exit.JOB_FAILED


# Watching


@pytest.mark.parametrize(
    ("state", "code"), [("COMPLETED", 0), ("FAILED", 10), ("TIMEOUT", 11), ("CANCELLED", 15), ("REJECTED", 16)]
)
def test_watch_exits_as_the_job_ended(cli: CommandLine, fake: FakePortal, state: str, code: int) -> None:
    fake.say(whole_job(state="PENDING"), whole_job(state="PENDING"), ended_job(state))
    result = cli("watch", JOB_ID)
    assert result.exit_code == code
    words = [line[10:] for line in result.stdout.splitlines()]
    assert words == ["PENDING", state, f"{state}, exit code 0"]


def test_watch_shows_steps_and_loss_and_what_was_charged(cli: CommandLine, fake: FakePortal) -> None:
    started = "2026-06-01T08:30:00Z"
    points = {"points": [{"step": 5, "loss": 4.25}], "next_offset": 30, "is_end": True}
    fake.say(whole_job(started_at=started), points)
    fake.say(ended_job(started_at=started, charged_hours=0.25), {**points, "points": []})
    result = cli("watch", JOB_ID)
    assert "step 5  loss 4.25" in result.stdout
    assert "charged 0.2500 h" in result.stdout
    assert fake.requests[-1].url.params["offset"] == "30"


def test_watch_waits_for_a_portal_that_is_away_and_says_so(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(whole_job(), *[httpx.ConnectError("refused")] * 8, ended_job())
    result = cli("watch", JOB_ID)
    assert result.exit_code == 0
    assert "does not answer after 8 tries: refused; trying again in" in result.stderr


def test_watch_gives_up_when_its_time_is_over(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(whole_job())
    assert cli("watch", JOB_ID, "--for", "0").exit_code == Exit.STILL_RUNNING


def test_watch_ends_with_its_own_code_when_it_is_interrupted(cli: CommandLine, fake: FakePortal) -> None:
    def interrupt(_request: httpx.Request) -> Any:
        raise KeyboardInterrupt

    fake.say(whole_job(), interrupt)
    assert cli("watch", JOB_ID).exit_code == Exit.INTERRUPTED


def test_watching_for_a_program_is_a_line_of_json_for_each_change(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(whole_job(state="PENDING"), whole_job(state="PENDING"), ended_job("FAILED"))
    result = cli("watch", JOB_ID, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["state"] for line in lines] == ["PENDING", "FAILED", "FAILED"]


# Logs


def test_logs_are_printed_as_they_are_into_a_pipe(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(piece("one\x1b[31m\n", is_end=False), piece("two", 9))
    assert cli("logs", JOB_ID).stdout == "one\x1b[31m\ntwo"


def test_logs_follow_until_the_job_has_ended(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(whole_job(), piece("one\n"), ended_job(), piece("two\n", 4))
    result = cli("logs", "-f", JOB_ID)
    assert (result.exit_code, result.stdout) == (0, "one\ntwo\n")


def test_the_last_lines_of_standard_error(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(piece("a\nb\nc\n"), piece("c\n", 4))
    assert cli("logs", JOB_ID, "-n", "1", "--stderr").stdout == "c\n"
    assert [request.url.params["file"] for request in fake.requests] == ["stderr", "stderr"]


def test_a_log_cannot_steer_a_terminal() -> None:
    text = "50 %\r100 %\n\x1b[32mok\x1b[0m\t\x1b]0;title\x07\x1b[2J\x9b1A"
    assert plain_log(text) == "50 %\r100 %\n\x1b[32mok\x1b[0m\t\ufffd]0;title\ufffd\ufffd[2J\ufffd1A"
    assert plain("a\x1b[2J\nb\u202ec") == "a [2J b c"


# Lists


def test_a_list_that_is_cut_says_so(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(page(summary(), summary(), cursor="c"))
    result = cli("list", "--limit", "1")
    assert "There are more than these 1" in result.stderr
    fake.say(page(summary(), summary(), cursor="c"))
    data = cli.read("list", "--limit", "1")
    assert (len(data["results"]), data["has_more"]) == (1, True)
    fake.say(page(summary(), cursor="c"), page(summary()))
    assert len(cli.read("list", "--all")["results"]) == 2


def test_nothing_to_list_is_said_and_no_error(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(page(), page())
    assert (cli("list").exit_code, "No such jobs" in cli("list").stderr) == (0, True)


def test_filters_of_a_list_are_those_of_the_api(cli: CommandLine, fake: FakePortal) -> None:
    fake.say(page())
    cli("list", "-s", "running", "-s", "PENDING", "-u", "wang", "-n", "llama", "--since", "2026-06-01", "--finished")
    params = fake.requests[0].url.params
    assert params.get_list("state") == ["RUNNING", "PENDING"]
    assert (params["user"], params["q"], params["unfinished"]) == ("wang", "llama", "false")
    assert params["submitted_after"].startswith("2026-06-01T00:00:00")


def test_a_table_in_a_pipe_has_no_colours_and_is_not_cut(cli: CommandLine, fake: FakePortal) -> None:
    name = "x" * 128
    fake.say(page(summary(name=name, state="FAILED")))
    output = cli("list").stdout
    assert name in output
    assert "\x1b" not in output


def on_a_terminal(arguments: list[str], body: Path) -> str:
    """What a command prints on a terminal of 80 columns, in a process of its own before a pseudo-terminal; then once
    more with NO_COLOR, after a line of dashes.
    """
    script = body.with_suffix(".py")
    script.write_text(
        "import httpx, os\n"
        "from portalctl.app import app\n"
        "from portalctl.session import Session\n"
        f"body = open({str(body)!r}).read()\n"
        "reply = lambda request: httpx.Response(200, headers={'Content-Type': 'application/json'}, text=body)\n"
        "call = lambda: app(%r, obj=Session(transport=httpx.MockTransport(reply)), standalone_mode=False)\n"
        "call()\nos.environ['NO_COLOR'] = '1'\nprint('-' * 80)\ncall()\n" % arguments
    )
    reader, writer = os.openpty()
    environment = {"PATH": os.defpath, "TERM": "xterm-256color", "COLUMNS": "80", "HOME": "/nonexistent"}
    with subprocess.Popen(
        [sys.executable, str(script)],
        cwd=body.parent,
        env={**environment, "PORTAL_URL": URL, "PORTAL_TOKEN": "t", "PYTHONPATH": str(settings.BASE_DIR)},
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
    ) as process:
        os.close(writer)
        output = b""
        while True:
            try:
                output += os.read(reader, 65536)
            except OSError:
                break  # how Linux says that the other end is closed
        assert process.wait() == 0, output
    os.close(reader)
    return output.decode().replace("\r\n", "\n")


def test_a_terminal_of_80_columns_gets_colours_whole_ids_and_no_broken_lines(tmp_path: Path) -> None:
    body = tmp_path / "answer.json"
    rows = [summary(name="a-name-that-is-far-too-long-for-a-terminal-of-80", state="OUT_OF_MEMORY")] * 2
    body.write_text(json.dumps(page(*rows)))
    coloured, bare = on_a_terminal(["list"], body).split("-" * 80)
    assert "\x1b[31m" in coloured
    assert "\x1b[31m" not in bare
    lines = re.sub(r"\x1b\[[0-9;]*m", "", bare).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert sum(line.startswith(JOB_ID) and "OUT_OF_MEMORY  a-name-" in line for line in lines) == 2


# Submitting


def test_a_file_that_is_not_valid_is_refused_before_anything_is_sent(
    cli: CommandLine, fake: FakePortal, job_file: Wrote
) -> None:
    result = cli("submit", job_file(JOB.replace("devices_per_node: 8", "devices: 8")))
    assert result.exit_code == Exit.USAGE
    assert "job.yaml:5: devices: there is no such field" in result.stderr
    assert "devices_per_node is missing" in result.stderr
    assert fake.requests == []


def test_submit_prints_the_id_alone_so_that_a_script_can_take_it(
    cli: CommandLine, fake: FakePortal, job_file: Wrote
) -> None:
    fake.say(httpx.Response(201, json=whole_job()))
    result = cli("submit", job_file(JOB), "-P", "other/h100", "-N", "4", "--key", "k")
    assert result.stdout == f"{JOB_ID}\n"
    assert f"{URL}/jobs/{JOB_ID}" in result.stderr
    sent = json.loads(fake.requests[0].content)
    assert (sent["cluster"], sent["partition"], sent["nodes"]) == ("other", "h100", 4)
    assert fake.keys() == ["k"]


def test_when_it_is_not_known_what_became_of_a_submission_the_key_to_ask_with_is_told(
    cli: CommandLine, fake: FakePortal, job_file: Wrote
) -> None:
    fake.say(*[httpx.ReadTimeout("slow")] * 5)
    result = cli("submit", job_file(JOB))
    assert result.exit_code == Exit.UNAVAILABLE
    assert f"--key {fake.keys()[0]}: that makes no second one" in result.stderr


def test_submit_and_watch_exits_as_the_job_ended(cli: CommandLine, fake: FakePortal, job_file: Wrote) -> None:
    fake.say(httpx.Response(201, json=whole_job()), ended_job("FAILED"))
    assert cli("submit", job_file(JOB), "--watch").exit_code == Exit.JOB_FAILED


# Profiles


def signed_in(**profiles: Profile) -> None:
    save_profiles(Profiles(current="default", by_name=profiles))


def test_a_token_is_not_shown_to_a_portal_that_it_is_not_of(fake: FakePortal, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_in(default=Profile(url="https://a.example", token="tp_a"), b=Profile(url=URL, token="tp_b"))
    cli = CommandLine(httpx.MockTransport(fake.handle))
    monkeypatch.setenv("PORTAL_URL", "https://evil.example")
    assert cli("whoami").exit_code == Exit.NOT_SIGNED_IN
    assert fake.requests == []
    monkeypatch.setenv("PORTAL_URL", URL)
    fake.say(ME)
    assert cli("whoami").exit_code == 0
    assert fake.requests[0].headers["Authorization"] == "Bearer tp_b"


def test_who_has_signed_out_does_not_go_on_as_somebody_else(fake: FakePortal) -> None:
    signed_in(default=Profile(url=URL, username="lin"), admin=Profile(url=URL, username="admin", token="tp_admin"))
    cli = CommandLine(httpx.MockTransport(fake.handle))
    assert cli("whoami").exit_code == Exit.NOT_SIGNED_IN
    assert cli("--url", URL, "whoami").exit_code == Exit.NOT_SIGNED_IN
    assert fake.requests == []


def test_a_cluster_that_is_away_does_not_end_the_watching(cli: CommandLine, fake: FakePortal) -> None:
    away = problem(503, "scheduler-unavailable", headers={"Retry-After": "600"})
    started = "2026-06-01T08:30:00Z"
    fake.say(whole_job(started_at=started), away, ended_job(started_at=started), away)
    assert cli("watch", JOB_ID).exit_code == 0


def test_profiles_keep_sign_ins_apart_and_the_environment_wins(
    fake: FakePortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in(default=Profile(url=URL, token="tp_a"), other=Profile(url=URL, token="tp_b"))
    cli = CommandLine(httpx.MockTransport(fake.handle))
    fake.say(ME, ME, ME)
    cli("whoami")
    cli("--profile", "other", "whoami")
    monkeypatch.setenv("PORTAL_TOKEN", "tp_c")
    cli("whoami")
    sent = [request.headers["Authorization"] for request in fake.requests]
    assert sent == ["Bearer tp_a", "Bearer tp_b", "Bearer tp_c"]


def test_a_file_of_tokens_that_others_can_read_is_refused(fake: FakePortal) -> None:
    signed_in(default=Profile(url=URL, token="tp_a"))
    profiles_file().chmod(0o644)
    result = CommandLine(httpx.MockTransport(fake.handle))("whoami")
    assert (result.exit_code, "chmod 600" in result.stderr) == (Exit.ERROR, True)
    assert "tp_a" not in result.output


@pytest.mark.parametrize("text", ["", "{", "[]", '{"current": "a"}', '{"current": "a", "profiles": {"a": 1}}'])
def test_a_broken_file_of_profiles_is_told_for_what_it_is(fake: FakePortal, text: str) -> None:
    signed_in()
    profiles_file().write_text(text)
    result = CommandLine(httpx.MockTransport(fake.handle))("whoami")
    assert (result.exit_code, "is not a file of profiles" in result.stderr) == (Exit.ERROR, True)


def test_profiles_are_replaced_in_one_step_and_stay_private() -> None:
    signed_in(default=Profile(url=URL, token="tp_a"))
    signed_in(default=Profile(url=URL, token="tp_b"))
    assert load_profiles().by_name["default"].token == "tp_b"
    assert stat.S_IMODE(profiles_file().stat().st_mode) == 0o600
    assert [one.name for one in profiles_file().parent.iterdir()] == ["profiles.json"]


def test_a_token_does_not_show_in_a_representation() -> None:
    assert "tp_a" not in repr(Profile(url=URL, token="tp_a"))


# Words


def test_durations_and_hours_are_written_for_people() -> None:
    assert [duration(s) for s in (None, 5, 90, 3600, 90_000)] == ["–", "5 s", "2 min", "1 h 00 min", "1 d 1 h"]
    assert [hours(h) for h in (None, 0, 0.0006, 12.5, 1234.5)] == ["–", "0.00", "0.0006", "12.50", "1,234.5"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert "PORTALCTL_COMPLETE" in cli("--show-completion", shell).stdout.upper()
