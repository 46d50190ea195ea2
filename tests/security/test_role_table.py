"""Role × action × ownership, for every page and endpoint: each cell of `role_table` is really asked for."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import transaction
from django.test import Client, override_settings
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from knox.models import AuthToken

from tests.security.role_table import BACK_OFFICE, BORROWED, PARAMETERS, PEOPLE, ROWS, Row
from tests.security.role_world import World, make_world

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_PARAMETER = re.compile(r"<\w+:(\w+)>")


def walk(patterns: list[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and path template of each route; those of the back-office have a sweep of their own."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            if pattern.namespace != "admin":
                yield from walk(pattern.url_patterns, prefix + str(pattern.pattern))
        elif isinstance(pattern, URLPattern):
            yield str(pattern.name), prefix + str(pattern.pattern)


ROUTES = {name: path for name, path in walk(get_resolver().url_patterns) if name not in BORROWED}


@pytest.fixture(scope="module")
def one_world(django_db_setup: None, django_db_blocker: Any) -> Iterator[tuple[World, dict[str, "Caller"]]]:
    """Made once for all rows, for it takes longer than they do; never committed."""
    cache = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "roles"}}
    with django_db_blocker.unblock(), override_settings(CACHES=cache), transaction.atomic():
        world = make_world()
        yield world, {person: Caller(world, person) for person in PEOPLE}
        transaction.set_rollback(True)


@pytest.fixture
def callers(one_world: tuple[World, dict[str, "Caller"]], db: None) -> dict[str, "Caller"]:
    """One client for each person, in a world that is as it was made: `db` takes back what a test does."""
    return one_world[1]


class Caller:
    """Asks for pages and endpoints as one person. With `is_undone`, what the request does is taken back."""

    def __init__(self, world: World, person: str) -> None:
        self.world = world
        self.client = Client()
        self.headers: dict[str, str] = {}
        if (user := world.people.get(person)) is not None:
            self.client.force_login(user)
            _token, key = AuthToken.objects.create(user=user, expiry=timedelta(hours=1))
            self.headers["Authorization"] = f"Bearer {key}"

    def ask(self, name: str, method: str, row: Row | None = None, *, is_undone: bool = False) -> int:
        """The status; 401 on pages, too, for who has to sign in first."""
        data = row.data(self.world) if row and row.data else {}
        path = address(self.world, name, row)
        with transaction.atomic():
            if path.startswith("/api/"):
                answer = Client().generic(method, path, *_body(method, data), headers=self.headers)
            else:
                answer = getattr(self.client, method.lower())(path, data)
            if getattr(answer, "streaming", False):
                b"".join(answer.streaming_content)  # type: ignore[attr-defined]
            transaction.set_rollback(is_undone)
        status: int = answer.status_code
        return 401 if status == 302 and reverse("account_login") in answer["Location"] else status


def _body(method: str, data: Any) -> tuple[bytes, str]:
    if method == "GET":
        return b"", "application/json"
    return json.dumps(data).encode(), "application/json"


def address(world: World, name: str, row: Row | None = None) -> str:
    makers = {**PARAMETERS, **(row.path if row else {})}
    found = _PARAMETER.findall(ROUTES[name])
    assert set(found) <= set(makers), "a kind of path parameter that PARAMETERS doesn't know"
    path = _PARAMETER.sub(lambda match: str(makers[match.group(1)](world)), ROUTES[name])
    return f"/{path}{row.query if row else ''}"


def fingerprint() -> str:
    """All that the portal holds, but for when people were last there."""
    digest = hashlib.sha256()
    for model in (*apps.get_app_config("accounts").get_models(), *apps.get_app_config("jobs").get_models()):
        names = [field.attname for field in model._meta.concrete_fields if field.attname != "last_login"]
        for values in model._default_manager.order_by("pk").values_list(*names):
            digest.update(repr((model.__name__, values)).encode())
    return digest.hexdigest()


def test_the_table_has_every_route_and_no_other() -> None:
    assert set(ROUTES) == {row.name for row in ROWS}
    assert len(ROWS) == len({(row.name, row.method) for row in ROWS})
    assert all(row.who <= set(PEOPLE) and set(row.others) <= set(PEOPLE) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method}-{row.name}")
def test_each_person_may_do_what_the_table_says(callers: dict[str, Caller], row: Row) -> None:
    before = fingerprint()
    for person, caller in callers.items():
        allowed = row.allowed(person)
        status = caller.ask(row.name, row.method, row, is_undone=allowed is not None and row.method != "GET")
        if allowed is not None:
            assert status in allowed, f"{person} got {status}, and should get {allowed}"
        else:
            refusal = row.others.get(person, 401 if person == "anonymous" else row.refused)
            assert status == refusal, f"{person} got {status}, and should be refused with {refusal}"
    assert fingerprint() == before, "what only reads, or was refused, changed something"


def test_a_method_that_is_not_in_the_table_does_nothing(callers: dict[str, Caller]) -> None:
    taken = {(row.name, row.method) for row in ROWS}
    before = fingerprint()
    for row in {row.name: row for row in ROWS}.values():
        for method in METHODS:
            for person in ("anonymous", "pi", "auditor", "administrator") if (row.name, method) not in taken else ():
                status = callers[person].ask(row.name, method, dataclasses.replace(row, query=""))
                allowed = (401, 405) if person == "anonymous" else (405, 404)
                assert status in allowed, f"{method} {row.name} by {person}: {status}"
    assert fingerprint() == before


def test_an_auditor_changes_nothing_of_anybody_else() -> None:
    for row in ROWS:
        if row.method != "GET" and not row.is_own:
            assert "auditor" not in row.who, f"{row.method} {row.name}"
            assert "reviewer" not in row.who or row.name.startswith(("request-", "api-request", "job-decide")), row.name


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.method != "GET" and not row.name.startswith("api-")], ids=lambda row: row.name
)
def test_no_post_of_a_page_counts_without_its_token(callers: dict[str, Caller], row: Row) -> None:
    world = callers["administrator"].world
    path = address(world, row.name, row)
    client = Client(enforce_csrf_checks=True)
    client.force_login(world.people["administrator"])
    before = fingerprint()
    assert client.post(path, row.data(world) if row.data else {}).status_code == 403
    assert fingerprint() == before


# --- The back-office -------------------------------------------------------------------------------------------------


def test_the_table_has_every_model_of_the_back_office() -> None:
    registered = {model._meta.label_lower for model in admin.site._registry}
    assert registered == BACK_OFFICE


@pytest.mark.parametrize("label", sorted(BACK_OFFICE))
def test_the_back_office_is_closed_to_all_but_administrators_with_the_permission(
    callers: dict[str, Caller], label: str
) -> None:
    before = fingerprint()
    for page in ("changelist", "add"):
        url = reverse(f"admin:{label.replace('.', '_')}_{page}")
        for person, caller in callers.items():
            for method in ("get", "post"):
                status = getattr(caller.client, method)(url).status_code
                assert status == (403 if person == "administrator" else 302), (page, person, method)
    assert fingerprint() == before
