"""The socket: who asks, what, and how long they may take over it."""

import errno
import grp
import json
import logging
import os
import selectors
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from token_broker.audit import AuditLog
from token_broker.configuration import Configuration
from token_broker.errors import BrokerError, Refusal
from token_broker.signing import Signer
from token_broker.users import UserList

MAX_REQUEST_BYTES: Final = 512
_PEER: Final = struct.Struct("iII")

logger = logging.getLogger(__name__)


class Peer(NamedTuple):
    """Who has connected, by the kernel's word. https://man7.org/linux/man-pages/man7/unix.7.html"""

    pid: int
    uid: int
    gid: int


class Broker:
    """Answers requests; the part that knows nothing of sockets."""

    def __init__(self, configuration: Configuration, *, clock: Callable[[], float] = time.time) -> None:
        self._configuration = configuration
        self._clock = clock
        self._signer = Signer(configuration.key_file)
        self._users = UserList(configuration)
        self._audit = AuditLog(configuration.audit_log)

    def check(self) -> None:
        """Raises BrokerError if key, list or log can't be used now."""
        self._signer.load_key()
        self._users.load()
        self._audit.check()

    def is_allowed(self, peer: Peer) -> bool:
        """Whether this Unix user may ask at all."""
        return peer.uid in self._configuration.peers

    def turn_away(self, peer: Peer) -> dict[str, Any]:
        """The answer to one who may not ask."""
        return self._answer(peer, None, "refused", "peer", "Your Unix user may not ask for tokens.")

    def drop(self, peer: Peer, reason: str, message: str) -> dict[str, Any]:
        """The answer to one whose request could not be read."""
        return self._answer(peer, None, "failed", reason, message)

    def answer(self, peer: Peer, request: bytes) -> dict[str, Any]:
        """The answer to one line."""
        try:
            user = _read_request(request)
        except ValueError as error:
            return self.drop(peer, "bad_request", str(error))
        try:
            self._users.check(user)
            token, expires_at = self._signer.mint(
                user, issued_at=int(self._clock()), life_s=self._configuration.token_life_s
            )
        except Refusal as refusal:
            return self._answer(peer, user, "refused", refusal.reason, str(refusal))
        except BrokerError as error:
            # The words name files: they are for the administrator, not for who asks.
            logger.error("no token for %r: %s", user, error)
            return self._answer(peer, user, "failed", "broker", "The token broker can't work; its own log says why.")
        try:
            self._write(peer, user, "granted", expires_at=expires_at)
        except BrokerError as error:
            logger.error("no token for %r: %s", user, error)
            return {"status": "failed", "reason": "audit", "message": "The token broker can't write its audit log."}
        return {"status": "granted", "token": token, "expires_at": expires_at}

    def _answer(self, peer: Peer, user: str | None, status: str, reason: str, message: str) -> dict[str, Any]:
        try:
            self._write(peer, user, status, reason=reason)
        except BrokerError as error:
            logger.error("%s", error)
        return {"status": status, "reason": reason, "message": message}

    def _write(
        self, peer: Peer, user: str | None, outcome: str, *, reason: str = "", expires_at: int | None = None
    ) -> None:
        self._audit.write(
            at=self._clock(),
            peer_uid=peer.uid,
            peer_pid=peer.pid,
            user=user,
            outcome=outcome,
            reason=reason,
            expires_at=expires_at,
        )


