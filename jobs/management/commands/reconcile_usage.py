"""`manage.py reconcile_usage`: does the ledger say what the cluster's accounting says?"""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from accounts.models import Cluster
from jobs.backends.base import SchedulerUnavailable
from jobs.services.clusters import backend_of
from jobs.services.usage_comparison import Comparison, compare_usage

_DAYS = re.compile(r"\A(\d{1,4})d\Z")


class Command(BaseCommand):
    help = "Compare the ledger with a cluster's accounting and print every difference; exit 1 if there is one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--cluster", required=True, metavar="CODE")
        parser.add_argument(
            "--since", default="7d", help="7d (days ago), 2026-11-01 or 2026-11-01T08:00:00+08:00; UTC unless it says"
        )
        parser.add_argument("--json", action="store_true", help="print the comparison as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        code = options["cluster"]
        cluster = Cluster.objects.filter(code=code).first()
        if cluster is None:
            known = ", ".join(Cluster.objects.order_by("code").values_list("code", flat=True)) or "none yet"
            raise CommandError(f"--cluster: there is no {code!r}; there are: {known}")
        since = _read_since(options["since"])
        try:
            comparison = compare_usage(cluster, backend_of(code), since=since)
        except SchedulerUnavailable as error:
            raise CommandError(f"the accounting of {code} doesn't answer: {error}", returncode=2) from error
        self._print(comparison, since=since, as_json=options["json"])
        if comparison.differences:
            raise CommandError(f"{len(comparison.differences)} differences between the ledger and {code}'s accounting")

    def _print(self, comparison: Comparison, *, since: datetime, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps({"since": since.isoformat(), **asdict(comparison)}))
            return
        for one in comparison.differences:
            self.stdout.write(
                f"{one.kind:18} {one.key} job {one.native_id or '-'}: portal {one.portal}, scheduler {one.scheduler}"
            )
        self.stdout.write(
            f"{comparison.segments} scheduler jobs since {since:%Y-%m-%d %H:%M} UTC: "
            f"portal {comparison.portal_s} accelerator-seconds, scheduler {comparison.scheduler_s}, "
            f"{len(comparison.differences)} differences"
        )


def _read_since(text: str) -> datetime:
    if match := _DAYS.match(text):
        return timezone.now() - timedelta(days=int(match[1]))
    try:
        moment = parse_datetime(text) if "T" in text or " " in text else None
        date = parse_date(text) if moment is None else None
    except ValueError:
        moment = date = None
    if moment is None and date is not None:
        moment = datetime.combine(date, time.min)
    if moment is None:
        raise CommandError(f"--since: {text!r} is not allowed; allowed: days such as 7d, a date, or a date with a time")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
