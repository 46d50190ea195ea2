"""Addresses and forms that nobody types by accident: answered, quickly, and never with a crash."""

import base64
import json
import os
import time
import uuid
from typing import Any
from urllib.parse import quote, urlsplit

import psutil
import pytest
from django.test import Client

from jobs.models import Job
from tests.api.conftest import ApiClient
from tests.jobs.conftest import Centre
from tests.pages.conftest import filled_model_form

SOME_ID = uuid.UUID(int=7)
MOMENTS = [
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999-23:59",
    "2026-06-01T00:00:00+23:59",
    "2026-06-01T00:00:00",
    "2026-13-01T00:00:00Z",
    "-infinity",
    "\x00",
    "",
]
ADDRESSES = [
    *(f"/jobs/?{side}={quote(f'{moment}_{SOME_ID}')}" for side in ("after", "before") for moment in MOMENTS),
    *(f"/jobs/?q={quote(text)}" for text in ("\x00", "***:(", "\\", "(?i)(a+)+$", "\n", "%", "'", "１", "x" * 5000)),
    "/jobs/?q=%ff%ed%a0%80",
    *(f"/jobs/?{name}=%00" for name in ("state", "project", "partition", "scope")),
    "/jobs/new?project=%00&partition=%ed&preset=%00",
    *(f"/projects/nlp/ledger?before={text}" for text in ("9" * 18, "9" * 19, "-1", "１", "%00", "1e9")),
    "/jobs/%2e%2e%2fetc%2fpasswd",
    "/projects/..%2f..%2f/usage",
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_no_address_of_a_page_makes_it_crash(centre: Centre, url: str) -> None:
    centre.submit()
    client = Client()
    client.force_login(centre.user)
    assert client.get(url).status_code in (200, 404)


@pytest.mark.parametrize("offset", ["-9" * 3, "9" * 20, "9" * 5000, "１２", "1_0", "1e3", "\x00", "nan", "-0", ""])
@pytest.mark.parametrize("part", ["log", "metrics"])
def test_no_offset_makes_the_output_crash(centre: Centre, part: str, offset: str) -> None:
    job = centre.submit()
    centre.tick()
    client = Client()
    client.force_login(centre.user)
    answer = client.get(f"{job.get_absolute_url()}/{part}", {"offset": offset})
    assert answer.status_code == 200
    assert isinstance(answer.json()["next_offset"], int)


@pytest.mark.parametrize("moment", MOMENTS)
def test_no_forged_cursor_reaches_the_database(centre: Centre, moment: str) -> None:
    centre.submit()
    for direction in ("n", "p"):
        cursor = base64.urlsafe_b64encode(json.dumps([direction, moment, str(SOME_ID)]).encode()).decode().rstrip("=")
        assert ApiClient(centre.user).get(f"jobs?cursor={cursor}").status_code in (200, 400)


LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
FORMS: dict[str, dict[str, str]] = {
    "tokens beyond any exponent": {"tokens": "9e9999"},
    "tokens with a huge exponent": {"tokens": "9e99T"},
    "tokens of many digits": {"tokens": "9" * 100_000},
    "tokens in other digits": {"tokens": "٣٣٣"},
    "tokens that grow when normalised": {"tokens": "ﷺ" * 50_000},
    "nodes of many digits": {"nodes": "9" * 10_000},
    "a time of many digits": {"time_limit": "9" * 40},
    "a time that overflows": {"time_limit": "9999999999999-99:99:99"},
    "a time of many parts": {"time_limit": "1m" * 20},
    "not a number": {"bytes_per_token_on_disk": "nan"},
    "endless": {"bytes_per_token_on_disk": "1e999"},
    "next to nothing": {"bytes_per_token_on_disk": "5e-324"},
    "a NUL in the name": {"name": "a\x00b"},
    "a NUL in the script": {"script": "#!/bin/sh\n\x00"},
    "lines in the name": {"name": "a\nb"},
    "a variable that the loader reads": {"environment": "LD_PRELOAD=/tmp/x.so"},
    "many variables": {"environment": "\n".join(f"A{number}=1" for number in range(50_000))},
    "deep brackets": {"model_source": "config", "config_json": "[" * 200_000},
    "deep objects": {"model_source": "config", "config_json": '{"a":' * 20_000 + "1" + "}" * 20_000},
    "a config that is too large": {"model_source": "config", "config_json": '{"a": "' + "x" * 1_000_000 + '"}'},
    "a config of one huge number": {"model_source": "config", "config_json": json.dumps({"hidden_size": 10**4000})},
    "a config of a number too long": {"model_source": "config", "config_json": '{"hidden_size": ' + "9" * 5000 + "}"},
    "a config with infinity": {"model_source": "config", "config_json": json.dumps({**LLAMA, "rope_theta": 1e999})},
    "a config of huge sizes": {
        "model_source": "config",
        "config_json": json.dumps({**LLAMA, **dict.fromkeys(("hidden_size", "num_hidden_layers"), 10**15)}),
    },
    "a config with half a character": {
        "model_source": "config",
        "config_json": json.dumps({**LLAMA, "architectures": ["\ud800"], "\ud800": 1}),
    },
    "an architecture from elsewhere": {"model_source": "architecture", "architecture": '{"__class__": "os.system"}'},
    "somebody's job": {"cloned_from": "' OR 1=1 --"},
}


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_no_form_makes_a_page_crash_or_wait(centre: Centre, changes: dict[str, Any]) -> None:
    client = Client()
    client.force_login(centre.user)
    started = time.monotonic()
    for url in ("/jobs/new/estimate", "/jobs/new/script", "/jobs/new"):
        assert client.post(url, filled_model_form(centre, **changes)).status_code in (200, 302, 400), url
    assert time.monotonic() - started < 20
    assert all(job.reserved_s < 2**63 for job in Job.objects.all())


@pytest.mark.parametrize("variable", ["REDIS_URL", "DATABASE_URL"])
def test_no_password_stands_in_the_list_of_processes(variable: str) -> None:
    """Of the servers of these tests, which start as the portal's own do."""
    password = urlsplit(os.environ[variable]).password
    if password is None:
        assert "host=" in os.environ[variable], "without a password only a socket that is ours alone"
        return
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    assert lines
    assert not [line for line in lines if password in line]
