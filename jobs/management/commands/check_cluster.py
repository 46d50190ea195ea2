"""`manage.py check_cluster CLUSTER`: does a cluster give the portal every right and version that it needs?"""

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from jobs.backends.checks import Check, Outcome
from jobs.services.cluster_checks import UnknownCluster, check_cluster


class Command(BaseCommand):
    help = "Try every right and version that the portal needs of a cluster; say what is missing and what to do."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("cluster", help="its alias in SCHEDULERS")
        parser.add_argument(
            "--as", dest="as_user", default="", metavar="USER", help="do what leaves no trace as this researcher, too"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            checks = check_cluster(options["cluster"], as_user=options["as_user"])
        except (UnknownCluster, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error
        done: list[Check] = []
        for check in checks:
            done.append(check)
            if not options["json"]:
                self._print(check)
        count = Counter(check.outcome for check in done)
        if options["json"]:
            report = {
                "cluster": options["cluster"],
                "checks": [asdict(check) for check in done],
                "counts": {outcome.value: count[outcome] for outcome in Outcome},
            }
            self.stdout.write(json.dumps(report, indent=2))
        else:
            self.stdout.write(", ".join(f"{count[outcome]} {outcome.value}" for outcome in Outcome))
        if count[Outcome.FAILED]:
            raise SystemExit(1)

    def _print(self, check: Check) -> None:
        remedy = f" → {check.remedy}" if check.remedy else ""
        self.stdout.write(f"{check.outcome:8} {check.name}: {check.found}{remedy}")
