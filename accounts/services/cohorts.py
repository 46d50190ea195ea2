"""Shares of partitions, as administrators set them: what must fit together, and what was changed."""

from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext as _

from accounts.models import Cohort, CohortShare
from accounts.services import audit
from accounts.services.acts import Act


class SharesDontFit(ValueError):
    """The shares promise more than the partition has. The words say by how much."""


def check_shares(cohort: Cohort, nominal: Iterable[int]) -> None:
    """Raise SharesDontFit if the nominal shares are more in sum than the partition has."""
    promised = sum(nominal)
    if promised > cohort.partition.devices:
        raise SharesDontFit(
            _("The nominal shares are %(promised)s accelerators in sum; the partition has %(devices)s.")
            % {"promised": promised, "devices": cohort.partition.devices}
        )


def describe(cohort: Cohort) -> dict[str, Any]:
    """A cohort with its shares as the audit shows them."""
    shares = CohortShare.objects.filter(cohort=cohort).select_related("project", "institution").order_by("pk")
    return {
        "is_enabled": cohort.is_enabled,
        "preemptible_weight": str(cohort.preemptible_weight),
        "grace_s": cohort.grace_s,
        "may_overrun": cohort.may_overrun,
        "shares": [
            {
                "of": _name(share),
                "nominal": share.nominal,
                "borrowing_limit": share.borrowing_limit,
                "lending_limit": share.lending_limit,
            }
            for share in shares
        ],
    }


def record_change(act: Act, cohort: Cohort, *, before: dict[str, Any], verb: str) -> None:
    """Write the line of the audit, in the transaction of the change itself."""
    after = {} if verb == "delete" else describe(cohort)
    partition = cohort.partition
    target = f"{partition.cluster.code}/{partition.name}"
    audit.record(act, f"cohort.{verb}", target_kind="partition", target=target, before=before, after=after)


def _name(share: CohortShare) -> str:
    holder = share.project or share.institution
    return f"{'project' if share.project else 'institution'} {holder.code if holder else '?'}"
