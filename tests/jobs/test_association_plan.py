"""From any state of a cluster's accounting to the wanted one, and never a hand on what is somebody else's."""

from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from jobs.backends.associations import (
    AssociationState,
    Change,
    ChangeKind,
    Qos,
    SlurmAccount,
    SlurmUser,
    UserAssociation,
)
from jobs.backends.dummy_associations import DummyAssociations
from jobs.services.association_plan import (
    Plan,
    Wanted,
    WantedAccount,
    WantedQos,
    WantedUser,
    depends_on,
    make_plan,
)

ACCOUNTS = ("nlp", "vision", "speech", "theory")
USERS = ("lin", "zhao", "sun")
QOS = ("tp_standard", "tp_user-lin")

limit = st.none() | st.integers(0, 9)
limits = st.fixed_dictionaries({}, optional={name: st.integers(0, 9) for name in ("GrpJobs", "GrpTRES:gres/gpu")})


@st.composite
def wanted_states(draw: st.DrawFn) -> Wanted:
    is_qos_managed = draw(st.booleans())
    qos_names = draw(st.sets(st.sampled_from(QOS))) if is_qos_managed else set()
    a_qos = st.sampled_from(["", *sorted(qos_names)])
    accounts = []
    for name in draw(st.sets(st.sampled_from(ACCOUNTS))):
        users = [
            WantedUser(name=user, limits={"MaxWall": draw(limit)}, qos=draw(a_qos))
            for user in draw(st.sets(st.sampled_from(USERS)))
        ]
        wanted_limits = {"GrpJobs": draw(limit), "GrpTRES:gres/gpu": draw(limit)}
        accounts.append(
            WantedAccount(name=name, project=name, users=tuple(users), limits=wanted_limits, qos=draw(a_qos))
        )
    return Wanted(
        accounts=tuple(accounts),
        qos=tuple(WantedQos(name=name, limits={"MaxJobsPerUser": draw(limit)}) for name in sorted(qos_names)),
        is_qos_managed=is_qos_managed,
    )


@st.composite
def actual_states(draw: st.DrawFn) -> AssociationState:
    accounts = {"root": SlurmAccount(name="root", is_marked=False)}
    for name in draw(st.sets(st.sampled_from((*ACCOUNTS, "physics")))):
        is_here = draw(st.booleans())
        accounts[name] = SlurmAccount(
            name=name,
            is_marked=draw(st.booleans()),
            is_here=is_here,
            parent=draw(st.sampled_from(("root", "physics", "nlp"))) if is_here else "",
            limits=draw(limits) | draw(st.sampled_from([{}, {"GrpSubmitJobs": 0}])) if is_here else {},
            qos=draw(st.sampled_from([(), ("normal",), ("tp_standard",)])) if is_here else (),
        )
    associations = {}
    for _ in range(draw(st.integers(0, 6))):
        here = sorted(name for name, account in accounts.items() if account.is_here)
        item = UserAssociation(
            account=draw(st.sampled_from(here)),
            user=draw(st.sampled_from((*USERS, "guest"))),
            partition=draw(st.sampled_from(("", "", "gpu"))),
            limits=draw(st.sampled_from([{}, {"MaxSubmitJobs": 0}, {"MaxWall": 5}])),
        )
        associations[item.account, item.user, item.partition] = item
    users = {
        item.user: SlurmUser(
            name=item.user,
            admin_level=draw(st.sampled_from(("None", "None", "Operator"))),
            default_account=draw(st.sampled_from(sorted(accounts))),
        )
        for item in associations.values()
    }
    qos = {name: Qos(name=name, is_marked=draw(st.booleans())) for name in draw(st.sets(st.sampled_from(QOS)))}
    return AssociationState(
        accounts=accounts,
        associations=tuple(associations.values()),
        qos={**qos, "normal": Qos(name="normal", is_marked=False)},
        users=users,
    )


def some_of(state: AssociationState) -> st.SearchStrategy[frozenset[tuple[str, str]]]:
    """Which associations the portal made: some of those in marked accounts."""
    pairs = sorted({(a.account, a.user) for a in state.associations if state.accounts[a.account].is_marked})
    return st.frozensets(st.sampled_from(pairs)) if pairs else st.just(frozenset())


def carry_out(plan: Plan, state: AssociationState) -> DummyAssociations:
    admin = DummyAssociations("dummy", {})
    admin.state = state
    for change in plan.changes:
        admin.apply(change, mark="training-portal", parent_account="root")
    return admin


def owned_after(owned: frozenset[tuple[str, str]], plan: Plan) -> frozenset[tuple[str, str]]:
    added = {(c.account, c.user) for c in plan.changes if c.kind is ChangeKind.ADD_USER}
    removed = {(c.account, c.user) for c in plan.changes if c.kind is ChangeKind.REMOVE_USER}
    return (owned | added) - removed


