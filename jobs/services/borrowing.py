"""Who may start on a partition that is divided into shares, and who must make room: a pure decision.

As Kueue does it (https://kueue.sigs.k8s.io/docs/concepts/cluster_queue/), in accelerators at one moment; hours are the
ledger's business. Of each share

    guaranteed  is the part of `nominal` that is never lent (nominal - what the lending limit allows),
    firm        is what jobs have that are not preemptible: never more than nominal,
    in use      is firm and preemptible together: never more than nominal + borrowing limit,

and what all shares use beyond their guaranteed parts is never more than all lend together. From this follows that no
more is in use than the nominal shares are in sum, and that whoever takes all preemptible jobs of borrowers (and of its
own) away always finds room for a firm job within its nominal share.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID


class WaitReason(StrEnum):
    """Why a job doesn't start on a partition with shares."""

    SHARE_IN_USE = "share_in_use"  # the share's own jobs have it all
    RECLAIMING = "reclaiming"  # lent out; the borrowers are writing their checkpoints
    NOTHING_IDLE = "nothing_idle"  # preemptible: nobody leaves anything idle now
    BORROWING_LIMIT = "borrowing_limit"  # preemptible: its share may not borrow more


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a holder has for sure, may borrow, and lends, in accelerators. None: no limit."""

    nominal: int
    borrowing_limit: int | None = None
    lending_limit: int | None = None

    @property
    def lends(self) -> int:
        """How much of it others may have."""
        return self.nominal if self.lending_limit is None else min(self.lending_limit, self.nominal)

    @property
    def guaranteed(self) -> int:
        """How much of it others never have."""
        return self.nominal - self.lends


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A job that runs or wants to: `share` names its share. `leaves`: it has been told to make room."""

    job: UUID
    share: str
    devices: int
    is_preemptible: bool
    is_overrun: bool = False
    started_at: datetime | None = None
    leaves: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Jobs to start now and to take back now, and why each of the others waits."""

    start: tuple[UUID, ...]
    preempt: tuple[UUID, ...]
    waits: Mapping[UUID, WaitReason]


@dataclass(frozen=True, slots=True)
class Use:
    """What each share has of its partition, firm and in all."""

    shares: Mapping[str, Share]
    firm: Mapping[str, int]
    total: Mapping[str, int]

    @classmethod
    def of(cls, shares: Mapping[str, Share], jobs: Iterable[Demand]) -> Self:
        """Add up jobs."""
        use = cls(shares, dict.fromkeys(shares, 0), dict.fromkeys(shares, 0))
        for job in jobs:
            use = use.plus(job)
        return use

    def plus(self, job: Demand, sign: int = 1) -> Self:
        """With one job more, or with `sign` -1 one less."""
        total = {**self.total, job.share: self.total[job.share] + sign * job.devices}
        if job.is_preemptible:
            return replace(self, total=total)
        return replace(self, total=total, firm={**self.firm, job.share: self.firm[job.share] + sign * job.devices})

    def is_within_nominal(self, job: Demand) -> bool:
        """Would the firm jobs of its share still be within the nominal share with this one?"""
        return self.firm[job.share] + job.devices <= self.shares[job.share].nominal

    def is_within_borrowing_limit(self, job: Demand) -> bool:
        """Would its share borrow no more than it may?"""
        share = self.shares[job.share]
        if share.borrowing_limit is None:
            return True
        return self.total[job.share] + job.devices <= share.nominal + share.borrowing_limit

    def has_room(self, job: Demand) -> bool:
        """Would there be no more in use beyond the guaranteed parts than is lent?"""
        total = {**self.total, job.share: self.total[job.share] + job.devices}
        beyond = sum(max(total[name] - share.guaranteed, 0) for name, share in self.shares.items())
        return beyond <= sum(share.lends for share in self.shares.values())

    def allows(self, job: Demand) -> bool:
        """May the job start now?"""
        is_entitled = job.is_preemptible or self.is_within_nominal(job)
        return is_entitled and self.is_within_borrowing_limit(job) and self.has_room(job)

    def borrows(self, share: str) -> bool:
        """Has the share more than is its own?"""
        return self.total[share] > self.shares[share].nominal


def decide(shares: Mapping[str, Share], running: Iterable[Demand], waiting: Iterable[Demand]) -> Decision:
    """Which of the waiting jobs start, in their order, and which running ones make room for those that can't.

    Firm jobs go first, those of one share strictly one after the other, so that a large one is not starved by small
    ones. Preemptible jobs have what then is idle, those that pay before those that don't; room that is being made for
    an owner is not idle.
    """
    running, waiting = list(running), list(waiting)
    now = Use.of(shares, running)
    # As it will be when those that leave have left, and those they leave for have started.
    soon = Use.of(shares, (job for job in running if not job.leaves))
    candidates = [job for job in running if job.is_preemptible and not job.leaves]
    start: list[UUID] = []
    preempt: list[UUID] = []
    waits: dict[UUID, WaitReason] = {}
    blocked: set[str] = set()
    for job in (one for one in waiting if not one.is_preemptible):
        if job.share in blocked or not soon.is_within_nominal(job):
            blocked.add(job.share)
            waits[job.job] = WaitReason.SHARE_IN_USE
            continue
        victims = _find_victims(soon, job, candidates)
        if victims is None:
            blocked.add(job.share)
            waits[job.job] = WaitReason.SHARE_IN_USE
            continue
        for victim in victims:
            candidates.remove(victim)
            soon = soon.plus(victim, -1)
            preempt.append(victim.job)
        soon = soon.plus(job)
        if not victims and now.allows(job):
            now = now.plus(job)
            start.append(job.job)
        else:
            blocked.add(job.share)
            waits[job.job] = WaitReason.RECLAIMING
    for job in sorted((one for one in waiting if one.is_preemptible), key=lambda one: one.is_overrun):
        if now.allows(job) and soon.allows(job):
            now, soon = now.plus(job), soon.plus(job)
            start.append(job.job)
        else:
            limited = not now.is_within_borrowing_limit(job)
            waits[job.job] = WaitReason.BORROWING_LIMIT if limited else WaitReason.NOTHING_IDLE
    return Decision(start=tuple(start), preempt=tuple(preempt), waits=waits)


def largest_possible(shares: Mapping[str, Share], share: str, *, is_preemptible: bool) -> int:
    """The largest job that a share can ever start, when nobody else has anything."""
    own = shares[share]
    if not is_preemptible:
        return own.nominal
    most = own.guaranteed + sum(one.lends for one in shares.values())
    return most if own.borrowing_limit is None else min(most, own.nominal + own.borrowing_limit)


def _find_victims(use: Use, job: Demand, candidates: list[Demand]) -> list[Demand] | None:
    """The preemptible jobs that must end so that `job` has room, none of which could stay; None if that can't help.

    Others' jobs are taken only while their share borrows; the job's own share is asked last. Those that pay nothing go
    first, then the youngest: it has the least to lose.
    """
    if use.allows(job):
        return []

    def order(one: Demand) -> tuple[bool, bool, float]:
        started = one.started_at.timestamp() if one.started_at else float("inf")
        return (one.share == job.share, not one.is_overrun, -started)

    chosen: list[Demand] = []
    left = use
    for one in sorted(candidates, key=order):
        if one.share != job.share and not left.borrows(one.share):
            continue
        chosen.append(one)
        left = left.plus(one, -1)
        if left.allows(job):
            return _spare_the_unneeded(left, job, chosen)
    return None


def _spare_the_unneeded(left: Use, job: Demand, chosen: list[Demand]) -> list[Demand]:
    """Let everybody stay without whom there is room as well, beginning with those that would lose the most."""
    needed = list(chosen)
    for one in reversed(chosen):
        if left.plus(one).allows(job):
            left = left.plus(one)
            needed.remove(one)
    return needed
