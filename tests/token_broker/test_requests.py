"""Who gets a token, who doesn't, and what is written down of it."""

import grp
import json
import os
import pwd
import stat
import subprocess
import sys
import time

import pytest

from tests.token_broker.running import CHECKOUT, LISTED, OTHER_LISTED, UNLISTED, BrokerFiles, RunningBroker, read_token

ASK_AS = """
import json, os, socket, sys
os.setgroups([]), os.setgid(int(sys.argv[3])), os.setuid(int(sys.argv[2]))
connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(sys.argv[1])
try:
    connection.sendall(b'{"user": "daemon"}\\n')
except BrokenPipeError:
    pass
print(connection.makefile().readline())
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")


def ask_as(running: RunningBroker, uid: int, gid: int) -> subprocess.CompletedProcess[str]:
    """Ask from a real process of another Unix user."""
    words = [sys.executable, "-c", ASK_AS, str(running.files.socket), str(uid), str(gid)]
    return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)


def test_a_listed_user_gets_a_short_lived_token_in_their_name(broker: RunningBroker) -> None:
    before = int(time.time())
    answer = broker.ask(LISTED)
    claims = read_token(answer["token"], broker.files.key.read_bytes())
    assert set(claims) == {"sun", "iat", "exp"}
    assert claims["sun"] == LISTED
    assert before <= claims["iat"] <= time.time()
    assert claims["exp"] == claims["iat"] + 300 == answer["expires_at"]
    assert answer["status"] == "granted"


def test_the_life_of_tokens_is_the_administrators(files: BrokerFiles) -> None:
    files.settings["token_life_s"] = 60
    with files.running() as running:
        claims = read_token(running.ask(LISTED)["token"], files.key.read_bytes())
    assert claims["exp"] - claims["iat"] == 60


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        (UNLISTED, "not_listed"),
        ("root", "protected"),
        ("nobody", "protected"),
        ("no-such-user-here", "no_account"),
        ("", "bad_name"),
        ("-u", "bad_name"),
        ("daemon\nroot", "bad_name"),
        ("daemon\0", "bad_name"),
        ("../daemon", "bad_name"),
        ("d" * 65, "bad_name"),
    ],
)
def test_others_are_refused_with_a_reason(broker: RunningBroker, user: str, reason: str) -> None:
    answer = broker.ask(user)
    assert (answer["status"], answer["reason"]) == ("refused", reason)
    assert "token" not in answer
    assert broker.audit_lines()[-1] | {"time": "", "peer_pid": 0} == {
        "time": "",
        "peer_pid": 0,
        "peer_uid": os.geteuid(),
        "user": user[:64],
        "outcome": "refused",
        "reason": reason,
        "expires_at": None,
    }


def test_the_list_opens_nothing_that_is_forbidden_to_all(files: BrokerFiles) -> None:
    files.users.write_text(f"root\nnobody\n{LISTED}\n{UNLISTED}\n")
    files.settings |= {"slurm_user": UNLISTED}
    with files.running() as running:
        reasons = {user: running.ask(user)["reason"] for user in ("root", "nobody", UNLISTED)}
        assert running.ask(LISTED)["status"] == "granted"
    assert reasons == {"root": "protected", "nobody": "protected", UNLISTED: "protected"}


def test_system_accounts_are_refused_but_for_the_service_users(files: BrokerFiles) -> None:
    files.settings |= {"min_uid": 1000, "service_users": [OTHER_LISTED]}
    with files.running() as running:
        assert running.ask(LISTED)["reason"] == "system_account"
        assert running.ask(OTHER_LISTED)["status"] == "granted"


def test_a_unix_group_can_be_the_list(files: BrokerFiles) -> None:
    group = grp.getgrgid(pwd.getpwnam(UNLISTED).pw_gid).gr_name
    files.settings |= {"users_file": None, "users_group": group}
    with files.running() as running:
        assert running.ask(UNLISTED)["status"] == "granted"
        assert running.ask(LISTED)["reason"] == "not_listed"


def test_a_changed_list_counts_at_once(broker: RunningBroker) -> None:
    assert broker.ask(UNLISTED)["status"] == "refused"
    broker.files.users.write_text(f"{UNLISTED}\n")
    assert broker.ask(UNLISTED)["status"] == "granted"
    assert broker.ask(LISTED)["reason"] == "not_listed"


@pytest.mark.parametrize("broken", ["too open", "gone", "nonsense"])
def test_a_list_that_went_bad_gives_nobody_a_token(broker: RunningBroker, broken: str) -> None:
    assert broker.ask(LISTED)["status"] == "granted"
    if broken == "too open":
        broker.files.users.chmod(0o666)
    elif broken == "gone":
        broker.files.users.unlink()
    else:
        broker.files.users.write_text(f"{LISTED}\n{OTHER_LISTED} ALL=(ALL)\n")
    answer = broker.ask(LISTED)
    assert (answer["status"], answer["reason"]) == ("failed", "broker")
    assert str(broker.files.directory) not in answer["message"]


def test_a_new_key_signs_from_the_next_token_on(broker: RunningBroker) -> None:
    old = broker.files.key.read_bytes()
    read_token(broker.ask(LISTED)["token"], old)
    new = os.urandom(48)
    broker.files.write_key(new)
    read_token(broker.ask(LISTED)["token"], new)


def test_a_key_that_became_readable_by_others_is_not_used(broker: RunningBroker) -> None:
    broker.files.key.chmod(0o640)
    assert broker.ask(LISTED)["status"] == "failed"
    assert "0640" in (broker.files.directory / "errors.log").read_text()


def test_without_a_line_in_the_audit_log_there_is_no_token(broker: RunningBroker) -> None:
    broker.ask(LISTED)
    broker.files.audit.unlink()
    broker.files.audit.symlink_to("/dev/null")  # not followed: somebody else may have put it there
    answer = broker.ask(LISTED)
    assert (answer["status"], answer["reason"]) == ("failed", "audit")


def test_the_audit_log_tells_who_got_what_until_when_and_holds_no_token(broker: RunningBroker) -> None:
    answer = broker.ask(LISTED)
    broker.ask(UNLISTED)
    granted, refused = broker.audit_lines()
    assert granted.pop("time") <= refused["time"]
    assert granted == {
        "peer_uid": os.geteuid(),
        "peer_pid": os.getpid(),
        "user": LISTED,
        "outcome": "granted",
        "reason": "",
        "expires_at": answer["expires_at"],
    }
    written = broker.files.audit.read_text() + (broker.files.directory / "errors.log").read_text()
    assert all(part not in written for part in answer["token"].split("."))
    assert stat.S_IMODE(broker.files.audit.stat().st_mode) == 0o640


def test_an_audit_log_that_was_moved_away_is_begun_again(broker: RunningBroker) -> None:
    broker.ask(LISTED)
    broker.files.audit.rename(broker.files.directory / "audit.1")
    broker.ask(OTHER_LISTED)
    assert [line["user"] for line in broker.audit_lines()] == [OTHER_LISTED]


@needs_root
def test_a_process_of_another_unix_user_can_not_even_connect(broker: RunningBroker) -> None:
    nobody = pwd.getpwnam("nobody")
    done = ask_as(broker, nobody.pw_uid, nobody.pw_gid)
    assert "PermissionError" in done.stderr
    assert not broker.files.audit.exists() or broker.audit_lines() == []


@needs_root
def test_who_may_connect_but_is_no_peer_is_turned_away_and_written_down(files: BrokerFiles) -> None:
    nobody = pwd.getpwnam("nobody")
    files.settings["socket_group"] = grp.getgrgid(nobody.pw_gid).gr_name
    with files.running() as running:
        assert stat.S_IMODE(files.socket.stat().st_mode) == 0o660
        answer = json.loads(ask_as(running, nobody.pw_uid, nobody.pw_gid).stdout)
        assert (answer["status"], answer["reason"]) == ("refused", "peer")
        (line,) = running.audit_lines()
        assert (line["peer_uid"], line["reason"], line["user"]) == (nobody.pw_uid, "peer", None)
        assert running.ask(LISTED)["status"] == "granted"


@needs_root
def test_a_peer_of_another_unix_user_is_served(files: BrokerFiles) -> None:
    nobody = pwd.getpwnam("nobody")
    files.settings |= {"socket_group": grp.getgrgid(nobody.pw_gid).gr_name, "peers": ["nobody"]}
    with files.running() as running:
        answer = json.loads(ask_as(running, nobody.pw_uid, nobody.pw_gid).stdout)
        assert read_token(answer["token"], files.key.read_bytes())["sun"] == LISTED
        assert running.ask(LISTED)["reason"] == "peer"  # root is none of them


def test_it_imports_nothing_but_pythons_own_modules() -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "import token_broker.__main__\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=CHECKOUT, env={}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['token_broker']"
