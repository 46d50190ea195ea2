"""The ledger against a small model: whatever is called in whatever order, both say the same."""

from datetime import timedelta

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from accounts.models import ActSource, Allocation, InstitutionShare, LedgerEntry, MemberCap, Membership
from accounts.services import ledger
from accounts.services.acts import Act
from tests.factories import NOW, make_project, make_resource_class, make_user

pytestmark = pytest.mark.django_db

REFERENCES = st.sampled_from([f"job-{number}" for number in range(6)])
AMOUNTS = st.integers(1, 120)


class LedgerMachine(RuleBasedStateMachine):
    """Two projects of one institution; jobs run in the first.

    `grants` say of an allocation whose it is and what it has; `holds` what a job's reference holds of which;
    `share_s` and `cap_s` are the limits of the institution and of the only member.
    """

    @initialize(
        grants=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 200)), min_size=1, max_size=3),
        spare_s=st.integers(0, 150),
        cap_s=st.integers(50, 300),
    )
    def begin(self, grants: list[tuple[int, int]], spare_s: int, cap_s: int) -> None:
        self.member = make_user()
        self.project = make_project(members=(self.member,))
        self.other = make_project(institution=self.project.institution)
        self.resource_class = make_resource_class()
        self.now, self.number = NOW, 0
        self.grants: dict[int, dict] = {}
        self.holds: dict[str, dict[int, int]] = {}
        self.done: dict[str, dict[int, int]] = {}
        self.moves: list[tuple[str, int, int, int]] = []
        self.share_s, self.cap_s = sum(amount for _, amount in grants) + spare_s, cap_s
        InstitutionShare.objects.create(
            institution=self.project.institution,
            resource_class=self.resource_class,
            amount_s=self.share_s,
            start_at=NOW - timedelta(days=1),
            end_at=NOW + timedelta(days=100),
        )
        MemberCap.objects.create(membership=Membership.objects.get(user=self.member), cap_s=cap_s)
        for day, amount_s in grants:
            self.grant(day, amount_s)

    def act(self) -> Act:
        self.number += 1
        return Act(actor=None, at=self.now, source=ActSource.COMMAND)

    def spendable(self) -> list[int]:
        """The first project's current allocations in the order that they are spent."""
        rows = [pk for pk, row in self.grants.items() if row["project"] == self.project.pk and row["end"] > self.now]
        return sorted(rows, key=lambda pk: (self.grants[pk]["end"], pk))

    def free(self, pk: int) -> int:
        held = sum(parts.get(pk, 0) for parts in self.holds.values())
        return self.grants[pk]["granted"] - self.grants[pk]["used"] - held

    def expire_what_ended(self) -> None:
        for pk, row in self.grants.items():
            if row["end"] <= self.now:
                row["granted"] -= max(self.free(pk), 0)

    @rule(day=st.integers(1, 5), amount_s=AMOUNTS)
    def grant(self, day: int, amount_s: int) -> None:
        end_at = self.now + timedelta(days=day)
        call = {
            "project_id": self.project.pk,
            "resource_class_id": self.resource_class.pk,
            "amount_s": amount_s,
            "start_at": NOW,
            "end_at": end_at,
            "at": self.now,
            "actor": None,
            "reason": "",
        }
        if sum(row["granted"] for row in self.grants.values()) + amount_s > self.share_s:
            with pytest.raises(ledger.InstitutionShareExceeded):
                ledger.grant(**call)
            return
        pk = ledger.grant(**call).pk
        self.grants[pk] = {"project": self.project.pk, "end": end_at, "granted": amount_s, "used": 0}

    @rule(reference=REFERENCES, amount_s=AMOUNTS)
    def reserve(self, reference: str, amount_s: int) -> None:
        if reference in self.holds or reference in self.done:
            return
        active = self.spendable()
        call = {
            "project_id": self.project.pk,
            "resource_class_id": self.resource_class.pk,
            "reference": f"{self.project.pk}-{reference}",
            "amount_s": amount_s,
            "at": self.now,
            "person_id": self.member.pk,
        }
        if sum(map(self.free, active)) < amount_s:
            with pytest.raises(ledger.InsufficientAllocation):
                ledger.reserve(**call)
            return
        parts_of_all = [*self.holds.values(), *self.done.values()]
        if sum(parts.get(pk, 0) for parts in parts_of_all for pk in active) + amount_s > self.cap_s:
            with pytest.raises(ledger.MemberCapExceeded):
                ledger.reserve(**call)
            return
        ledger.reserve(**call)
        parts: dict[int, int] = {}
        for pk in active:
            parts[pk] = min(amount_s - sum(parts.values()), self.free(pk))
        self.holds[reference] = parts

    @rule(reference=REFERENCES, used_s=st.integers(0, 150))
    def settle(self, reference: str, used_s: int) -> None:
        call = {"reference": f"{self.project.pk}-{reference}", "amount_s": used_s, "at": self.now}
        if reference not in self.holds:
            if reference not in self.done:
                with pytest.raises(ledger.UnknownReservation):
                    ledger.settle(**call)
            return
        parts = self.holds.pop(reference)
        rows = {pk for pk, part in parts.items() if part} | set(self.spendable())
        order = sorted(rows, key=lambda pk: (self.grants[pk]["end"], pk))
        paid = dict.fromkeys(order, 0)
        for limit in (lambda pk: parts.get(pk, 0), self.free):
            for pk in order:
                part = min(used_s - sum(paid.values()), limit(pk))
                self.grants[pk]["used"] += part
                paid[pk] += part
        self.expire_what_ended()
        charged = sum(paid.values())
        assert ledger.settle(**call) == ledger.Settlement(charged_s=charged, shortfall_s=used_s - charged)
        self.done[reference] = paid

    @rule(reference=REFERENCES)
    def release(self, reference: str) -> None:
        held = sum(self.holds.pop(reference, {}).values())
        if held:
            self.done[reference] = {}
            self.expire_what_ended()
        assert ledger.release(reference=f"{self.project.pk}-{reference}", at=self.now) == held

    @rule(amount_s=AMOUNTS)
    def transfer(self, amount_s: int) -> None:
        act = self.act()
        for pk in self.spendable()[:1]:
            call = {
                "from_allocation_id": pk,
                "to_project_id": self.other.pk,
                "amount_s": amount_s,
                "reference": f"{self.project.pk}-move-{self.number}",
                "act": act,
                "reason": "",
            }
            if self.free(pk) < amount_s:
                with pytest.raises(ledger.InsufficientAllocation):
                    ledger.transfer(**call)
                return
            to = ledger.transfer(**call).pk
            blank = {"project": self.other.pk, "end": self.grants[pk]["end"], "granted": 0, "used": 0}
            self.grants.setdefault(to, blank)
            self.grants[pk]["granted"] -= amount_s
            self.grants[to]["granted"] += amount_s
            self.moves.append((call["reference"], pk, to, amount_s))

    @rule()
    def reverse_the_last_transfer(self) -> None:
        if not self.moves:
            return
        reference, source, to, amount_s = self.moves[-1]
        entry = LedgerEntry.objects.filter(kind="TRANSFER", reference=reference).first()
        assert entry is not None
        call = {"entry_id": entry.pk, "act": self.act(), "reason": ""}
        if self.free(to) < amount_s:
            with pytest.raises(ledger.InsufficientAllocation):
                ledger.reverse(**call)
            return
        self.moves.pop()
        for _ in range(2):
            ledger.reverse(**call)
        self.grants[source]["granted"] += amount_s
        self.grants[to]["granted"] -= amount_s
        self.expire_what_ended()

    @rule(days=st.integers(1, 2))
    def let_time_pass(self, days: int) -> None:
        self.now += timedelta(days=days)
        for pk, row in self.grants.items():
            left = max(self.free(pk), 0) if row["end"] <= self.now else 0
            assert ledger.expire(allocation_id=pk, at=self.now) == left
        self.expire_what_ended()

    @invariant()
    def the_database_agrees(self) -> None:
        if not hasattr(self, "holds"):
            return
        for row in Allocation.objects.filter(pk__in=self.grants):
            held = sum(parts.get(row.pk, 0) for parts in self.holds.values())
            grant = self.grants[row.pk]
            assert (row.granted_s, row.reserved_s, row.used_s) == (grant["granted"], held, grant["used"])
        assert sum(row["granted"] for row in self.grants.values()) <= self.share_s

    def teardown(self) -> None:
        assert ledger.find_mismatches() == []
        assert LedgerEntry.objects.exists()


def test_the_ledger_agrees_with_its_model() -> None:
    run_state_machine_as_test(
        LedgerMachine, settings=hypothesis_settings(max_examples=25, stateful_step_count=20, deadline=None)
    )
