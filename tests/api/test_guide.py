"""The guide is true: its commands are run as they stand, and its tables name what there is."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from accounts.models import Cluster, Partition
from portal.api.problem_types import PROBLEM_TYPES
from tests.api.conftest import ApiClient, Site

GUIDE = (Path(settings.BASE_DIR) / "docs" / "api.md").read_text(encoding="utf-8")


def commands() -> list[tuple[str, int]]:
    """Each curl command with the status that the comment after it says."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL):
        found += [(text, int(status)) for text, status in re.findall(r"(curl .*?)\n# (\d{3})", block, re.DOTALL)]
    return found


def run(command: str, variables: dict[str, str]) -> Any:
    """Do what a curl command says, with the test client."""
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    words = shlex.split(command.replace("\\\n", " "))[1:]
    method, data, url, headers = "GET", None, "", {}
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-d":
            data = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name.replace("-", "_")] = value
        else:
            assert not word.startswith("-"), f"an option that this test doesn't know: {word}"
            url = word
    return ApiClient().call(method, url, body=data or b"", **headers)


@pytest.mark.django_db
def test_its_commands_work_in_the_order_in_which_they_stand(site: Site) -> None:
    Cluster.objects.update(code="demo")
    Partition.objects.update(name="a800-sim")
    variables = {"PORTAL": settings.PORTAL_URL}
    listed = commands()
    assert len(listed) >= 12
    for command, status in listed:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "ALLOWED_HOSTS", ["*"])
            answer = run(command, variables)
        assert answer.status_code == status, (command, answer.content)
        body = answer.json()
        if "token" in body:
            variables["TOKEN"] = body["token"]
        if command.count("/jobs ") and "id" in body:
            variables["JOB"] = body["id"]
    assert {"TOKEN", "JOB"} <= set(variables)


def test_its_table_names_each_kind_of_problem() -> None:
    rows = {slug: int(status) for status, slug in re.findall(r"^\| (\d{3}) \| `([a-z-]+)`", GUIDE, re.MULTILINE)}
    assert rows == {kind.slug: kind.status for kind in PROBLEM_TYPES.values()}


@pytest.mark.django_db
def test_its_example_of_a_problem_is_what_is_sent(site: Site) -> None:
    Partition.objects.update(name="a800-sim")
    example = json.loads(re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)[0])
    answer = site.api(site.owner).post("jobs", site.body(partition="a800-sim", nodes=9))
    assert answer.json() == {**example, "type": PROBLEM_TYPES["invalid-request"].uri}


def test_the_limit_on_bodies_is_the_one_that_holds() -> None:
    assert settings.DATA_UPLOAD_MAX_MEMORY_SIZE == 2 * 1024 * 1024
