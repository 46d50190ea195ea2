"""`manage.py ensure_installation`: what a new installation needs; does nothing to one that is in use."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import transaction
from django.utils import timezone

from portal.installation import create_demo_centre, write_credentials


class Command(BaseCommand):
    help = "Create the demo centre, and its people with random passwords, if the database has nobody yet."

    def handle(self, *args: Any, **options: Any) -> None:
        path = Path(settings.PORTAL_HOME) / "credentials"
        with transaction.atomic():
            passwords = create_demo_centre(at=timezone.now())
            if passwords:
                write_credentials(path, passwords)  # before the commit: nobody gets a password that is lost
        if not passwords:
            self.stdout.write("the installation is in use; nothing to do")
            return
        self.stdout.write(f"demo centre created; its people and passwords are in {path}")
