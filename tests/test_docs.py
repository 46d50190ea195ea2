"""The documents are true: what they name is there, and what is there is named."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import polib
import pytest
from django.conf import settings

from jobs.backends.local.environment import VISIBLE_DEVICES, build_environment
from jobs.backends.local.options import read_options
from jobs.backends.local.store import Placement, StoredJob
from jobs.launch import LaunchRequest, Plan, UserScript, render_batch_script
from jobs.presentation import STATE_LABELS
from jobs.spec import JobSpec
from jobs.states import JobState
from tests.security.role_table import write_table

ROOT: Final = Path(settings.BASE_DIR)
DOCS: Final = ROOT / "docs"
GUIDES: Final = {"en": DOCS / "user-guide.md", "zh-hans": DOCS / "user-guide.zh-hans.md"}
PAGES: Final = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
CATALOGUE: Final = ROOT / "portal" / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

_CODE_BLOCK: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_DEADLINE_S: Final = 30


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def table_rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, without the lines below the headings."""
    lines = [line.strip() for line in _CODE_BLOCK.sub("", text).splitlines()]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line.startswith("|")]
    return [cells for cells in rows if set("".join(cells)) - set("-: ")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Links


def anchors(path: Path) -> set[str]:
    """The headings of a page, as GitHub makes anchors of them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?) *#*$", _CODE_BLOCK.sub("", read(path)), re.MULTILINE):
        words = re.sub(r"\[([^]]*)]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        if count:
            found[f"{slug}-{count}"] = 1
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", _CODE_BLOCK.sub("", read(page)))
    for target in re.findall(r"]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place) if place else page
        assert file.exists(), f"{target}: there is no such file"
        if anchor:
            assert anchor in anchors(file), f"{target}: there is no such heading; there are {sorted(anchors(file))}"


def test_every_page_of_the_documents_is_linked_from_another() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"]\(([^)\s:#]+)[^)]*\)", read(page))
    }
    orphans = [
        name_of(page) for page in PAGES if page.name != "README.md" and page not in linked and page.parent not in linked
    ]
    assert orphans == []


# Commands


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^\$ |^|`)make ([a-z-]+)", read(page), re.MULTILINE))
    if page.name in ("README.md", "README.zh-hans.md", "CONTRIBUTING.md"):
        assert named, "it names none any more: is this test still right?"
    assert named <= targets


# Configuration


def environment_settings() -> dict[str, ast.Call]:
    """Every variable that the settings read, with the call that reads it."""
    calls = [node for node in ast.walk(ast.parse(read(ROOT / "portal" / "settings.py"))) if isinstance(node, ast.Call)]
    found = {}
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id.startswith("env_"):
            name = ast.literal_eval(call.args[0])
            found[name] = call
            if call.func.id == "env_secret":
                found[f"{name}_FILE"] = call
    return found


def configuration_rows() -> dict[str, str]:
    """Every variable of the table with its default."""
    return {
        name: cells[1]
        for cells in table_rows(read(DOCS / "configuration.md"))
        for name in re.findall(r"`([A-Z_]+)`", cells[0])
    }


def test_the_configuration_page_has_exactly_the_variables_that_the_settings_read() -> None:
    assert set(configuration_rows()) == set(environment_settings())


def test_its_defaults_are_those_of_the_settings() -> None:
    rows, checked = configuration_rows(), 0
    for name, call in environment_settings().items():
        defaults = [word.value for word in call.keywords if word.arg == "default"] or call.args[1:2]
        if not defaults or not isinstance(defaults[0], ast.Constant) or defaults[0].value == "":
            continue  # in words: an embedded server, a path, a list
        value = defaults[0].value
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        if rows[name].startswith("`"):
            assert rows[name] == f"`{shown}`", name
            checked += 1
    assert checked >= 8


# Dependencies


def requirement_names(requirements: list[str]) -> dict[str, set[str]]:
    """Names of packages with their extras."""
    found = {}
    for requirement in requirements:
        match = re.match(r"([a-z0-9-]+)(?:\[([^]]*)])?", requirement)
        assert match is not None, requirement
        found[match[1]] = {extra.strip() for extra in (match[2] or "").split(",")} - {""}
    return found


def dependency_row_names(cell: str) -> list[str]:
    """The packages of a row: "drf-spectacular, -sidecar" are two, "psycopg 3" is one with its version."""
    names: list[str] = []
    for word in cell.split(", "):
        name = word.split(" ")[0]
        names.append(names[0] + name if name.startswith("-") else name)
    return names


def test_the_dependencies_page_has_a_row_for_each_dependency_and_none_for_others() -> None:
    direct = requirement_names(PROJECT["dependencies"])
    from_extras = {
        name for package, extras in direct.items() for extra in extras for name in (extra, f"{package}-{extra}")
    }
    rows = [cells[0] for cells in table_rows(read(DOCS / "dependencies.md"))]
    assert rows.pop(0) == "package"
    listed = [name for cell in rows for name in dependency_row_names(cell)]
    assert len(listed) == len(set(listed)), "a package has two rows"
    assert set(direct) - set(listed) == set()
    assert set(listed) - set(direct) - from_extras == set()


def test_the_dependencies_page_names_every_tool_of_the_development() -> None:
    words = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", read(DOCS / "dependencies.md")))
    assert set(requirement_names(PROJECT["optional-dependencies"]["dev"])) - words == set()


# States


@pytest.mark.parametrize("page", [DOCS / "lifecycle.md", *GUIDES.values()], ids=name_of)
def test_every_state_is_explained(page: Path) -> None:
    explained = {
        name: cells[-1]
        for cells in table_rows(read(page))
        if len(cells) == 3
        for name in re.findall(r"[A-Z_]{4,}", cells[0])
    }
    assert {state.value for state in JobState} - set(explained) == set()
    assert all(explained[state.value] for state in JobState)


@pytest.mark.parametrize("language", GUIDES)
def test_the_guide_calls_each_state_as_the_pages_do(language: str) -> None:
    chinese = {entry.msgid: entry.msgstr for entry in polib.pofile(str(CATALOGUE)) if entry.msgctxt == "job state"}
    rows = {cells[0]: cells[1] for cells in table_rows(read(GUIDES[language])) if len(cells) == 3}
    for state, label in STATE_LABELS.items():
        english = str(label)
        assert rows[f"`{state.value}`"] == f"**{english if language == 'en' else chinese[english]}**"


# The user guides


def page_words(language: str) -> set[str]:
    """Every string that pages show in the language, in lower case."""
    entries = polib.pofile(str(CATALOGUE))
    return {(entry.msgid if language == "en" else entry.msgstr).lower() for entry in entries if not entry.obsolete}


@pytest.mark.parametrize("language", GUIDES)
def test_what_the_guide_prints_bold_is_what_the_pages_say(language: str) -> None:
    text = _CODE_BLOCK.sub("", read(GUIDES[language]))
    bold = {" ".join(words.split()) for words in re.findall(r"\*\*([^*]+)\*\*", text)}
    sentences = {
        "en": {"bold", "Set the signal only if your program handles it"},
        "zh-hans": {"粗体", "程序能处理这个信号时才设置它"},
    }
    known = page_words(language)
    unknown = {words for words in bold - sentences[language] if words.lower() not in known}
    assert len(bold) > 60
    assert unknown == set()


def test_both_guides_have_the_same_parts() -> None:
    def shape(path: Path) -> list[str]:
        marks = re.findall(r"^(#+ |```\w*$|\||- |\d\. )", read(path), re.MULTILINE)
        return [mark.strip() for mark in marks]

    assert shape(GUIDES["en"]) == shape(GUIDES["zh-hans"])


def variables_of_a_job() -> set[str]:
    """What a job starts with from the launcher and the local backend, as the portal calls them, on any accelerator."""
    plan = Plan(
        sequence_length=4096,
        recomputation="full",
        precision="bf16",
        virtual_stages=2,
        sequence_parallel=True,
        recomputed_layers=1,
        zero_group=8,
        pipeline_schedule="zero_bubble",
        offload="optimizer",
    )
    common = {"key": "0123456789-1", "name": "job", "partition": "a", "nodes": 1, "slurm_account": "lab"}
    chain = {"segment_number": 1, "home_key": "0123456789-1", "signal_name": "USR1", "signal_lead_s": 60}
    size = {"devices_per_node": 1, "time_limit_minutes": 10}
    request = LaunchRequest(**common, **size, **chain, entry=UserScript("#!/bin/sh\n"), plan=plan)
    found = set(re.findall(r"^export (\w+)=", render_batch_script(request).script, re.MULTILINE))
    options = read_options({"ROOT": "/nowhere", "PARTITIONS": {"a": {"nodes": 1, "devices_per_node": 1}}})
    for gres_name in VISIBLE_DEVICES:
        spec = JobSpec(**common, script="#!/bin/sh\n", devices_per_node=1, time_limit_minutes=10, gres_name=gres_name)
        job = StoredJob(
            id=1,
            key=spec.key,
            marker="mark",
            spec=spec,
            time_limit_s=600.0,
            state=JobState.RUNNING,
            placements=(Placement(node=0, devices=(0,)),),
            node_names=("a-01",),
        )
        found |= set(build_environment(job, options, work_directory=Path("/nowhere")))
    return found


@pytest.mark.parametrize("language", GUIDES)
def test_the_guide_lists_exactly_the_variables_that_a_job_gets(language: str) -> None:
    rows = [cells[0] for cells in table_rows(read(GUIDES[language])) if len(cells) == 2]
    listed = [name for cell in rows for name in re.findall(r"`([A-Z_]+)`", cell)]
    assert len(listed) == len(set(listed))
    assert set(listed) == variables_of_a_job()


# Its programs, run as they stand


def code_blocks(language: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", read(GUIDES[language]), re.DOTALL)


class Example:
    """A script of the guide in a directory of its own, with the variables that it needs."""

    def __init__(self, directory: Path, script: str) -> None:
        self.checkpoint = directory / "kept" / "checkpoint.json"
        self._file = directory / "user_script"
        self._file.write_text(script, encoding="utf-8")
        self._file.chmod(0o700)
        self._metrics = directory / "metrics.jsonl"
        # The interpreter of the tests is the python3 that the scripts find.
        (directory / "bin").mkdir(exist_ok=True)
        python = directory / "bin" / "python3"
        python.unlink(missing_ok=True)
        python.symlink_to(sys.executable)
        self._environment = {
            "PATH": f"{directory / 'bin'}:{os.defpath}",
            "LANG": "C.UTF-8",
            "PORTAL_METRICS_FILE": str(self._metrics),
            "CHECKPOINT_DIR": str(self.checkpoint.parent),
        }

    def run_until_signalled(self, number: signal.Signals) -> tuple[int, str]:
        """Start it, signal it after its next training step; the exit code and the output."""
        steps = self.count_steps()
        with subprocess.Popen(
            [self._file],
            cwd=self._file.parent,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                wait_until(lambda: self.count_steps() > steps or process.poll() is not None)
                process.send_signal(number)
                output, _ = process.communicate(timeout=_DEADLINE_S)
            finally:
                process.kill()
        return process.returncode, output

    def count_steps(self) -> int:
        return len(self._metrics.read_text().splitlines()) if self._metrics.exists() else 0


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not is_true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


@pytest.mark.parametrize("language", GUIDES)
def test_the_guides_training_saves_at_the_signal_and_goes_on_from_there(language: str, tmp_path: Path) -> None:
    (program,) = code_blocks(language, "python")
    example = Example(tmp_path, program)
    code, output = example.run_until_signalled(signal.SIGUSR1)
    assert (code, output.splitlines()[0]) == (0, "start at step 0")
    saved = example.count_steps()
    assert example.checkpoint.read_text() == f'{{"step": {saved}}}'
    code, output = example.run_until_signalled(signal.SIGTERM)
    assert (code, output.splitlines()[0]) == (0, f"start at step {saved}")
    assert example.count_steps() > saved


@pytest.mark.parametrize("language", GUIDES)
def test_the_guides_shell_scripts_pass_the_signal_on(language: str, tmp_path: Path) -> None:
    (program,) = code_blocks(language, "python")
    (tmp_path / "train.py").write_text(program, encoding="utf-8")
    short, long = code_blocks(language, "bash")
    code, output = Example(tmp_path, short).run_until_signalled(signal.SIGUSR1)
    assert (code, output.splitlines()[-1][:18]) == (0, "checkpoint at step")
    code, output = Example(tmp_path, long).run_until_signalled(signal.SIGUSR1)
    assert (code, output.splitlines()[-1]) == (0, "train.py ended with 0")
    assert "checkpoint at step" in output


def test_the_table_of_roles_is_the_one_that_is_tested() -> None:
    assert write_table() in read(DOCS / "admin" / "roles.md")
