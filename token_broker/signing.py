"""Making tokens. https://slurm.schedmd.com/jwt.html"""

import base64
import hashlib
import hmac
import json
import threading
from pathlib import Path
from typing import Final

from token_broker.errors import BrokerError
from token_broker.files import Version, read_guarded, version_of

_SHORTEST_KEY_BYTES: Final = 32
"""RFC 7518, section 3.2: a key for HS256 has at least as many bits as the hash."""


class Signer:
    """Signs with the key in a file, which is read again when it changes: so keys are exchanged without a restart."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._lock = threading.Lock()
        self._key = b""
        self._version: Version | None = None

    def load_key(self) -> bytes:
        """The key as it is now. Raises BrokerError: it can't be read, is too short, or others can read it."""
        with self._lock:
            if self._version is None or version_of(self._key_file) != self._version:
                key, version = read_guarded(self._key_file, forbidden_mode=0o177, max_bytes=8192)
                if len(key) < _SHORTEST_KEY_BYTES:
                    raise BrokerError(f"{self._key_file} has {len(key)} bytes; at least {_SHORTEST_KEY_BYTES} are safe")
                self._key, self._version = key, version
            return self._key

    def mint(self, user: str, *, issued_at: int, life_s: int) -> tuple[str, int]:
        """A token for a Unix user, and when it ends, in seconds since the epoch. Raises BrokerError."""
        expires_at = issued_at + life_s
        claims = {"exp": expires_at, "iat": issued_at, "sun": user}
        signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(claims)}"
        signature = hmac.new(self.load_key(), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{_encode_bytes(signature)}", expires_at


def _encode(item: dict[str, object]) -> str:
    return _encode_bytes(json.dumps(item, separators=(",", ":")).encode())


def _encode_bytes(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
