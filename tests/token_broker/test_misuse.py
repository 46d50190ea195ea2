"""Bad requests, slow ones, many at once, and a broker that starts, is killed, and stops."""

import json
import os
import signal
import stat
import threading
import time
from typing import Any

import pytest

from tests.backends.harness import wait_until
from tests.token_broker.running import LISTED, BrokerFiles, RunningBroker, read_answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\n",
        b"daemon\n",
        b'{"user": "daemon"}',
        b'{"user": 1}\n',
        b'{"user": null}\n',
        b'{"user": ["daemon"]}\n',
        b'{"user": "daemon", "lifespan": 99999}\n',
        b'{"verb": "sign", "user": "daemon"}\n',
        b'["daemon"]\n',
        b'"daemon"\n',
        b"\xff\xfe\x00\n",
        b"[" * 400 + b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_so_and_hurts_nobody(broker: RunningBroker, request_bytes: bytes) -> None:
    answer = broker.send(request_bytes)
    assert (answer["status"], answer["reason"]) == ("failed", "bad_request")
    assert broker.audit_lines()[-1]["reason"] == "bad_request"
    assert broker.ask(LISTED)["status"] == "granted"


def test_a_request_of_any_size_is_dropped_after_its_first_bytes(broker: RunningBroker) -> None:
    with broker.connect() as connection:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"x" * 2**24)
        assert "more than 512 bytes" in read_answer(connection)["message"]
    assert broker.ask(LISTED)["status"] == "granted"


def test_nobody_is_kept_waiting_by_a_client_that_sends_a_byte_now_and_then(files: BrokerFiles) -> None:
    files.settings |= {"request_timeout_s": 0.5, "max_connections": 2}
    with files.running() as running:
        slow = [running.connect() for _ in range(4)]
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                for connection in slow:
                    try:
                        connection.send(b" ")
                    except OSError:
                        continue

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            began = time.monotonic()
            assert running.ask(LISTED)["status"] == "granted"
            assert time.monotonic() - began < 5
            assert [read_answer(connection)["reason"] for connection in slow] == ["too_slow"] * 4
        finally:
            stop.set()
            thread.join()
            for connection in slow:
                connection.close()


def test_a_client_that_never_reads_its_answer_is_dropped(files: BrokerFiles) -> None:
    files.settings |= {"request_timeout_s": 0.5, "max_connections": 1}
    with files.running() as running, running.connect() as silent:
        silent.sendall(json.dumps({"user": LISTED}).encode() + b"\n")
        assert running.ask(LISTED)["status"] == "granted"


def test_many_at_once_are_all_served(broker: RunningBroker) -> None:
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(broker.ask(LISTED))) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer["status"] for answer in answers] == ["granted"] * 100
    assert len(broker.audit_lines()) == 100


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_cleanly(files: BrokerFiles, number: signal.Signals) -> None:
    with files.running() as running:
        running.process.send_signal(number)
        assert running.process.wait(20) == 0
        assert not files.socket.exists()
        assert "stopped" in (files.directory / "errors.log").read_text()


def test_a_request_that_has_begun_is_answered_before_the_end(broker: RunningBroker) -> None:
    with broker.connect() as connection:
        connection.sendall(b'{"user": ')
        time.sleep(0.2)  # let it begin
        broker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not broker.files.socket.exists(), "the socket to go")
        connection.sendall(json.dumps(LISTED).encode() + b"}\n")
        assert read_answer(connection)["status"] == "granted"
    assert broker.process.wait(20) == 0


def test_a_socket_that_a_killed_broker_has_left_is_replaced(files: BrokerFiles) -> None:
    with files.running() as running:
        running.process.kill()
        running.process.wait(10)
        assert files.socket.exists()
    with files.running() as running:
        assert running.ask(LISTED)["status"] == "granted"


def test_a_second_broker_does_not_take_the_place_of_a_running_one(broker: RunningBroker) -> None:
    done = broker.files.try_out()
    assert done.returncode == 1
    assert "another broker listens" in done.stderr
    assert broker.ask(LISTED)["status"] == "granted"


def test_what_is_no_socket_is_not_put_away(files: BrokerFiles) -> None:
    files.socket.write_text("somebody's")
    done = files.try_out()
    assert (done.returncode, files.socket.read_text()) == (1, "somebody's")
    assert "is no socket" in done.stderr


def test_only_its_own_user_may_connect_unless_a_group_is_set(broker: RunningBroker) -> None:
    assert stat.S_IMODE(broker.files.socket.stat().st_mode) == 0o600
    assert stat.S_ISSOCK(broker.files.socket.stat().st_mode)


def test_a_directory_that_others_may_write_to_is_no_place_for_the_socket(files: BrokerFiles) -> None:
    files.directory.chmod(0o1777)
    done = files.try_out()
    assert done.returncode == 1
    assert "nobody else may write" in done.stderr


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o700])
def test_a_key_that_others_could_read_is_refused_at_the_start(files: BrokerFiles, mode: int) -> None:
    files.key.chmod(mode)
    done = files.try_out("--check")
    assert done.returncode == 1
    assert f"{files.key} has mode {mode:04o}" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_unix_user_is_refused(files: BrokerFiles) -> None:
    os.chown(files.key, 1, 1)
    assert "belongs to user 1" in files.try_out("--check").stderr


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"typo": 1}, "typo: no such setting"),
        ({"socket": "relative"}, "socket: 'relative'"),
        ({"socket": "/run/../etc/s"}, "socket:"),
        ({"socket": None}, "socket: None"),
        ({"socket_group": "no-such-group"}, "no-such-group"),
        ({"peers": []}, "peers: []"),
        ({"peers": "root"}, "peers: 'root'"),
        ({"peers": ["no-such-user"]}, "no-such-user"),
        ({"peers": [-1]}, "peers: -1"),
        ({"peers": [True]}, "peers: True"),
        ({"key_file": None}, "key_file: None"),
        ({"key_file": "/nonexistent/key"}, "/nonexistent/key can't be read"),
        ({"audit_log": "/nonexistent/log"}, "/nonexistent/log can't be written"),
        ({"users_file": None}, "users_file, users_group"),
        ({"users_file": "/nonexistent/users"}, "/nonexistent/users can't be read"),
        ({"users_group": "no-such-group"}, "no-such-group"),
        ({"service_users": ["a b"]}, "service_users"),
        ({"slurm_user": ""}, "slurm_user: ''"),
        ({"min_uid": 0}, "min_uid: 0"),
        ({"token_life_s": 3601}, "from 10 to 3600"),
        ({"token_life_s": 9}, "token_life_s: 9"),
        ({"token_life_s": 60.5}, "token_life_s: 60.5"),
        ({"request_timeout_s": 0}, "request_timeout_s: 0"),
        ({"max_connections": 0}, "max_connections: 0"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(files: BrokerFiles, changes: dict[str, Any], words: str) -> None:
    files.settings |= changes
    done = files.try_out()
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 9000])
def test_a_key_that_can_be_guessed_or_is_none_is_refused(files: BrokerFiles, content: bytes) -> None:
    files.write_key(content)
    assert "bytes" in files.try_out("--check").stderr


def test_a_good_configuration_is_called_so(files: BrokerFiles) -> None:
    done = files.try_out("--check")
    assert (done.returncode, done.stdout) == (0, "all is well\n")
    assert not files.socket.exists()
    assert not files.audit.exists(), "it would belong to whoever tried, not to the broker"