class Server:
    """Listens on the Unix socket. A client that takes too long is dropped, and can keep no other waiting for longer."""

    def __init__(self, configuration: Configuration, broker: Broker) -> None:
        self._configuration = configuration
        self._broker = broker
        self._free = threading.BoundedSemaphore(configuration.max_connections)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_writer.setblocking(False)
        self._listener = _listen(configuration.socket, configuration.socket_group)
        self._inode = os.stat(configuration.socket).st_ino

    def stop(self) -> None:
        """Let `serve` end. May be called from a signal handler, and more than once."""
        try:
            self._wake_writer.send(b"x")
        except BlockingIOError:
            return  # it was told often enough

    def serve(self) -> None:
        """Serve until `stop`; requests that have begun are answered."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake_reader in ready:
                    break
                self._accept()
        self._close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has gone again
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            logger.error("no connection can be taken: %s", error.strerror)
            time.sleep(0.1)
            return
        peer = Peer(*_PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)))
        if not self._broker.is_allowed(peer):
            with connection:
                connection.setblocking(False)
                _send(connection, self._broker.turn_away(peer))
            return
        # All places are taken for no longer than the slowest client may take.
        self._free.acquire()
        threading.Thread(target=self._serve_one, args=(connection, peer), daemon=True).start()

    def _serve_one(self, connection: socket.socket, peer: Peer) -> None:
        try:
            with connection:
                _send(connection, self._ask_and_answer(connection, peer))
        except Exception:
            logger.exception("a request of user %d was not answered", peer.uid)
        finally:
            self._free.release()

    def _ask_and_answer(self, connection: socket.socket, peer: Peer) -> dict[str, Any]:
        try:
            request = _receive_line(connection, timeout_s=self._configuration.request_timeout_s)
        except TimeoutError:
            return self._broker.drop(peer, "too_slow", "The request was not finished in time.")
        except ValueError as error:
            return self._broker.drop(peer, "bad_request", str(error))
        except OSError as error:
            return self._broker.drop(peer, "gone", f"The connection broke: {error.strerror}")
        connection.settimeout(self._configuration.request_timeout_s)
        return self._broker.answer(peer, request)

    def _close(self) -> None:
        path = self._configuration.socket
        try:
            if os.stat(path, follow_symlinks=False).st_ino == self._inode:
                path.unlink()
        except FileNotFoundError:
            logger.warning("%s is gone already", path)
        self._listener.close()
        # Whoever was let in is answered, or late.
        deadline = time.monotonic() + 2 * self._configuration.request_timeout_s
        for _ in range(self._configuration.max_connections):
            self._free.acquire(timeout=max(0.0, deadline - time.monotonic()))
        self._wake_reader.close()
        self._wake_writer.close()


def _read_request(line: bytes) -> str:
    """The user asked for. Raises ValueError."""
    words = 'A request is one line such as {"user": "alice"}.'
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(words) from None
    if not isinstance(request, dict) or set(request) != {"user"} or not isinstance(request["user"], str):
        raise ValueError(words)
    user: str = request["user"]
    return user


def _receive_line(connection: socket.socket, *, timeout_s: float) -> bytes:
    """One line, in all within the time given. Raises TimeoutError; ValueError: too long, or it ends too soon."""
    deadline = time.monotonic() + timeout_s
    received = b""
    while b"\n" not in received:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(MAX_REQUEST_BYTES + 1 - len(received))
        if not piece:
            raise ValueError("The request has no end of line.")
        received += piece
        if len(received) > MAX_REQUEST_BYTES:
            raise ValueError(f"The request has more than {MAX_REQUEST_BYTES} bytes.")
    return received.partition(b"\n")[0]


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(answer).encode() + b"\n")
    except OSError as error:
        logger.info("an answer found nobody there: %s", error)


def _listen(path: Path, group: str) -> socket.socket:
    """A socket that is there, with its rights, from one moment to the next. Raises BrokerError."""
    _check_place(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    old_mask = os.umask(0o177)
    try:
        passing.unlink(missing_ok=True)
        listener.bind(str(passing))
        if group:
            os.chown(passing, -1, grp.getgrnam(group).gr_gid)
            passing.chmod(0o660)
        listener.listen(128)
        listener.setblocking(False)
        passing.rename(path)  # in the place of one that was left behind
    except KeyError:
        listener.close()
        passing.unlink(missing_ok=True)
        raise BrokerError(f"socket_group: there is no Unix group {group!r}") from None
    except OSError as error:
        listener.close()
        passing.unlink(missing_ok=True)
        raise BrokerError(f"{path} can't be made: {error.strerror or error}") from error
    finally:
        os.umask(old_mask)
    return listener


def _check_place(path: Path) -> None:
    """Nothing of somebody else's may be put away, and nobody else may put something in the socket's place."""
    try:
        directory = os.stat(path.parent)
    except OSError as error:
        raise BrokerError(f"socket: {path.parent} can't be used: {error.strerror}") from error
    if directory.st_mode & 0o022 or directory.st_uid not in (0, os.geteuid()):
        raise BrokerError(f"socket: {path.parent} must belong to root or the broker, and nobody else may write to it")
    try:
        mode = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BrokerError(f"socket: {path} is there, and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return  # nobody listens: a broker that was killed has left it
    raise BrokerError(f"socket: another broker listens on {path}")
