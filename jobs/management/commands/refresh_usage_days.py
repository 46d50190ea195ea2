"""`manage.py refresh_usage_days`: sum the days whose use has changed."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from jobs.services.usage_days import rebuild_usage_days, refresh_usage_days


class Command(BaseCommand):
    help = "Sum the days whose use has changed, for reports; a worker does so every minute."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rebuild", action="store_true", help="sum every day again")

    def handle(self, *args: Any, **options: Any) -> None:
        days = rebuild_usage_days() if options["rebuild"] else refresh_usage_days()
        self.stdout.write(f"{days} days summed")
