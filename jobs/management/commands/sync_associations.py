"""`manage.py sync_associations`: keep the accounts of a Slurm cluster in step with the portal's projects."""

import json
import sys
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import ActSource, ChangeOrigin, ChangeOutcome, Cluster
from accounts.services.acts import Act
from jobs.backends.associations import Change, SchedulerUnavailable
from jobs.services.association_plan import Plan, rows_of
from jobs.services.association_setup import NotManaged, managed_clusters
from jobs.services.associations import (
    Applied,
    ApplyInProgress,
    apply_associations,
    plan_associations,
    record_apply,
    review_associations,
)

DIFFERS: Final = 3
FAILED: Final = 1


class Command(BaseCommand):
    help = (
        "Show how a cluster's Slurm accounts, associations and QOS differ from the portal's projects, or mend it. "
        "Exit 0: in step; 3: there are differences left; 1: something failed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--cluster", required=True, metavar="CODE", help="the cluster's code in the portal")
        parser.add_argument("--apply", action="store_true", help="make the changes; without it they are only shown")
        parser.add_argument(
            "--delete-closed",
            action="store_true",
            help="delete the portal's own accounts that no active project has; without it they are only closed",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            cluster = Cluster.objects.get(code=options["cluster"])
        except Cluster.DoesNotExist:
            known = ", ".join(Cluster.objects.order_by("code").values_list("code", flat=True)) or "none"
            raise CommandError(f"--cluster: there is no {options['cluster']!r}; allowed: {known}") from None
        try:
            code = self._apply(cluster, options) if options["apply"] else self._show(cluster, options)
        except NotManaged:
            known = ", ".join(managed_clusters()) or "none has it"
            raise CommandError(
                f"--cluster: {cluster.code!r} has no ASSOCIATIONS in settings.SCHEDULERS; allowed: {known}"
            ) from None
        except SchedulerUnavailable as error:
            raise CommandError(f"Slurm's accounting doesn't answer: {error}") from error
        except ApplyInProgress:
            raise CommandError("another process is applying changes to this cluster") from None
        if code:
            sys.exit(code)

    def _show(self, cluster: Cluster, options: dict[str, Any]) -> int:
        at = timezone.now()
        if options["delete_closed"]:
            plan = plan_associations(cluster, at=at, delete_closed=True)
        else:
            plan = review_associations(cluster, at=at)
        if options["json"]:
            self.stdout.write(json.dumps({"cluster": cluster.code, **rows_of(plan)}, indent=2))
        else:
            self._print_plan(plan)
        return DIFFERS if plan.changes else 0

    def _apply(self, cluster: Cluster, options: dict[str, Any]) -> int:
        applied = apply_associations(
            cluster, now=timezone.now, origin=ChangeOrigin.COMMAND, delete_closed=options["delete_closed"]
        )
        record_apply(Act(actor=None, at=timezone.now(), source=ActSource.COMMAND), cluster, applied)
        if options["json"]:
            self.stdout.write(json.dumps({"cluster": cluster.code, **_as_json(applied)}, indent=2))
        else:
            for result in applied.results:
                word = result.outcome.lower() if result.outcome else "not tried"
                self.stdout.write(f"{word:10} {_describe(result.change)}")
                if result.outcome != ChangeOutcome.DONE and result.words:
                    self.stdout.write(f"           Slurm: {' '.join(result.words.split())}")
            if applied.remaining is None:
                self.stdout.write("what is left is not known: accounting doesn't answer any more")
            else:
                self._print_plan(applied.remaining)
        if applied.count(ChangeOutcome.REFUSED) or applied.remaining is None:
            return FAILED
        return DIFFERS if applied.remaining.changes else 0

    def _print_plan(self, plan: Plan) -> None:
        for change in plan.changes:
            self.stdout.write(f"to do      {_describe(change)}")
        for finding in plan.findings:
            about = f"  ({finding.detail})" if finding.detail else ""
            self.stdout.write(f"left alone {finding.code} {finding.target}{about}")
        self.stdout.write(f"{len(plan.changes)} changes to make" if plan.changes else "in step: nothing to do")


def _describe(change: Change) -> str:
    settings = [f"{item.name} {_value(item.before)} -> {_value(item.after)}" for item in change.settings]
    return " ".join([f"{change.kind.value:19}", change.target, ", ".join(settings)]).rstrip()


def _value(value: int | str | None) -> str:
    return "unset" if value is None else str(value)


def _as_json(applied: Applied) -> dict[str, Any]:
    return {
        "results": [
            {
                "kind": result.change.kind.value,
                "target": result.change.target,
                "outcome": result.outcome.value if result.outcome else None,
                "words": result.words,
            }
            for result in applied.results
        ],
        "remaining": None if applied.remaining is None else rows_of(applied.remaining),
    }