@given(st.data(), wanted_states(), actual_states())
def test_a_plan_carried_out_leaves_nothing_to_do(data: st.DataObject, wanted: Wanted, actual: AssociationState) -> None:
    owned = data.draw(some_of(actual))
    plan = make_plan(wanted, actual, owned)
    again = make_plan(wanted, carry_out(plan, actual).state, owned_after(owned, plan))
    assert again.changes == ()


@given(st.data(), wanted_states(), actual_states())
def test_deleting_comes_to_an_end_from_the_leaves_upwards(
    data: st.DataObject, wanted: Wanted, actual: AssociationState
) -> None:
    owned, state = data.draw(some_of(actual)), actual
    for _ in actual.accounts:
        plan = make_plan(wanted, state, owned, delete_closed=True)
        state, owned = carry_out(plan, state).state, owned_after(owned, plan)
    assert make_plan(wanted, state, owned, delete_closed=True).changes == ()


@given(st.data(), wanted_states(), actual_states(), st.booleans())
def test_what_is_not_the_portals_is_as_it_was(
    data: st.DataObject, wanted: Wanted, actual: AssociationState, delete: bool
) -> None:
    owned = data.draw(some_of(actual))
    after = carry_out(make_plan(wanted, actual, owned, delete_closed=delete), actual).state
    for name, account in actual.accounts.items():
        if not account.is_marked:
            assert after.accounts.get(name) == account
    for name, qos in actual.qos.items():
        if not qos.is_marked:
            assert after.qos.get(name) == qos
    foreign = {item for item in map(_key, actual.associations) if item[:2] not in owned}
    before, now = _by_key(actual), _by_key(after)
    assert {key: now.get(key) for key in foreign} == {key: before[key] for key in foreign}
    assert {user for user in actual.users if actual.users[user].admin_level != "None"} <= set(after.users)


@given(st.data(), wanted_states(), actual_states())
def test_a_plan_that_was_cut_off_is_finished_by_the_next(
    data: st.DataObject, wanted: Wanted, actual: AssociationState
) -> None:
    owned = data.draw(some_of(actual))
    plan = make_plan(wanted, actual, owned)
    cut = data.draw(st.integers(0, len(plan.changes)))
    first = Plan(changes=plan.changes[:cut])
    midway = carry_out(first, actual).state
    second = make_plan(wanted, midway, owned_after(owned, first))
    at_once, in_two = carry_out(plan, actual).state, carry_out(second, midway).state
    assert _by_key(at_once) == _by_key(in_two)
    assert (at_once.accounts, at_once.qos) == (in_two.accounts, in_two.qos)


@given(st.data(), wanted_states(), actual_states())
def test_wanted_members_are_in_and_former_ones_out(
    data: st.DataObject, wanted: Wanted, actual: AssociationState
) -> None:
    owned = data.draw(some_of(actual))
    plan = make_plan(wanted, actual, owned)
    after = carry_out(plan, actual).state
    left_alone = {finding.target for finding in plan.findings}
    for account in wanted.accounts:
        if account.name in left_alone:
            continue
        wanted_users = {user.name for user in account.users}
        users = {item.user for item in after.associations if item.account == account.name}
        assert wanted_users <= users
        assert {f"{account.name}/{user}" for user in users - wanted_users} <= left_alone
        assert "GrpSubmitJobs" not in after.accounts[account.name].limits
    for name, found in after.accounts.items():
        if found.is_marked and found.is_here and name not in {account.name for account in wanted.accounts}:
            assert found.limits["GrpSubmitJobs"] == 0


def in_step(**changes: Any) -> AssociationState:
    """One account of the portal's with one member."""
    account = SlurmAccount(name="nlp", is_marked=True, parent="root")
    return AssociationState(
        **{
            "accounts": {"root": SlurmAccount(name="root", is_marked=False), "nlp": account},
            "associations": (UserAssociation(account="nlp", user="lin"),),
            "users": {"lin": SlurmUser(name="lin", default_account="nlp")},
            **changes,
        }
    )


OWNED = frozenset({("nlp", "lin")})


def project(*users: str, name: str = "nlp", limits: Mapping[str, int | None] | None = None) -> WantedAccount:
    return WantedAccount(
        name=name, project=name, users=tuple(WantedUser(name=user) for user in users), limits=limits or {}
    )


def codes(plan: Plan) -> list[tuple[str, str]]:
    return [(finding.code, finding.target) for finding in plan.findings]


def kinds(plan: Plan) -> list[ChangeKind]:
    return [change.kind for change in plan.changes]


def test_a_member_who_left_is_stopped_before_the_association_goes() -> None:
    plan = make_plan(Wanted(accounts=(project(),)), in_step(), OWNED)
    assert kinds(plan) == [ChangeKind.SET_USER, ChangeKind.REMOVE_USER]
    assert [(s.name, s.before, s.after) for s in plan.changes[0].settings] == [("MaxSubmitJobs", None, 0)]


