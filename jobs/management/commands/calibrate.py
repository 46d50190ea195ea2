"""`manage.py calibrate`: learn from finished jobs how far the engine's estimates are off here."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from accounts.models import ActSource
from accounts.services import audit
from accounts.services.acts import Act
from jobs.estimation.calibration import Calibration, RunKind
from jobs.services.calibration import OtherEngine, UnknownVersion, activate_version, deactivate
from jobs.services.recalibration import recalibrate


class Command(BaseCommand):
    help = "Learn from finished jobs how far estimates are off here, and choose the calibration that is used."

    def add_arguments(self, parser: CommandParser) -> None:
        choice = parser.add_mutually_exclusive_group()
        choice.add_argument("--dry-run", action="store_true", help="show what would be learnt; write nothing")
        choice.add_argument("--activate", type=int, metavar="ID", help="use this version from now on")
        choice.add_argument("--deactivate", action="store_true", help="use none: estimates are the engine's own")
        parser.add_argument("--note", default="", help="words to remember the new version by (at most 200 characters)")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["activate"] is not None:
            self._activate(options["activate"])
        elif options["deactivate"]:
            with transaction.atomic():
                version = deactivate()
                if version is not None:
                    _record("calibration.deactivate", version)
            self.stdout.write("no calibration was in use" if version is None else f"version {version} is out of use")
        else:
            self._learn(note=options["note"], dry_run=options["dry_run"])

    def _activate(self, number: int) -> None:
        try:
            with transaction.atomic():
                version = activate_version(number, at=timezone.now())
                _record("calibration.activate", version.pk)
        except (UnknownVersion, OtherEngine) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"version {version.pk} is in use; it rests on {version.jobs_used} finished jobs")

    def _learn(self, *, note: str, dry_run: bool) -> None:
        if len(note) > 200:
            raise CommandError(f"--note: {len(note)} characters are not allowed; allowed: at most 200")
        found = recalibrate(at=timezone.now(), note=note, dry_run=dry_run)
        self.stdout.write(f"{found.measured} jobs measured, {found.used} used, {len(found.outliers)} outliers")
        for reason, count in sorted(found.refused.items()):
            self.stdout.write(f"  not used, {reason}: {count}")
        for kind in found.calibration.kinds():
            self._explain(found.calibration, kind)
        if dry_run:
            self.stdout.write("nothing was written")
        elif found.version is None:
            self.stdout.write("nothing new: no version was made")
        else:
            use = "in use" if found.is_activated else "not in use, since another choice was made: --activate changes it"
            self.stdout.write(f"version {found.version.pk}, {use}")

    def _explain(self, calibration: Calibration, kind: RunKind) -> None:
        factors = calibration.lookup_kind(kind)
        self.stdout.write(
            f"{kind.accelerator} {kind.framework} {kind.task} {kind.parameters:.3g} parameters x {kind.devices}: "
            f"step time x {factors.step_time_factor:.3f}, memory x {factors.memory_factor:.3f}"
        )
        explained = calibration.explain(kind)
        for step, memory in zip(explained["step"], explained["memory"], strict=True):
            self.stdout.write(
                f"  {step.level:12} {step.jobs:5} jobs  x {step.factor:.3f} (weight {step.weight:.2f})"
                f"   memory {memory.jobs:5} jobs  x {memory.factor:.3f} (weight {memory.weight:.2f})"
            )


def _record(action: str, version: int) -> None:
    act = Act(actor=None, at=timezone.now(), source=ActSource.COMMAND)
    audit.record(act, action, target_kind="calibration", target=str(version))
