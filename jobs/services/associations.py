"""Keeping the accounts of a cluster in step with the portal: look, plan, apply, write down.

Every call is written down before it is made and after it was answered, so that one that is cut off is known to have
been tried. Nothing is remembered between runs: the next plan starts from what the cluster then has.
"""

import logging
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connection

from accounts.models import AssociationChange, AssociationReview, ChangeOrigin, ChangeOutcome, Cluster, User
from accounts.services import audit
from accounts.services.acts import Act
from jobs.backends.associations import Change, ChangeKind, ChangeRefused, JobsActive, SchedulerUnavailable
from jobs.services.association_plan import OwnedUsers, Plan, depends_on, make_plan, rows_of
from jobs.services.association_setup import AssociationSetup, managed_clusters, setups
from jobs.services.wanted_associations import wanted_associations

logger = logging.getLogger(__name__)

_LOCK_SPACE: Final = 0x51A55  # any number of this module's own
_TASK_S: Final = 120.0
"""What the hourly task may spend on one cluster; the rest is for the next hour."""

_USER_KINDS: Final = (ChangeKind.ADD_USER, ChangeKind.REMOVE_USER)


class ApplyInProgress(Exception):
    """Somebody else applies changes to this cluster now."""


class PlanChanged(Exception):
    """What would be applied now is not what was shown."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one change went. `outcome` None: not tried, since one before it failed or time was up."""

    change: Change
    outcome: ChangeOutcome | None
    words: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done, and what is left: the plan made from what the cluster had afterwards; None if it didn't say."""

    results: tuple[Result, ...]
    remaining: Plan | None

    def count(self, outcome: ChangeOutcome | None) -> int:
        return sum(result.outcome == outcome for result in self.results)


def plan_associations(cluster: Cluster, *, at: datetime, delete_closed: bool = False) -> Plan:
    """What would have to change on a cluster now. Raises NotManaged and SchedulerUnavailable."""
    setup = setups[cluster.code]
    wanted = wanted_associations(cluster, qos_prefix=setup.qos_prefix, at=at)
    return make_plan(wanted, setup.admin.read(mark=setup.mark), _owned_users(cluster), delete_closed=delete_closed)


def review_associations(cluster: Cluster, *, at: datetime) -> Plan:
    """Look, and keep what was seen for people to read. Raises NotManaged and SchedulerUnavailable."""
    try:
        plan = plan_associations(cluster, at=at)
    except SchedulerUnavailable as error:
        _store_failure(cluster, error, at=at)
        raise
    _store_review(cluster, plan, at=at)
    return plan


def apply_associations(
    cluster: Cluster,
    *,
    now: Callable[[], datetime],
    origin: ChangeOrigin,
    actor: User | None = None,
    fingerprint: str | None = None,
    delete_closed: bool = False,
    seconds: float = float("inf"),
) -> Applied:
    """Bring a cluster into step, change by change; what `seconds` don't suffice for is left to the next call.

    Raises:
        NotManaged, SchedulerUnavailable: nothing was changed.
        ApplyInProgress: another process is at it.
        PlanChanged: `fingerprint` was given, and the plan has another one by now.
    """
    deadline = time.monotonic() + seconds
    setup = setups[cluster.code]
    with _only_one(cluster):
        plan = plan_associations(cluster, at=now(), delete_closed=delete_closed)
        if fingerprint is not None and plan.fingerprint != fingerprint:
            raise PlanChanged
        log = _Log(cluster, origin, actor, now)
        results: list[Result] = []
        for change in plan.changes:
            failed = [result.change for result in results if result.outcome != ChangeOutcome.DONE]
            is_cut_off = any(result.outcome == ChangeOutcome.UNKNOWN for result in results)
            if is_cut_off or time.monotonic() >= deadline or depends_on(change, failed):
                results.append(Result(change, None))
            else:
                results.append(_make(change, setup, log))
        remaining = _plan_again(cluster, now, delete_closed) if results else plan
        if remaining is not None:
            _store_review(cluster, remaining, at=now())
    return Applied(tuple(results), remaining)


def record_apply(act: Act, cluster: Cluster, applied: Applied) -> None:
    """Write down that somebody had changes applied; what became of each is in the log of changes."""
    counts = {outcome.value.lower(): applied.count(outcome) for outcome in ChangeOutcome}
    figures = {**{name: count for name, count in counts.items() if count}, "not_tried": applied.count(None)}
    audit.record(act, "associations.apply", target_kind="cluster", target=cluster.code, after=figures)