def test_a_member_who_comes_back_may_submit_again() -> None:
    stopped = UserAssociation(account="nlp", user="lin", limits={"MaxSubmitJobs": 0})
    plan = make_plan(Wanted(accounts=(project("lin"),)), in_step(associations=(stopped,)), OWNED)
    assert kinds(plan) == [ChangeKind.SET_USER]
    assert [(s.name, s.before, s.after) for s in plan.changes[0].settings] == [("MaxSubmitJobs", 0, None)]


def test_an_account_of_somebody_elses_with_a_projects_name_is_left_alone_with_all_in_it() -> None:
    foreign = {"nlp": SlurmAccount(name="nlp", is_marked=False)}
    plan = make_plan(Wanted(accounts=(project("zhao"),)), in_step(accounts=foreign), frozenset())
    assert plan.changes == ()
    assert codes(plan) == [("foreign_account", "nlp")]


def test_a_user_whom_an_operator_put_into_the_portals_account_stays() -> None:
    plan = make_plan(Wanted(accounts=(project(),)), in_step(), frozenset())
    assert plan.changes == ()
    assert codes(plan) == [("foreign_association", "nlp/lin")]


def test_an_account_that_two_projects_want_is_neither_changed_nor_closed() -> None:
    plan = make_plan(Wanted(kept=frozenset({"nlp"})), in_step(), OWNED)
    assert plan.changes == ()


def test_a_closed_project_keeps_its_account_but_nothing_new_starts() -> None:
    plan = make_plan(Wanted(), in_step(), OWNED)
    assert kinds(plan) == [ChangeKind.SET_ACCOUNT]
    assert [(s.name, s.after) for s in plan.changes[0].settings] == [("GrpSubmitJobs", 0)]


def test_a_closed_account_is_deleted_when_asked_and_only_if_nothing_else_is_in_it() -> None:
    everything = [
        ChangeKind.SET_ACCOUNT,
        ChangeKind.SET_USER,
        ChangeKind.REMOVE_USER,
        ChangeKind.REMOVE_ACCOUNT,
    ]
    assert kinds(make_plan(Wanted(), in_step(), OWNED, delete_closed=True)) == everything
    guest = (*in_step().associations, UserAssociation(account="nlp", user="guest"))
    plan = make_plan(Wanted(), in_step(associations=guest), OWNED, delete_closed=True)
    assert ChangeKind.REMOVE_ACCOUNT not in kinds(plan)
    below = {**in_step().accounts, "sub": SlurmAccount(name="sub", is_marked=False, parent="nlp")}
    plan = make_plan(Wanted(), in_step(accounts=below), OWNED, delete_closed=True)
    assert kinds(plan) == [ChangeKind.SET_ACCOUNT]
    assert codes(plan) == [("has_accounts_below", "nlp")]


def test_whoever_has_an_operators_rights_in_slurm_is_not_removed() -> None:
    users = {"lin": SlurmUser(name="lin", admin_level="Operator", default_account="nlp")}
    plan = make_plan(Wanted(accounts=(project(),)), in_step(users=users), OWNED)
    assert plan.changes == ()
    assert codes(plan) == [("administrator", "nlp/lin")]


def test_a_default_account_moves_before_its_association_goes() -> None:
    accounts = {**in_step().accounts, "vision": SlurmAccount(name="vision", is_marked=True, parent="root")}
    both = (*in_step().associations, UserAssociation(account="vision", user="lin"))
    wanted = Wanted(accounts=(project(), project("lin", name="vision")))
    plan = make_plan(wanted, in_step(accounts=accounts, associations=both), OWNED | {("vision", "lin")})
    assert kinds(plan) == [ChangeKind.SET_USER, ChangeKind.SET_DEFAULT_ACCOUNT, ChangeKind.REMOVE_USER]
    after = carry_out(plan, in_step(accounts=accounts, associations=both)).state
    assert after.users["lin"].default_account == "vision"


def test_limits_that_the_portal_does_not_set_are_left_to_operators() -> None:
    account = SlurmAccount(name="nlp", is_marked=True, limits={"GrpTRES:cpu": 100, "GrpJobs": 4})
    plan = make_plan(
        Wanted(accounts=(project("lin", limits={"GrpJobs": 4}),)), in_step(accounts={"nlp": account}), OWNED
    )
    assert plan.changes == ()


def test_what_depends_on_a_failed_change_is_not_tried() -> None:
    failed = [Change(kind=ChangeKind.ADD_ACCOUNT, account="nlp")]
    assert depends_on(Change(kind=ChangeKind.ADD_USER, account="nlp", user="lin"), failed)
    assert not depends_on(Change(kind=ChangeKind.ADD_USER, account="vision", user="lin"), failed)


def _key(item: UserAssociation) -> tuple[str, str, str]:
    return item.account, item.user, item.partition


def _by_key(state: AssociationState) -> dict[tuple[str, str, str], UserAssociation]:
    return {_key(item): item for item in state.associations}
