"""The command line: see the package."""

import argparse
import logging
import os
import signal
import sys

from token_broker.configuration import read_configuration
from token_broker.errors import BrokerError
from token_broker.server import Broker, Server

logger = logging.getLogger("token_broker")


def main() -> int:
    """Exit codes: 0 stopped by SIGTERM or SIGINT, or all is well; 1 something must be put right first."""
    parser = argparse.ArgumentParser(prog="python3 -m token_broker", description="Hands out tokens for Slurm.")
    parser.add_argument("--check", action="store_true", help="try configuration, key and list; run nothing")
    parser.add_argument("configuration", help="a TOML file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    os.umask(0o027)
    try:
        configuration = read_configuration(arguments.configuration)
        broker = Broker(configuration)
        broker.check()
        if arguments.check:
            print("all is well")
            return 0
        server = Server(configuration, broker)
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if os.geteuid() == 0:
        logger.warning("this runs as root; a Unix user of its own is enough, and safer")
    logger.info("listening on %s", configuration.socket)
    server.serve()
    logger.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
