"""Chinese is whole: every string is collected, translated and compiled; no page, no problem falls back to English."""

import ast
import itertools
import json
import os
import re
import shutil
import string
import subprocess
import sys
import uuid
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import allauth
import django
import polib
import pytest
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import translation

from accounts.models import User
from jobs.estimation.plan_rules import RULES
from jobs.models import EventKind, Job, JobEvent
from jobs.presentation import describe_event, describe_reason
from jobs.services.allowed_wording import ALLOWED_TEXTS, describe_allowed
from jobs.states import HoldReason, JobState
from portal.api.problem_types import PROBLEM_TYPES
from portal.borrowed_wording import BORROWED
from tests.api.conftest import ApiClient, make_site
from tests.factories import make_policy
from tests.jobs.conftest import Centre, centre, native_id
from tests.pages.conftest import filled_form, filled_model_form

__all__ = ["centre"]

ROOT: Final = Path(settings.BASE_DIR)
CATALOGUE: Final = ROOT / "portal" / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"
COLLECTED_FROM: Final = ("accounts", "jobs", "portal", "templates")
WORKLOAD: Final = {"model": {"preset": "llama-2-7b"}, "tokens": 10**9}

CHINESE: Final = re.compile(r"[\u4e00-\u9fff]")

needs_gettext = pytest.mark.skipif(shutil.which("xgettext") is None, reason="GNU gettext is not installed")


@pytest.fixture(scope="module")
def catalogue() -> polib.POFile:
    return polib.pofile(str(CATALOGUE))


# --- The catalogue ---------------------------------------------------------------------------------------------------


def test_every_string_is_translated_and_none_is_doubtful_or_left_over(catalogue: polib.POFile) -> None:
    assert len(catalogue) > 700
    assert [entry.msgid for entry in catalogue if not entry.translated()] == []
    assert [entry.msgid for entry in catalogue if entry.fuzzy or entry.obsolete] == []


PLACEHOLDER: Final = re.compile(r"%\(\w+\)[-+ #0-9.]*[a-z]|%%|</?\w+[^>]*>")


def placeholders(text: str, *, is_braced: bool) -> list[str]:
    """All that must come out of a translation as it went in, sorted."""
    found = PLACEHOLDER.findall(text)
    if is_braced:
        found += [f"{{{name}:{spec}}}" for _text, name, spec, _conversion in string.Formatter().parse(text) if name]
    return sorted(found)


def test_translations_keep_the_placeholders(catalogue: polib.POFile) -> None:
    broken = []
    for entry in catalogue:
        is_braced = "python-brace-format" in entry.flags
        wanted = placeholders(entry.msgid_plural or entry.msgid, is_braced=is_braced)
        for text in [*entry.msgstr_plural.values()] or [entry.msgstr]:
            if placeholders(text, is_braced=is_braced) != wanted:
                broken.append((entry.msgid, text))
    assert broken == []


def test_sentences_are_written_with_chinese_punctuation(catalogue: polib.POFile) -> None:
    """Between Chinese characters no comma, colon, bracket or full stop of Latin script, and no missing end."""
    texts = [text for entry in catalogue for text in ([*entry.msgstr_plural.values()] or [entry.msgstr])]
    assert [text for text in texts if re.search(r"[\u4e00-\u9fff][,.;:!?()]|[,;:!?()][\u4e00-\u9fff]", text)] == []
    unended = [
        entry.msgid
        for entry in catalogue
        if entry.msgid.endswith(".") and not entry.msgid_plural and not entry.msgstr.endswith("。")
    ]
    assert unended == []


def test_chinese_and_latin_are_set_apart_by_a_space(catalogue: polib.POFile) -> None:
    exceptions = {"20亿"}
    for entry in catalogue:
        text = PLACEHOLDER.sub("", entry.msgstr)
        found = set(re.findall(r"[A-Za-z0-9]+[\u4e00-\u9fff]|[\u4e00-\u9fff][A-Za-z0-9]+", text))
        assert found <= exceptions, entry.msgstr


def test_the_compiled_catalogue_is_that_of_the_source(catalogue: polib.POFile) -> None:
    def read(file: Any) -> dict[Any, Any]:
        return {(entry.msgctxt, entry.msgid): entry.msgstr_plural or entry.msgstr for entry in file}

    assert read(polib.mofile(str(CATALOGUE.with_suffix(".mo")))) == read(catalogue), "run 'make messages'"


