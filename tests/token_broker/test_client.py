"""The portal's side: the token source that asks the broker."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.backends.base import SchedulerUnavailable
from jobs.backends.slurm.options import read_rest_options
from jobs.backends.slurm.tokens import TokenBroker, TokenRefused, read_expiry
from tests.token_broker.running import LISTED, OTHER_LISTED, UNLISTED, BrokerFiles, RunningBroker, read_token


class Clock:
    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


def test_a_token_is_kept_and_renewed_before_its_end(broker: RunningBroker) -> None:
    clock = Clock()
    source = TokenBroker(str(broker.files.socket), clock=clock)
    token = source.token_for(LISTED)
    assert read_token(token, broker.files.key.read_bytes())["sun"] == LISTED
    for clock.ahead_s in (0, 100, 260):
        assert source.token_for(LISTED) == token
    assert len(broker.audit_lines()) == 1
    clock.ahead_s = 275
    source.token_for(LISTED)
    assert len(broker.audit_lines()) == 2


def test_each_user_has_a_token_of_their_own(broker: RunningBroker) -> None:
    source = TokenBroker(str(broker.files.socket))
    tokens = {user: source.token_for(user) for user in (LISTED, OTHER_LISTED)}
    key = broker.files.key.read_bytes()
    assert {user: read_token(token, key)["sun"] for user, token in tokens.items()} == {
        LISTED: LISTED,
        OTHER_LISTED: OTHER_LISTED,
    }


def test_many_threads_get_good_tokens_and_ask_little(broker: RunningBroker) -> None:
    source = TokenBroker(str(broker.files.socket))
    source.token_for(LISTED)
    tokens: list[str] = []
    threads = [threading.Thread(target=lambda: tokens.append(source.token_for(LISTED))) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == 50
    assert len(set(tokens)) == len(broker.audit_lines()) == 1


def test_a_discarded_token_is_asked_for_anew(broker: RunningBroker) -> None:
    source = TokenBroker(str(broker.files.socket))
    old = source.token_for(LISTED)
    broker.files.write_key(b"k" * 32)
    assert source.token_for(LISTED) == old
    source.discard(LISTED)
    source.discard("nobody-of-that-name")
    assert read_token(source.token_for(LISTED), b"k" * 32)["sun"] == LISTED


def test_a_refusal_is_told_from_a_failure(broker: RunningBroker) -> None:
    source = TokenBroker(str(broker.files.socket))
    with pytest.raises(TokenRefused, match=f"'{UNLISTED}' is not on this cluster's list"):
        source.token_for(UNLISTED)
    broker.files.key.unlink()
    with pytest.raises(SchedulerUnavailable, match="its own log says why") as raised:
        source.token_for(LISTED)
    assert not isinstance(raised.value, TokenRefused)


def test_a_portal_that_may_not_ask_does_not_refuse_its_researchers(files: BrokerFiles) -> None:
    files.settings["peers"] = ["nobody"]
    with files.running(), pytest.raises(SchedulerUnavailable, match="may not ask") as raised:
        TokenBroker(str(files.socket)).token_for(LISTED)
    assert not isinstance(raised.value, TokenRefused)


def test_a_broker_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(SchedulerUnavailable, match=r"token broker at /.*/socket doesn't answer"):
        TokenBroker(str(tmp_path / "socket")).token_for(LISTED)


@contextmanager
def false_broker(path: Path, behave: Callable[[socket.socket], object]) -> Iterator[None]:
    """Something else that listens on the socket, for one connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"half",
        b'{"status": "granted"}\n',
        b'{"status": "granted", "token": "no token"}\n',
        b'{"status": "refused"}\n',
        b"\xff\n",
        b"x" * 20_000 + b"\n",
    ],
)
def test_an_answer_that_is_none_is_unavailability(files: BrokerFiles, answer: bytes) -> None:
    with (
        false_broker(files.socket, lambda connection: (connection.recv(512), connection.sendall(answer))),
        pytest.raises(SchedulerUnavailable) as raised,
    ):
        TokenBroker(str(files.socket)).token_for(LISTED)
    assert not isinstance(raised.value, TokenRefused)


def test_a_broker_that_says_nothing_is_given_up(files: BrokerFiles) -> None:
    over = threading.Event()
    began = time.monotonic()
    with false_broker(files.socket, lambda _: over.wait(20)):
        with pytest.raises(SchedulerUnavailable, match="doesn't answer"):
            TokenBroker(str(files.socket), timeout_s=0.3).token_for(LISTED)
        assert time.monotonic() - began < 5
        over.set()


def test_the_portals_request_is_what_the_brokers_guide_says(files: BrokerFiles) -> None:
    received: list[bytes] = []
    with (
        false_broker(files.socket, lambda connection: received.append(connection.recv(512))),
        pytest.raises(SchedulerUnavailable),
    ):
        TokenBroker(str(files.socket)).token_for(LISTED)
    assert json.loads(received[0]) == {"user": LISTED}


@pytest.mark.parametrize("sources", [{}, {"TOKEN_BROKER": "/run/s", "TOKEN_DIRECTORY": "/run/d"}], ids=["none", "both"])
def test_exactly_one_source_of_tokens_is_set(sources: dict[str, str]) -> None:
    options = {"JOBS_DIRECTORY": "/jobs", "URL": "http://slurm:6820", "USER": "portal"}
    with pytest.raises(ValueError, match="exactly one of them"):
        read_rest_options({**options, **sources})
    assert read_rest_options({**options, "TOKEN_BROKER": "/run/s"}).token_broker == "/run/s"


def test_the_end_of_a_token_is_read_from_it(broker: RunningBroker) -> None:
    answer = broker.ask(LISTED)
    assert read_expiry(answer["token"]) == answer["expires_at"]
