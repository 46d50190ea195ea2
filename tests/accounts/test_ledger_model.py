"""The ledger against a model of thirty lines: whatever is called in whatever order, both say the same."""

from datetime import timedelta

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from accounts.models import Allocation, LedgerEntry
from accounts.services import ledger
from tests.factories import NOW, make_allocation, make_project, make_resource_class

pytestmark = pytest.mark.django_db

REFERENCES = st.sampled_from([f"job-{number}" for number in range(6)])
AMOUNTS = st.integers(1, 120)


class LedgerMachine(RuleBasedStateMachine):
    """`grants` are lists of [expiry day, granted, used]; `holds` say what a reference holds of which grant."""

    @initialize(grants=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 200)), min_size=1, max_size=3))
    def begin(self, grants: list[tuple[int, int]]) -> None:
        self.project, self.resource_class = make_project(), make_resource_class()
        self.now = NOW
        self.grants = {}
        for day, amount_s in grants:
            row = make_allocation(
                self.project, self.resource_class, hours=amount_s / 3600, end_at=NOW + timedelta(days=day)
            )
            self.grants[row.pk] = {"end": row.end_at, "granted": amount_s, "used": 0}
        self.holds: dict[str, dict[int, int]] = {}
        self.done: dict[str, int] = {}

    def order(self) -> list[int]:
        return sorted(self.grants, key=lambda pk: (self.grants[pk]["end"], pk))

    def free(self, pk: int) -> int:
        held = sum(parts.get(pk, 0) for parts in self.holds.values())
        return self.grants[pk]["granted"] - self.grants[pk]["used"] - held

    @rule(reference=REFERENCES, amount_s=AMOUNTS)
    def reserve(self, reference: str, amount_s: int) -> None:
        if reference in self.holds or reference in self.done:
            return
        active = [pk for pk in self.order() if self.grants[pk]["end"] > self.now]
        call = {
            "project_id": self.project.pk,
            "resource_class_id": self.resource_class.pk,
            "reference": f"{self.project.pk}-{reference}",
            "amount_s": amount_s,
            "at": self.now,
        }
        if sum(map(self.free, active)) < amount_s:
            with pytest.raises(ledger.InsufficientAllocation):
                ledger.reserve(**call)
            return
        ledger.reserve(**call)
        parts = {}
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
        charged = 0
        for pk in self.order():
            part = min(used_s - charged, parts.get(pk, 0))
            self.grants[pk]["used"] += part
            charged += part
        for pk in self.order():
            if self.grants[pk]["end"] > self.now or parts.get(pk):
                part = min(used_s - charged, self.free(pk))
                self.grants[pk]["used"] += part
                charged += part
        assert ledger.settle(**call) == ledger.Settlement(charged_s=charged, shortfall_s=used_s - charged)
        self.done[reference] = charged

    @rule(reference=REFERENCES)
    def release(self, reference: str) -> None:
        held = sum(self.holds.pop(reference, {}).values())
        if held:
            self.done[reference] = 0
        assert ledger.release(reference=f"{self.project.pk}-{reference}", at=self.now) == held

    @rule(days=st.integers(1, 2))
    def let_time_pass(self, days: int) -> None:
        self.now += timedelta(days=days)
        for pk, grant in self.grants.items():
            left = max(self.free(pk), 0) if grant["end"] <= self.now else 0
            assert ledger.expire(allocation_id=pk, at=self.now) == left
            grant["granted"] -= left

    @invariant()
    def the_database_agrees(self) -> None:
        if not hasattr(self, "holds"):
            return
        for row in Allocation.objects.filter(pk__in=self.grants):
            held = sum(parts.get(row.pk, 0) for parts in self.holds.values())
            grant = self.grants[row.pk]
            assert (row.granted_s, row.reserved_s, row.used_s) == (grant["granted"], held, grant["used"])

    def teardown(self) -> None:
        assert ledger.find_mismatches() == []
        assert LedgerEntry.objects.exists()


def test_the_ledger_agrees_with_its_model() -> None:
    run_state_machine_as_test(
        LedgerMachine, settings=hypothesis_settings(max_examples=25, stateful_step_count=20, deadline=None)
    )
