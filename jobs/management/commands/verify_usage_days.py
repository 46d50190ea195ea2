"""`manage.py verify_usage_days`: prove that every sum of reports is the sum of the raw records."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from jobs.models import UsageDay
from jobs.services.usage_days import KEYS, find_day_differences, refresh_usage_days


class Command(BaseCommand):
    help = "Refresh, then compare each day's sums with the raw records; exit 1 if one differs."

    def handle(self, *args: Any, **options: Any) -> None:
        refresh_usage_days()
        differences = find_day_differences()
        for one in differences:
            where = " ".join(f"{name}={value}" for name, value in zip(KEYS, one.key, strict=True))
            self.stderr.write(f"{where}: {one.field}: summed {one.summed}, raw {one.raw}")
        if differences:
            raise CommandError(f"{len(differences)} differences between the sums of days and the raw records")
        self.stdout.write(f"usage days exact: {UsageDay.objects.count()} rows, 0 differences")
