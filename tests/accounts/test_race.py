"""Fifty clients race for a project's last hours on real PostgreSQL: nobody overspends, whatever comes in between.

`LEDGER_RACE_ROUNDS=1000` makes it the long run.
"""

import os
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection
from django.db.models import Sum

from accounts.models import ActSource, Allocation, InstitutionShare, LedgerEntry, LedgerKind, MemberCap, Membership
from accounts.services import ledger
from accounts.services.acts import Act
from tests.factories import NOW, make_allocation, make_project, make_resource_class, make_user

CLIENTS = 50
ROUNDS = int(os.environ.get("LEDGER_RACE_ROUNDS", "15"))
SEED = int(os.environ.get("LEDGER_RACE_SEED", "20260601"))

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(180 + 5 * ROUNDS)]


class Field:
    """One round: a project with one to three allocations that end soon or late, beside one of its institution."""

    def __init__(self, seed: str) -> None:
        self.seed = seed
        chance = random.Random(seed)
        self.members = [make_user() for _ in range(3)]
        self.project = make_project(members=tuple(self.members))
        self.other = make_project(institution=self.project.institution)
        self.resource_class = make_resource_class()
        days = [0.5, 5, 9][: chance.randint(1, 3)] if chance.random() < 0.7 else [5]
        hours = [chance.randint(1, CLIENTS) for _ in days]
        self.rows = [
            make_allocation(self.project, self.resource_class, hours=amount, end_at=NOW + timedelta(days=day))
            for day, amount in zip(days, hours, strict=True)
        ]
        self.share_s = sum(hours) * 3600
        InstitutionShare.objects.create(
            institution=self.project.institution,
            resource_class=self.resource_class,
            amount_s=self.share_s,
            start_at=NOW - timedelta(days=60),
            end_at=NOW + timedelta(days=60),
        )
        self.cap_s = 3600 * chance.randint(1, 8)
        capped = Membership.objects.get(project=self.project, user=self.members[0])
        MemberCap.objects.create(membership=capped, cap_s=self.cap_s)
        self.barrier = threading.Barrier(CLIENTS)

    def client(self, number: int) -> Counter[str]:
        chance, told = random.Random(f"{self.seed}-{number}"), Counter[str]()
        self.barrier.wait()
        for turn in range(2):
            try:
                self.live(f"{self.seed}-{number}-{turn}", chance, told)
            except ledger.MemberCapExceeded:
                told["over the cap"] += 1
            except ledger.InsufficientAllocation:
                told["refused"] += 1
            except ledger.InstitutionShareExceeded:
                told["over the share"] += 1
            except ledger.LedgerError:
                told["ended"] += 1
            except IntegrityError:  # a CHECK constraint: the last line of defence must never be needed
                told["overdrafts"] += 1
        return told

    def live(self, reference: str, chance: random.Random, told: Counter[str]) -> None:
        """Now or a day later: expire, transfer, grant, or hold and then keep, cancel or settle."""
        at = NOW + timedelta(days=chance.choice((0, 0, 0, 1)))
        kind = chance.random()
        if kind < 0.1:
            told["expired"] += ledger.expire(allocation_id=self.rows[0].pk, at=NOW + timedelta(days=1)) > 0
        elif kind < 0.2:
            self.transfer(reference, chance, at)
            told["transferred"] += 1
        elif kind < 0.25:
            period = {"start_at": NOW, "end_at": NOW + timedelta(days=7)}
            common = {"at": at, "actor": None, "reason": "", "resource_class_id": self.resource_class.pk}
            ledger.grant(project_id=self.other.pk, amount_s=chance.randint(1, 7200), **period, **common)
            told["granted"] += 1
        else:
            self.run_job(reference, chance, told, at)

    def transfer(self, reference: str, chance: random.Random, at: object) -> None:
        ledger.transfer(
            from_allocation_id=chance.choice(self.rows).pk,
            to_project_id=self.other.pk,
            amount_s=chance.randint(1, 7200),
            reference=reference,
            act=Act(actor=None, at=at, source=ActSource.COMMAND),
            reason="",
        )

    def run_job(self, reference: str, chance: random.Random, told: Counter[str], at: object) -> None:
        amount_s = chance.randint(1, 4 * 3600)
        ledger.reserve(
            project_id=self.project.pk,
            resource_class_id=self.resource_class.pk,
            reference=reference,
            amount_s=amount_s,
            at=at,
            person_id=chance.choice(self.members).pk,
        )
        told["held"] += 1
        end = chance.random()
        if end < 0.3:
            ledger.release(reference=reference, at=at)
            told["cancelled"] += 1
        elif end < 0.8:
            # Never beyond the hold: what a job uses beyond it is charged past a member's cap, by design.
            ledger.settle(reference=reference, amount_s=chance.randint(0, amount_s), at=at)
            told["settled"] += 1

    def check(self) -> Counter[str]:
        found: Counter[str] = Counter()
        rows = Allocation.objects.filter(project__institution=self.project.institution)
        found["overdrafts"] = sum(row.available_s < 0 for row in rows)
        found["shares broken"] = sum(row.granted_s for row in rows) > self.share_s
        taken = LedgerEntry.objects.filter(person=self.members[0], allocation__in=rows.active(NOW + timedelta(days=1)))
        sums = taken.aggregate(held=Sum("reserved_delta_s"), used=Sum("used_delta_s"))
        found["caps broken"] = (sums["held"] or 0) + (sums["used"] or 0) > self.cap_s
        moved = LedgerEntry.objects.filter(kind=LedgerKind.TRANSFER, allocation__in=rows).values("reference")
        found["unbalanced transfers"] = sum(row["sum"] != 0 for row in moved.annotate(sum=Sum("granted_delta_s")))
        return found


def leave(barrier: threading.Barrier) -> None:
    barrier.wait()
    connection.close()


def test_nobody_overspends_in_a_race_for_the_last_hours() -> None:
    totals: Counter[str] = Counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        for number in range(ROUNDS):
            field = Field(f"{SEED}-{number}")
            for told in pool.map(field.client, range(CLIENTS)):
                totals.update(told)
            totals.update(field.check())
        last = threading.Barrier(CLIENTS)
        list(pool.map(leave, [last] * CLIENTS))
    print(f"\n{ROUNDS} rounds of {CLIENTS} clients, seed {SEED}: {dict(totals)}")
    assert ledger.find_mismatches() == []
    broken = ("overdrafts", "shares broken", "caps broken", "unbalanced transfers")
    assert {name: totals[name] for name in broken} == dict.fromkeys(broken, 0)
    raced = ("held", "refused", "cancelled", "settled", "transferred", "expired", "over the cap", "over the share")
    assert ROUNDS < 10 or all(totals[name] for name in raced), totals
