"""The document that describes the API is right, kept, and readable without any other site."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.management import call_command
from jsonschema import ValidationError
from openapi_schema_validator import OAS31Validator, validate
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.api.conftest import ApiClient, Site
from tests.factories import PASSWORD

KEPT = Path(settings.BASE_DIR) / "docs" / "openapi.yaml"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """As the command makes it, which fails on any warning."""
    path = tmp_path_factory.mktemp("openapi") / "openapi.yaml"
    call_command("spectacular", "--fail-on-warn", "--file", str(path))
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_the_kept_copy_is_up_to_date(document: dict[str, Any]) -> None:
    hint = "run: python manage.py spectacular --fail-on-warn --file docs/openapi.yaml"
    assert yaml.safe_load(KEPT.read_text(encoding="utf-8")) == document, hint


def test_each_operation_has_a_name_a_summary_a_tag_and_tells_of_problems(document: dict[str, Any]) -> None:
    names = []
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        names.append(operation["operationId"])
        assert operation["summary"], where
        assert operation["description"], where
        assert operation["tags"], where
        problem = operation["responses"]["default"]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}, where
    assert len(names) == len(set(names)) > 20


def test_whatever_is_not_public_asks_for_a_token(document: dict[str, Any]) -> None:
    public = {op["operationId"] for _path, _method, op in operations(document) if not op.get("security")}
    assert public == {"create_token", "get_problem_type"}


WORKLOAD = {"model": {"preset": "char-transformer-demo"}, "tokens": 10**6}
RUN = {"cluster": "dummy", "partition": "a800", "nodes": 1, "devices_per_node": 8, "workload": WORKLOAD}


def test_answers_are_as_the_document_says(site: Site, document: dict[str, Any]) -> None:
    api = site.api(site.owner)
    fresh, ended = site.submit(), site.submit(workload=WORKLOAD, entry={"kind": "command", "command": ["true"]})
    site.tick()
    site.backend.set_outcome(site.native_id(ended), elapsed_s=5)
    site.tick(1)
    site.tick(9)
    pi, staff = site.api(site.pi), site.api(site.staff)
    end = {"kind": "END_OF_PROJECT", "project": "nlp", "justification": "done"}

    def ask() -> str:
        return str(pi.post("requests", end).json()["uuid"])

    steps = {}
    steps["create_request"] = made = pi.post("requests", end)
    asked = made.json()["uuid"]
    steps["ask_back_request"] = staff.post(f"requests/{asked}/ask-back", {"words": "why?"})
    steps["answer_request"] = pi.post(f"requests/{asked}/answer", {"words": "so"})
    steps["withdraw_request"] = pi.post(f"requests/{asked}/withdraw")
    steps["reject_request"] = staff.post(f"requests/{ask()}/reject", {"reason": "no"})
    steps["list_requests"], steps["get_request"] = pi.get("requests"), pi.get(f"requests/{asked}")
    steps["add_member"] = pi.post("projects/nlp/members", {"person": site.stranger.username})
    path = f"projects/nlp/members/{site.stranger.username}"
    steps["change_member"] = pi.post(path, {"role": "MANAGER"})
    steps["list_members"], steps["list_audit"] = pi.get("projects/nlp/members"), pi.get("audit")
    assert len(steps["list_audit"].json()["results"]) >= 2
    assert pi.delete(path).status_code == 204
    answers = {
        **steps,
        "get_me": api.get("me"),
        "list_projects": api.get("projects"),
        "get_project": api.get("projects/nlp"),
        "list_allocations": api.get("allocations"),
        "get_allocation": api.get(f"allocations/{site.allocation.uuid}"),
        "list_ledger_entries": api.get(f"allocations/{site.allocation.uuid}/entries"),
        "list_clusters": api.get("clusters"),
        "list_partitions": api.get("partitions"),
        "list_presets": api.get("presets"),
        "list_accelerators": api.get("accelerators"),
        "estimate_run": api.post("estimates", {**RUN, "project": "nlp"}),
        "list_jobs": api.get("jobs"),
        "submit_job": api.post("jobs?validate_only=true", site.body(workload=WORKLOAD)),
        "get_job": api.get(f"jobs/{ended.pk}"),
        "report_usage": api.get("reports/usage"),
        "list_job_events": api.get(f"jobs/{ended.pk}/events"),
        "read_job_log": api.get(f"jobs/{fresh.pk}/log"),
        "read_job_metrics": api.get(f"jobs/{fresh.pk}/metrics"),
        "get_job_script": api.get(f"jobs/{fresh.pk}/script"),
        "cancel_job": api.post(f"jobs/{fresh.pk}/cancel"),
        "resubmit_job": api.post(f"jobs/{ended.pk}/resubmit"),
        "get_problem_type": api.get("problems/refused"),
        "create_token": api.post("auth/token", {"username": "lin", "password": PASSWORD}),
        # Last, since it ends the project.
        "approve_request": staff.post(f"requests/{ask()}/approve", {"reason": "done"}),
    }
    described = {operation["operationId"]: operation for _path, _method, operation in operations(document)}
    assert set(answers) == set(described) - {"revoke_token", "remove_member"}
    for name, answer in answers.items():
        content = described[name]["responses"][str(answer.status_code)]["content"]["application/json"]
        validate(answer.json(), {**content["schema"], "components": document["components"]}, cls=OAS31Validator)


def test_a_problem_is_as_the_document_says(site: Site, document: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    validate(site.api(site.owner).post("jobs", {"nodes": "x"}).json(), schema, cls=OAS31Validator)


def test_what_is_sent_is_as_the_document_says(site: Site, document: dict[str, Any]) -> None:
    for name, body in {"JobRequest": site.body(workload=WORKLOAD), "EstimateRequest": RUN}.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        validate(body, schema, cls=OAS31Validator)
        with pytest.raises(ValidationError):
            validate({**body, "colour": "red"}, schema, cls=OAS31Validator)


@pytest.mark.parametrize("name", ["openapi.json", "openapi.yaml"])
@pytest.mark.parametrize("query", ["", "?lang=zh-hans", "?lang=%00", "?version=%0d%0ax"])
def test_it_is_served_to_all_and_always_the_same(
    db: None, document: dict[str, Any], name: str, query: str, settings: Any
) -> None:
    answer = ApiClient().get(name + query, Accept_Language="zh-hans")
    assert answer.status_code == 200
    assert yaml.safe_load(answer.content) == document


@pytest.mark.parametrize("path", ["docs/", "redoc/"])
class TestReaders:
    def test_a_page_takes_everything_from_this_site(self, db: None, path: str) -> None:
        page = ApiClient().get(path, Accept="text/html")
        assert page["Content-Type"].startswith("text/html")
        addresses = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.content.decode())
        assert addresses
        for address in addresses:
            assert address.startswith("/"), address
            assert not address.startswith("//"), address
            if address.startswith("/static/"):
                assert finders.find(address.removeprefix("/static/")), address

    def test_its_policy_allows_nothing_from_elsewhere(self, db: None, path: str) -> None:
        policy = ApiClient().get(path)["Content-Security-Policy"]
        directives = dict(part.strip().split(" ", 1) for part in policy.split(";") if part.strip())
        assert directives["default-src"] == "'none'"
        assert directives["script-src"] == "'self'"
        assert "http" not in policy
        assert "unsafe-eval" not in policy

    def test_its_page_holds_no_inline_script(self, db: None, path: str) -> None:
        assert re.findall(r"<script(?![^>]*\bsrc=)", ApiClient().get(path).content.decode()) == []


def test_the_script_of_swagger_ui_is_served_by_the_page_itself(db: None) -> None:
    answer = ApiClient().get("docs/?script")
    assert answer["Content-Type"] == "application/javascript"
    assert b"/api/v1/openapi.json" in answer.content