def sync_associations(*, now: Callable[[], datetime]) -> None:
    """Look at every cluster that is kept, and apply where the centre wants it. One that is away delays no other."""
    for cluster in Cluster.objects.filter(code__in=managed_clusters()).order_by("code"):
        try:
            if setups[cluster.code].applies:
                apply_associations(cluster, now=now, origin=ChangeOrigin.TASK, seconds=_TASK_S)
            else:
                review_associations(cluster, at=now())
        except ApplyInProgress:
            logger.info("associations of %s are being applied by another process", cluster.code)
        except SchedulerUnavailable as error:
            _store_failure(cluster, error, at=now())
            logger.warning("associations of %s could not be read: %s", cluster.code, error)
        except Exception:
            logger.exception("associations of %s could not be kept", cluster.code)


def _plan_again(cluster: Cluster, now: Callable[[], datetime], delete_closed: bool) -> Plan | None:
    """What is left after changes; how those went must be told even if accounting has gone away meanwhile."""
    try:
        return plan_associations(cluster, at=now(), delete_closed=delete_closed)
    except SchedulerUnavailable as error:
        _store_failure(cluster, error, at=now())
        return None


def _make(change: Change, setup: AssociationSetup, log: "_Log") -> Result:
    call = log.begin(change)
    try:
        if change.kind is ChangeKind.REMOVE_ACCOUNT:
            _check_empty(change, setup)
        words = setup.admin.apply(change, mark=setup.mark, parent_account=setup.parent_account)
        outcome = ChangeOutcome.DONE
    except JobsActive as error:
        words, outcome = str(error), ChangeOutcome.WAITING
    except ChangeRefused as error:
        words, outcome = str(error), ChangeOutcome.REFUSED
    except SchedulerUnavailable as error:
        words, outcome = str(error), ChangeOutcome.UNKNOWN
    log.end(change, call, outcome, words)
    return Result(change, outcome, words)


def _check_empty(change: Change, setup: AssociationSetup) -> None:
    """sacctmgr deletes an account with all that is in it: look once more. Raises ChangeRefused."""
    state = setup.admin.read(mark=setup.mark)
    inside = [item.user for item in state.associations if item.account == change.account]
    below = [item.name for item in state.accounts.values() if item.parent == change.account]
    if inside or below:
        raise ChangeRefused(f"account {change.account!r} still has {', '.join(sorted([*inside, *below]))}")


class _Log:
    """Writes what is tried and how it ended."""

    def __init__(self, cluster: Cluster, origin: ChangeOrigin, actor: User | None, now: Callable[[], datetime]) -> None:
        self._common: dict[str, Any] = {"cluster": cluster, "origin": origin, "actor": actor}
        self._now = now

    def begin(self, change: Change) -> uuid.UUID:
        call = uuid.uuid4()
        self._write(change, call, ChangeOutcome.STARTED, "")
        return call

    def end(self, change: Change, call: uuid.UUID, outcome: ChangeOutcome, words: str) -> None:
        self._write(change, call, outcome, words.replace("\0", "")[:500])

    def _write(self, change: Change, call: uuid.UUID, outcome: ChangeOutcome, words: str) -> None:
        AssociationChange.objects.create(
            **self._common,
            call=call,
            at=self._now(),
            kind=change.kind.value,
            target=change.target,
            settings=[asdict(setting) for setting in change.settings],
            outcome=outcome,
            words=words,
        )


def _owned_users(cluster: Cluster) -> OwnedUsers:
    """Associations that the portal made, or began to make and got no answer, and that it hasn't removed since."""
    rows = AssociationChange.objects.filter(cluster=cluster, kind__in=[kind.value for kind in _USER_KINDS])
    last = rows.order_by("target", "-id").distinct("target").values_list("target", "kind", "outcome")
    owned = set()
    for target, kind, outcome in last:
        was_added = kind == ChangeKind.ADD_USER and outcome != ChangeOutcome.REFUSED
        is_kept = kind == ChangeKind.REMOVE_USER and outcome != ChangeOutcome.DONE
        if was_added or is_kept:
            account, _, user = target.partition("/")
            owned.add((account, user))
    return frozenset(owned)


def _store_review(cluster: Cluster, plan: Plan, *, at: datetime) -> None:
    AssociationReview.objects.update_or_create(
        cluster=cluster, defaults={"looked_at": at, "plan": rows_of(plan), "failed_at": None, "error": ""}
    )


def _store_failure(cluster: Cluster, error: Exception, *, at: datetime) -> None:
    AssociationReview.objects.update_or_create(cluster=cluster, defaults={"failed_at": at, "error": str(error)[:500]})


@contextmanager
def _only_one(cluster: Cluster) -> Iterator[None]:
    """Hold the cluster's advisory lock, which ends with the connection whatever becomes of this process."""
    key = [_LOCK_SPACE, zlib.crc32(cluster.code.encode()) & 0x7FFFFFFF]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", key)
        if not cursor.fetchone()[0]:
            raise ApplyInProgress(cluster.code)
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", key)
