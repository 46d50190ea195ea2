"""The client and the command line before the real API, in this process; workers take their turns by hand."""

import inspect
import re
import stat
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from django.conf import settings
from django.utils import timezone
from knox.models import AuthToken

from jobs.models import Job
from portalctl.client import ApiProblem, PortalClient, models
from portalctl.profiles import load_profiles, profiles_file
from tests.api.conftest import Site
from tests.portalctl.conftest import URL, CommandLine, SignInByClient, Wrote

SPECIFICATION = yaml.safe_load((Path(settings.BASE_DIR) / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
SCHEMAS = SPECIFICATION["components"]["schemas"]
OTHER_NAMES = {"JobSummary": "JobSummary", "LogPiece": "Log"}
MODELS = {
    name: model
    for name, model in inspect.getmembers(models, inspect.isclass)
    if issubclass(model, models.Reply) and model not in (models.Reply, models.Page, models.Catalogue)
}
JOB = """\
project: nlp
cluster: dummy
partition: a800
name: train
devices_per_node: 8
time_limit_minutes: 60
entry:
  script: |
    #!/bin/bash
    echo hello
"""


# The types are those of the API


@pytest.mark.parametrize("name", MODELS)
def test_each_model_has_the_fields_of_the_api_and_the_same_may_be_null(name: str) -> None:
    schema = SCHEMAS[OTHER_NAMES.get(name, name)]
    fields = MODELS[name].model_fields
    assert set(fields) == set(schema["properties"])
    required = {field for field, info in fields.items() if info.is_required()}
    assert required - set(schema["required"]) == set(), "the API may leave these out"
    for field, described in schema["properties"].items():
        options = described.get("oneOf", [described])
        kinds = {
            kind
            for option in options
            for kind in ([option.get("type")] if isinstance(option.get("type"), str) else option.get("type") or [])
        }
        is_nullable = "null" in kinds or any("NullEnum" in option.get("$ref", "") for option in options)
        accepts_none = type(None) in getattr(fields[field].annotation, "__args__", ())
        assert accepts_none or not is_nullable, f"{field} may be null"


def test_each_call_of_the_api_has_a_method() -> None:
    sources = "".join(inspect.getsource(one) for _name, one in inspect.getmembers(PortalClient, inspect.isfunction))
    called = {re.sub(r"\{[^}]*}", "{}", path) for path in re.findall(r'"(/[a-z/{}_()\-=,\s\w\']*)"', sources)}
    known = {re.sub(r"\{[^}]*}", "{}", path.removeprefix("/api/v1")) for path in SPECIFICATION["paths"]}
    assert known - called == {"/problems/{}"}


def body(**fields: object) -> dict[str, object]:
    return {**yaml.safe_load(JOB), "nodes": 1, "entry": {"kind": "script", "script": "#!/bin/bash\necho\n"}, **fields}


def test_the_whole_way_of_a_job_by_the_client(site: Site, portal: PortalClient) -> None:
    assert [one.code for one in portal.me().projects] == ["nlp"]
    assert [one.code for one in portal.projects()] == ["nlp"]
    assert {one.username for one in portal.project("nlp").members} == {"chen", "lin", "wang"}
    assert [one.code for one in portal.clusters()] == ["dummy"]
    (partition,) = portal.partitions()
    assert (partition.cluster, partition.name) == ("dummy", "a800")
    assert "llama-2-7b" in {one.name for one in portal.presets()}
    assert portal.accelerators()
    (allocation,) = portal.allocations(project="nlp", active=True)
    assert portal.allocation(allocation.uuid).available_s == allocation.available_s

    assert {one.username for one in portal.members("nlp")} == {"chen", "lin", "wang"}
    assert portal.usage_report(group_by="user").results == []

    workload = {"model": {"preset": "llama-2-7b"}, "tokens": 10**9}
    place = {name: body()[name] for name in ("project", "cluster", "partition", "nodes", "devices_per_node")}
    quote = portal.estimate({**place, "workload": workload})
    assert quote.estimate.fits
    assert quote.quota.is_covered
    prepared = portal.prepare(body(workload=workload))
    assert prepared.estimate is not None
    assert Job.objects.count() == 0

    job = portal.submit(body(), idempotency_key="run-a")
    assert portal.submit(body(), idempotency_key="run-a").id == job.id
    assert portal.script(job.id).script.startswith("#!/bin/bash")
    site.tick()
    site.tick(5)
    site.backend.write_output(site.native_id(Job.objects.get()), "你好\n".encode())
    site.backend.write_output(site.native_id(Job.objects.get()), b'{"step": 1, "loss": 4.2}\n', file="metrics")
    site.tick(1)
    assert portal.job(job.id).state == "RUNNING"
    assert portal.log(job.id).text == "你好\n"
    assert portal.metrics(job.id).points == [{"step": 1.0, "loss": 4.2}]
    assert [one.id for one in portal.jobs(state=["RUNNING"], user="lin", name_contains="tra", unfinished=True)] == [
        job.id
    ]
    assert list(portal.jobs(submitted_before=timezone.now() - timedelta(hours=1))) == []
    assert portal.cancel(job.id).cancel_requested_at is not None
    site.tick(5)
    site.tick(5)
    assert portal.job(job.id).is_terminal
    assert "CANCELLED" in [event.to_state for event in portal.events(job.id)]
    assert sum(entry.reserved_delta_s for entry in portal.entries(allocation.uuid)) == 0
    assert portal.resubmit(job.id).cloned_from == job.id


def test_pages_of_the_real_api_are_all_read(site: Site, portal: PortalClient) -> None:
    made = [portal.submit(body(name=f"job-{number}")).id for number in range(7)]
    assert [job.id for job in portal.jobs(page_size=2)] == made[::-1]


def test_a_refusal_of_the_real_api_names_field_and_limit(site: Site, portal: PortalClient) -> None:
    with pytest.raises(ApiProblem) as caught:
        portal.submit(body(nodes=9))
    assert (caught.value.slug, caught.value.invalid_params[0].name) == ("invalid-request", "nodes")


def test_signing_out_revokes_the_token_and_twice_is_no_error(site: Site, portal: PortalClient) -> None:
    assert AuthToken.objects.count() == 1
    portal.sign_out()
    assert AuthToken.objects.count() == 0
    portal.sign_out()


# The command line


@pytest.fixture
def lin(real_transport: httpx.BaseTransport, site: Site) -> CommandLine:
    """The command line, signed in as the owner."""
    cli = CommandLine(real_transport)
    result = cli("login", "--url", URL, "--user", "lin", typed="pass-phrase-7\n")
    assert result.exit_code == 0, result.output
    assert "pass-phrase-7" not in result.output
    return cli


def test_signing_in_keeps_a_token_that_only_its_owner_can_read(lin: CommandLine) -> None:
    file = profiles_file()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "pass-phrase-7" not in file.read_text()
    assert lin.read("whoami")["username"] == "lin"


def test_signing_out_revokes_and_forgets_the_token(lin: CommandLine) -> None:
    assert lin("logout").exit_code == 0
    assert AuthToken.objects.count() == 0
    assert load_profiles().by_name["default"].token == ""
    assert lin("whoami").exit_code == 4


def test_a_wrong_password_is_told_and_leaves_no_file(real_transport: httpx.BaseTransport, config_home: Path) -> None:
    result = CommandLine(real_transport)("login", "--url", URL, "--user", "lin", "--password-stdin", typed="wrong\n")
    assert result.exit_code == 4
    assert "wrong" in result.stderr
    assert not config_home.exists()


def test_a_job_file_is_estimated_priced_submitted_shown_and_cancelled(
    lin: CommandLine, site: Site, job_file: Wrote
) -> None:
    file = job_file(JOB)
    quote = lin.read("estimate", file, "--preset", "llama-2-7b", "--tokens", "1e9")
    assert quote["estimate"]["fits"] is True
    assert lin.read("submit", file, "--dry-run")["reserved_hours"] == 8
    assert Job.objects.count() == 0
    job = lin.read("submit", file, "--name", "other", "--key", "k1")
    assert lin.read("submit", file, "--name", "other", "--key", "k1")["id"] == job["id"]
    assert Job.objects.get().name == "other"
    assert lin.read("list", "--unfinished")["results"][0]["id"] == job["id"]
    site.tick()
    shown = lin("show", job["id"], "--events")
    assert shown.exit_code == 0, shown.output
    assert "other" in shown.stdout
    assert lin.read("usage")["results"][0]["reserved_hours"] == 8
    declined = lin("cancel", job["id"], typed="n\n")
    assert declined.exit_code == 1
    assert Job.objects.get().cancel_requested_at is None
    assert lin("cancel", job["id"], typed="y\n").exit_code == 0
    assert Job.objects.get().cancel_requested_at is not None


def test_a_refusal_names_the_line_of_the_file_and_the_option(lin: CommandLine, job_file: Wrote) -> None:
    file = job_file(JOB.replace("devices_per_node: 8", "nodes: 9\ndevices_per_node: 8"))
    result = lin("submit", file)
    assert result.exit_code == 2
    assert f"{file}:5: nodes: 9 is not allowed" in result.stderr
    by_option = lin("submit", file, "--nodes", "10")
    assert "option --nodes: nodes: 10 is not allowed" in by_option.stderr


def test_a_project_that_has_not_enough_left_is_a_refusal(lin: CommandLine, job_file: Wrote) -> None:
    file = job_file(JOB.replace("time_limit_minutes: 60", "time_limit_minutes: 10080"))
    result = lin("submit", file)
    assert result.exit_code == 3, result.output


def test_words_are_in_the_language_of_the_locale(
    lin: CommandLine, job_file: Wrote, monkeypatch: pytest.MonkeyPatch
) -> None:
    lin.read("submit", job_file(JOB))
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert lin.read("list")["results"][0]["state_label"] == "已提交"


def test_the_whole_way_of_a_request_by_the_client(site: Site, sign_in: SignInByClient) -> None:
    pi, staff = sign_in(site.pi), sign_in(site.staff)
    asked = pi.ask({"kind": "END_OF_PROJECT", "project": "nlp", "justification": "done"})
    assert [one.uuid for one in staff.requests(is_open=True)] == [asked.uuid]
    assert staff.ask_back(asked.uuid, "why?").state == "ASKED_BACK"
    assert pi.answer_request(asked.uuid, "so").state == "SUBMITTED"
    assert staff.reject_request(asked.uuid, reason="not yet").decision_reason == "not yet"
    again = pi.ask({"kind": "END_OF_PROJECT", "project": "nlp", "justification": "done"})
    assert pi.withdraw_request(again.uuid).state == "WITHDRAWN"
    last = pi.ask({"kind": "END_OF_PROJECT", "project": "nlp", "justification": "done"})
    assert staff.approve_request(last.uuid, reason="so be it").state == "APPROVED"
    assert [step.step for step in pi.request(last.uuid).events][-1] == "APPROVE"
    assert "request.approve" in {act.action for act in staff.audit()}


def test_members_come_change_and_go_by_the_client(site: Site, sign_in: SignInByClient) -> None:
    pi = sign_in(site.pi)
    who = site.stranger.username
    assert pi.add_member("nlp", who).role == "MEMBER"
    assert pi.change_member("nlp", who, role="MANAGER").role == "MANAGER"
    pi.remove_member("nlp", who)
    assert who not in {one.username for one in pi.members("nlp")}