def test_what_is_reworded_of_django_and_allauth_is_still_theirs(catalogue: polib.POFile) -> None:
    theirs = {
        (entry.msgctxt, entry.msgid, entry.msgid_plural)
        for package in (django, allauth)
        for path in Path(package.__path__[0]).rglob("locale/zh_Hans/LC_MESSAGES/django.po")
        for entry in polib.pofile(str(path))
    }
    ours = {
        (entry.msgctxt, entry.msgid, entry.msgid_plural)
        for entry in catalogue
        if ("portal/borrowed_wording.py", "") in entry.occurrences
    }
    assert len(ours) >= len(BORROWED) - 1
    assert ours - theirs == set()


@needs_gettext
def test_a_fresh_collection_finds_what_the_catalogue_has(tmp_path: Path, catalogue: polib.POFile) -> None:
    for name in COLLECTED_FROM:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc", "vendor", "locale"))
    (tmp_path / "locale").mkdir()
    subprocess.run(
        [sys.executable, "-m", "django", "makemessages", "--locale", "zh_Hans", "--add-location", "file"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
    )
    fresh = polib.pofile(str(tmp_path / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"))
    keys = {(entry.msgctxt, entry.msgid, entry.msgid_plural) for entry in catalogue}
    assert {(entry.msgctxt, entry.msgid, entry.msgid_plural) for entry in fresh} == keys, "run 'make messages'"


# --- What is allowed: texts of code that knows no Django -------------------------------------------------------------


def texts_of(node: ast.expr, assigned: dict[str, list[ast.expr]]) -> set[str]:
    """The texts that an expression may give, with {} for what is put in.

    `assigned` has the values of local names, and under "name()" what the module's functions return.
    """
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else {"{}"}
    if isinstance(node, ast.JoinedStr):
        parts = [texts_of(part, assigned) for part in node.values]
        return {"".join(words) for words in itertools.product(*parts)}
    if isinstance(node, ast.FormattedValue):
        return texts_of(node.value, assigned) if isinstance(node.value, ast.Call) else {"{}"}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return {left + right for left in texts_of(node.left, assigned) for right in texts_of(node.right, assigned)}
    if isinstance(node, ast.IfExp):
        return texts_of(node.body, assigned) | texts_of(node.orelse, assigned)
    name = node.id if isinstance(node, ast.Name) else ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = f"{node.func.id}()"
    if name in assigned:
        return {text for value in assigned[name] for text in texts_of(value, assigned)}
    return {"{}"}


# Where the callables that refuse a value take what is allowed.
REFUSALS: Final = {"InvalidInput": 2, "InvalidSpec": 2, "_match": 3, "refuse": 1, "_refuse": 1}


def allowed_texts(path: Path) -> set[str]:
    """What a module's refusals say is allowed."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    returned = {
        f"{function.name}()": [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value]
        for function in functions
        if isinstance(function.returns, ast.Name) and function.returns.id == "str"
    }
    found: set[str] = set()
    for scope in functions:
        assigned: dict[str, list[ast.expr]] = dict(returned)
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                assigned.setdefault(node.targets[0].id, []).append(node.value)
        for node in ast.walk(scope):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in REFUSALS:
                    found |= texts_of(node.args[REFUSALS[called]], assigned)
    return {re.sub(r"(\{\}|\b\d{4}\b)+", "{}", text) for text in found} - {"{}"}


def imported_modules(path: Path) -> set[Path]:
    """Files of the estimator that a module imports anywhere, their packages included."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jobs.estimation"):
            place = ROOT.joinpath(*(node.module or "").split("."))
            found |= {place.with_suffix(".py"), place / "__init__.py"}
            found |= {(place / name.name).with_suffix(".py") for name in node.names}
    return {file for file in found if file.is_file()}


def modules_in_use() -> set[Path]:
    """Files of the estimator that the portal reaches; the rest is for the command line and for who studies runs."""
    estimation = ROOT / "jobs" / "estimation"
    portal = (path for name in ("accounts", "jobs", "portal") for path in (ROOT / name).rglob("*.py"))
    waiting = {file for path in portal if estimation not in path.parents for file in imported_modules(path)}
    reached: set[Path] = set()
    while waiting:
        path = waiting.pop()
        reached.add(path)
        waiting |= imported_modules(path) - reached
    return reached


def source_texts() -> set[str]:
    paths = [
        ROOT / "jobs" / "spec.py",
        ROOT / "jobs" / "services" / "estimates.py",
        *(ROOT / "jobs" / "launch").glob("*.py"),
        *modules_in_use(),
    ]
    texts = set().union(*(allowed_texts(path) for path in paths))
    return texts | {re.sub(r"\{\w+\}", "{}", allowed) for _field, allowed in RULES.values()}


# What only a programmer, or who edits the estimator's catalogue, can get wrong.
OF_PROGRAMMERS: Final = {
    *("those of the template: {}", "at least one of {}", "a list", "a list of groups", "{}, this engine's"),
    *("a UserScript or a Command", "a Plan", "either accelerator_s or price, not both"),
}


def test_all_that_the_pure_code_allows_is_listed_for_translation_and_nothing_else() -> None:
    listed = {re.sub(r"%\(\w+\)s", "{}", text) for text in ALLOWED_TEXTS}
    assert listed == source_texts() - OF_PROGRAMMERS


def test_what_is_allowed_is_said_in_chinese() -> None:
    with translation.override("zh-hans"):
        assert describe_allowed("a whole number from 1 to 64") == "1 到 64 的整数"
        assert describe_allowed("one of bf16, fp16") == "以下之一：bf16, fp16"
        assert describe_allowed("whole nodes of 8 devices") == "整节点（每节点 8 张卡）"
        assert describe_allowed("within a node one of 1, 2, 4") == "节点内的卡数为以下之一：1, 2, 4"
        assert describe_allowed("demo/a800") == "demo/a800"
        assert describe_allowed("") == ""
        untold = [text for text in ALLOWED_TEXTS if describe_allowed(re.sub(r"%\(\w+\)s", "7", text)).isascii()]
    assert untold == []
    with translation.override("en"):
        assert describe_allowed("a whole number from 1 to 64") == "a whole number from 1 to 64"


# --- What is visible -------------------------------------------------------------------------------------------------


class VisibleText(HTMLParser):
    """The words of a page that somebody sees, hears or is shown later by a script; not code."""

    HIDDEN = frozenset(("script", "style", "code", "pre", "textarea", "svg"))
    SPOKEN = frozenset(
        [
            "aria-label",
            "alt",
            "title",
            "placeholder",
            "data-label",
            "data-not-text",
            "data-too-large",
            "data-confirm",
            "data-confirm-title",
            "data-confirm-button",
        ]
    )

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self._hidden: list[str] = []
        self._is_time_zone = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in self.HIDDEN:
            # Words for scripts and the data of charts are JSON; all other scripts come from files.
            self._hidden.append("json" if given.get("type") == "application/json" else tag)
        if tag == "option":
            self._is_time_zone = "/" in (given.get("value") or "")
        self.texts += [value for name, value in attrs if value and name in self.SPOKEN]

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and self._hidden[-1] in (tag, "json"):
            self._hidden.pop()
        if tag == "option":
            self._is_time_zone = False

    def handle_data(self, data: str) -> None:
        if self._is_time_zone or not data.strip() or (self._hidden and self._hidden[-1] != "json"):
            return
        if self._hidden or data.startswith('{"'):  # a chart's data stand in a hidden element
            self.texts += strings_in(json.loads(data))
        else:
            self.texts.append(" ".join(data.split()))


def strings_in(value: Any) -> list[str]:
    """All texts of a JSON value, keys apart."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in strings_in(item)]


# Names and fixed words that stand in Chinese text as they are.
NAMES: Final = re.compile(
    r"Project nlp|Institution inst\d+|Dummy cluster|CLASS\d+|Llama [\d.]+ [\dB]+|Qwen[\d.]* [\w.]+|GPT-\d|"
    r"Hugging Face( Transformers)?|train\.py --config big\.yaml|FSDP|DeepSpeed|FlashAttention|Daly 2006|"
    r"Authorization: Bearer|Content-Type: application/json|POST /api\S*|GET /api\S*|DELETE /api\S*|GiB|GB|TFLOP/s|MFU|"
    r"Expecting property name enclosed in double quotes"  # the JSON parser's own words
)
RUN: Final = re.compile(r"\b[A-Za-z][A-Za-z'’-]*(?:[,;:.]? +[A-Za-z][A-Za-z'’-]*){2,}")
# Lists of codes: fields, choices, presets.
CODES: Final = re.compile(r"[\w.-]+(?:, [\w.-]+)+", re.ASCII)


def english_in(texts: list[str]) -> list[str]:
    """Runs of three Latin words and more, beside names and lists of codes."""
    return [run for text in texts for run in RUN.findall(CODES.sub("·", NAMES.sub("·", text)))]


def test_the_search_for_english_finds_some() -> None:
    page = '<p title="This is not Chinese">作业 <b>was not told</b><code>not of this</code> MFU 12 GiB a800-80g</p>'
    page += '<script type="application/json">{"words": ["told by a script"]}</script><script>var not = "read"</script>'
    assert english_in(VisibleText(page).texts) == ["This is not Chinese", "was not told", "told by a script"]


@pytest.fixture
def browser(centre: Centre) -> Client:
    """The owner of jobs, whose browser asks for Chinese."""
    client = Client(headers={"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.5"})
    client.force_login(centre.user)
    return client


def assert_chinese(answer: Any, status: int = 200) -> str:
    page: str = answer.content.decode()
    assert answer.status_code == status
    texts = VisibleText(page).texts
    assert english_in(texts) == []
    assert CHINESE.search(" ".join(texts)), "no Chinese at all"
    return page


@pytest.fixture(autouse=True)
def _same_time(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "centre" in request.fixturenames:
        own: Centre = request.getfixturevalue("centre")
        monkeypatch.setattr("django.utils.timezone.now", own.now)


@pytest.mark.parametrize("has_jobs", [False, True], ids=["without jobs", "with jobs"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/live",
        "/jobs/",
        "/jobs/?scope=all&state=unfinished&q=none-such",
        "/jobs/new",
        "/projects/",
        "/projects/nlp/",
        "/projects/nlp/usage",
        "/projects/nlp/ledger",
        "/clusters/",
        "/clusters/live",
        "/profile/",
        "/account/password/change/",
        "/account/logout/",
    ],
)
def test_pages_are_in_chinese(centre: Centre, browser: Client, path: str, has_jobs: bool) -> None:
    if has_jobs:
        for name in ("first", "second"):
            centre.submit(name=name, workload=WORKLOAD)
        centre.tick()
        centre.tick(60)
        centre.backend.set_outcome(native_id(Job.objects.get(name="first")), elapsed_s=60)
        centre.tick(60)
        centre.tick(60)
    assert_chinese(browser.get(path))


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["account_login", "account_signup", "account_reset_password"])
def test_pages_before_signing_in_are_in_chinese(name: str) -> None:
    client = Client(headers={"Accept-Language": "zh-hans"})
    address = reverse(name)
    page = assert_chinese(client.get(address))
    assert "训练门户" in page
    assert_chinese(client.post(address, {"login": "nobody", "password": "wrong", "email": "no address"}))


@pytest.mark.parametrize("state", JobState)
def test_a_job_in_any_state_is_told_in_chinese(centre: Centre, browser: Client, state: JobState) -> None:
    job = centre.submit(name="big", workload=WORKLOAD, environment={"SEED": "7"}, checkpoint_lead_s=60)
    centre.tick()
    centre.tick(60)
    detail = {"limit": "max_running_jobs", "scope": "user", "allowed": 3}
    lease = {"lease_token": uuid.uuid4()} if state is JobState.DISPATCHING else {}
    reason = HoldReason.LIMIT if state is JobState.HELD else "Priority"
    Job.objects.update(state=state, state_reason=reason, state_detail=detail, **lease)
    job = Job.objects.get()
    JobEvent.objects.create(
        job=job, at=centre.now(), kind=EventKind.TRANSITION, to_state=state, reason=reason, detail=detail
    )
    assert_chinese(browser.get(job.get_absolute_url()))
    assert_chinese(browser.get(reverse("job-list"), {"scope": "all"}))


def test_a_settled_job_and_its_ledger_are_told_in_chinese(centre: Centre, browser: Client) -> None:
    job = centre.submit(name="done", workload=WORKLOAD)
    centre.tick()
    centre.tick()
    centre.backend.set_outcome(native_id(job), elapsed_s=600, exit_code=1)
    for _ in range(4):
        centre.tick(600)
    assert "扣费" in assert_chinese(browser.get(job.get_absolute_url()))
    assert "结算" in assert_chinese(browser.get(reverse("project-ledger", args=["nlp"])))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"nodes": "99"},
        {"devices_per_node": "1", "preset": "llama-2-70b"},
        {"devices_per_node": "3"},
        {"time_limit": "soon", "tokens": "many"},
        {"time_limit": "999 h"},
        {"plan_mode": "manual", "tensor_parallel": "3"},
        {"plan_mode": "manual", "tensor_parallel": "1", "micro_batch_size": "64", "zero_stage": "0"},
        {"model_source": "config", "config_json": "{"},
        {"model_source": "config", "config_json": '{"model_type": "mystery"}'},
        {"model_source": "config", "config_json": '{"model_type": "llama", "hidden_size": -1}'},
        {"environment": "PATH"},
        {"environment": "SLURM_JOB_ID=1"},
        {"script": "echo hello"},
        {"name": "two words"},
        {"partition": "nowhere/none", "project": "none"},
    ],
    ids=lambda changes: " ".join(changes) or "fits",
)
def test_the_form_the_estimate_and_what_is_wrong_are_in_chinese(
    centre: Centre, browser: Client, changes: dict[str, str]
) -> None:
    form = filled_model_form(centre, **changes)
    assert_chinese(browser.post(reverse("job-estimate"), form))
    assert_chinese(browser.post(reverse("job-script-preview"), form))
    answer = browser.post(reverse("job-new"), {**form, "script": form["script"] if "script" in changes else ""})
    assert_chinese(answer, answer.status_code)


def test_a_limit_is_explained_in_chinese(centre: Centre, browser: Client) -> None:
    make_policy(user=centre.user, max_accelerators_per_job=4, max_queued_jobs=0)
    panel = assert_chinese(browser.post(reverse("job-estimate"), filled_form(centre)))
    assert "单作业卡数对您的上限为 4；加上本作业将达到 8。" in panel


def test_a_project_with_too_little_left_is_told_in_chinese(centre: Centre, browser: Client) -> None:
    panel = assert_chinese(browser.post(reverse("job-estimate"), filled_form(centre, nodes="8", time_limit="100 h")))
    assert "卡时" in panel


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("limit", {"limit": "max_running_jobs", "scope": "user", "allowed": 3}),
        ("does_not_fit", {"memory_bytes": 2**37, "capacity_bytes": 2**36}),
        ("insufficient_allocation", {"needed_s": 7200, "available_s": 3600}),
        ("invalid", {"field": "nodes", "allowed": "a whole number from 1 to 64"}),
        ("scheduler", {"words": "QOS"}),
        ("ReqNodeNotAvail", {}),
        ("cluster_down", {}),
        ("Unheard", {}),
    ],
)
def test_reasons_are_told_in_chinese(centre: Centre, reason: str, detail: dict[str, Any]) -> None:
    job = centre.submit()
    event = JobEvent(job=job, kind=EventKind.TRANSITION, to_state=JobState.HELD, reason=reason, detail=detail)
    with translation.override("zh-hans"):
        assert CHINESE.search(describe_reason(reason, detail))
        assert english_in([describe_event(event)]) == []


def test_error_pages_are_in_chinese(centre: Centre, browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_chinese(browser.get("/nothing"), 404)
    assert_chinese(browser.get("/jobs/?cursor=nonsense"), browser.get("/jobs/?cursor=nonsense").status_code)
    strict = Client(enforce_csrf_checks=True, headers={"Accept-Language": "zh-hans"})
    assert_chinese(strict.post(reverse("account_login"), {"login": "lin"}), 403)

    def fail(*_arguments: Any, **_named: Any) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("jobs.views.dashboard.render", fail)
    browser.raise_request_exception = False
    assert_chinese(browser.get("/"), 500)


# --- The API ---------------------------------------------------------------------------------------------------------


def words_of(problem: dict[str, Any]) -> list[str]:
    params = problem.get("invalid_params", [])
    return [
        problem["title"],
        problem["detail"],
        *(text for item in params for text in (item["reason"], item["allowed"])),
    ]


def job_with(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, **fields}


@pytest.mark.parametrize(
    "change",
    [
        job_with(nodes=0),
        job_with(nodes="two"),
        job_with(name="two words"),
        job_with(name=None),
        job_with(unknown=1),
        job_with(time_limit_minutes=10**9),
        job_with(project="none"),
        job_with(partition="none"),
        job_with(entry={"kind": "dance"}),
        job_with(entry={"kind": "script", "script": "echo"}),
        job_with(entry={"kind": "script", "script": "#!/bin/sh\n\0"}),
        job_with(entry={"kind": "command", "command": ["-x"]}),
        job_with(entry={"kind": "command", "command": ["torchrun", "x.py"], "launcher": "torchrun"}),
        job_with(environment={"SLURM_X": "1"}),
        job_with(environment=[1]),
        job_with(workload={"model": {"preset": "none"}, "tokens": 1}),
        job_with(workload={"model": {}, "tokens": 1}),
        job_with(workload={**WORKLOAD, "precision": "fp3"}),
        job_with(workload={**WORKLOAD, "typo": 1}),
        job_with(workload={**WORKLOAD, "global_batch_size": 1.5}),
        job_with(workload={**WORKLOAD, "model": {"config": {"model_type": "llama"}}}),
        job_with(workload={**WORKLOAD, "model": {"config": {"model_type": "mixtral", "num_local_experts": 8}}}),
        job_with(workload=WORKLOAD, plan={"tensor_parallel": 3}),
        job_with(workload=WORKLOAD, plan={"tensor_parallel": 2, "data_parallel": 2}),
        job_with(plan={"tensor_parallel": 8}),
        job_with(nodes=8, time_limit_minutes=7 * 24 * 60),
        job_with(checkpoint_lead_s=-1),
        job_with(override_estimate="maybe"),
        lambda _body: [1],
        lambda _body: {},
    ],
)
def test_the_apis_problems_are_in_chinese(db: None, change: Callable[[dict[str, Any]], Any]) -> None:
    site = make_site()
    answer = site.api(site.owner).post("jobs", change(site.body()), Accept_Language="zh-hans")
    assert 400 <= answer.status_code < 500, answer.content
    words = words_of(answer.json())
    assert english_in(words) == []
    assert all(CHINESE.search(text) for text in words[:2])


def test_problems_with_the_request_itself_are_in_chinese(db: None) -> None:
    site = make_site()
    nobody, owner = ApiClient(), site.api(site.owner)
    zh = {"Accept_Language": "zh-hans"}
    answers = [
        nobody.get("jobs", **zh),
        nobody.get("jobs", **{**zh, "Authorization": "Bearer nonsense"}),
        nobody.post("auth/token", {"username": "lin", "password": "wrong"}, **zh),
        owner.get("nothing", **zh),
        owner.get("jobs?state=dancing", **zh),
        owner.get("jobs?page_size=0&typo=1", **zh),
        owner.get("jobs?cursor=nonsense", **zh),
        owner.delete("jobs", **zh),
        owner.get("jobs", **{**zh, "Accept": "text/html"}),
        owner.call("POST", "jobs", body=b"{", **zh),
        owner.call("POST", "jobs", body=b'{"a": 1, "a": 2}', **zh),
        owner.call("POST", "jobs", body=b"x", Content_Type="text/plain", **zh),
        owner.call("POST", "jobs", body=b"x" * 3_000_000, **zh),
    ]
    for answer in answers:
        assert answer.status_code >= 400
        words = words_of(answer.json())
        assert english_in(words) == [], answer.json()
        assert CHINESE.search(words[0]), answer.json()


def test_every_kind_of_problem_has_a_chinese_explanation() -> None:
    with translation.override("zh-hans"):
        for kind in PROBLEM_TYPES.values():
            words = kind.to_dict()
            assert CHINESE.search(words["title"])
            assert english_in([words["title"], words["detail"]]) == []


def test_the_language_of_the_profile_page_can_be_chosen(centre: Centre) -> None:
    client = Client()
    client.force_login(User.objects.get(username="lin"))
    client.post(reverse("set_language"), {"language": "zh-hans", "next": "/"})
    assert 'lang="zh-hans"' in client.get("/profile/").content.decode()
