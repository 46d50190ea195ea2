"""The process that `test_kills` kills: it holds, settles and gives back in a loop until it dies.

Run as `python -m tests.accounts.kill_victim DATABASE PROJECT CLASS NAME`; it prints "go" when it begins.
"""

import itertools
import os
import sys
from datetime import UTC, datetime

import django


def main() -> None:
    database, project, resource_class, name = sys.argv[1:]
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    from django.db import connection

    connection.settings_dict["NAME"] = database
    from accounts.services import ledger

    at = datetime.fromisoformat(os.environ["KILL_AT"]).astimezone(UTC)
    print("go", flush=True)
    for number in itertools.count():
        reference = f"{name}-{number}"
        ledger.reserve(
            project_id=int(project),
            resource_class_id=int(resource_class),
            reference=reference,
            amount_s=90,
            at=at,
        )
        if number % 3:
            ledger.settle(reference=reference, amount_s=50, at=at)
        else:
            ledger.release(reference=reference, at=at)


if __name__ == "__main__":
    main()
