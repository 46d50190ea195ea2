"""A real broker as a process of its own."""

import base64
import hashlib
import hmac
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.backends.harness import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
LISTED, OTHER_LISTED, UNLISTED = "daemon", "mail", "bin"
"""Accounts that every Unix has."""


def to_toml(values: dict[str, Any]) -> str:
    """Texts, numbers and lists of them are written alike in TOML and JSON."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None)


@dataclass
class BrokerFiles:
    """Everything a broker needs, in one directory."""

    directory: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(mode=0o755, exist_ok=True)
        self.write_key(secrets.token_bytes(32))
        self.users.write_text(f"# researchers\n{LISTED}\n{OTHER_LISTED}  # since May\n\n")
        self.users.chmod(0o644)
        self.settings = {
            "socket": str(self.socket),
            "peers": [os.geteuid()],
            "key_file": str(self.key),
            "audit_log": str(self.audit),
            "users_file": str(self.users),
            "min_uid": 1,
            "request_timeout_s": 5,
            **self.settings,
        }

    def write_key(self, content: bytes) -> None:
        new = self.directory / "new.key"
        new.touch(mode=0o600)
        new.write_bytes(content)
        new.replace(self.key)

    @property
    def socket(self) -> Path:
        return self.directory / "s"

    @property
    def key(self) -> Path:
        return self.directory / "jwt_hs256.key"

    @property
    def audit(self) -> Path:
        return self.directory / "audit.jsonl"

    @property
    def users(self) -> Path:
        return self.directory / "users"

    def command(self, *options: str) -> list[str]:
        file = self.directory / "broker.toml"
        file.write_text(to_toml(self.settings))
        return [sys.executable, "-m", "token_broker", *options, str(file)]

    def try_out(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run it and wait for its end, which must come at once."""
        return subprocess.run(
            self.command(*options), cwd=CHECKOUT, env={}, capture_output=True, text=True, timeout=20, check=False
        )

    @contextmanager
    def running(self) -> Iterator["RunningBroker"]:
        errors = self.directory / "errors.log"
        with errors.open("w") as file:
            # No variable of the tests' reaches it, and no package of theirs is needed.
            process = subprocess.Popen(self.command(), cwd=CHECKOUT, env={}, stderr=file)
        try:
            wait_until(lambda: "listening" in errors.read_text() or process.poll() is not None, "the broker to listen")
            assert process.poll() is None, errors.read_text()
            yield RunningBroker(self, process)
        finally:
            process.kill()
            process.wait(10)


@dataclass
class RunningBroker:
    files: BrokerFiles
    process: subprocess.Popen[bytes]

    def ask(self, user: object) -> dict[str, Any]:
        return self.send(json.dumps({"user": user}).encode() + b"\n")

    def send(self, request: bytes, *, timeout_s: float = 20) -> dict[str, Any]:
        """The answer to these bytes, after which nothing more is sent."""
        with self.connect(timeout_s) as connection:
            with suppress(BrokenPipeError):  # who is turned away at once may find nobody there to read this
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
            return read_answer(connection)

    def connect(self, timeout_s: float = 20) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        connection.connect(str(self.files.socket))
        return connection

    def audit_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.files.audit.read_text().splitlines()]

    def stop(self) -> int:
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        assert time.monotonic() - began < 15
        return code


def read_answer(connection: socket.socket) -> dict[str, Any]:
    received = b""
    while not received.endswith(b"\n"):
        piece = connection.recv(4096)
        assert piece, f"the answer ends with {received!r}"
        received += piece
    answer: dict[str, Any] = json.loads(received)
    return answer


def read_token(token: str, key: bytes) -> dict[str, Any]:
    """The claims of a token that this key has signed, read without the broker's code. RFC 7515."""
    signed, _, signature = token.rpartition(".")
    expected = base64.urlsafe_b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    assert hmac.compare_digest(signature, expected)
    head, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split("."))
    assert head == {"alg": "HS256", "typ": "JWT"}
    assert isinstance(claims, dict)
    return claims
