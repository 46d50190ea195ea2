"""What every answer carries, whichever part of the site gives it."""

import os
import subprocess
import sys
from typing import Any

import pytest
from django.test import Client

from jobs.models import Job
from tests.factories import make_user
from tests.jobs.conftest import Centre

EVERYWHERE = [
    "/",
    "/nothing/here",
    "/account/login/",
    "/account/logout/",
    "/account/password/reset/",
    "/account/password/change/",
    "/account/inactive/",
    "/admin/",
    "/admin/login/",
    "/admin/nothing/",
    "/admin/jobs/job/",
    "/admin/accounts/allocation/add/",
    "/api/v1/docs/",
    "/api/v1/docs/nothing",
    "/api/v1/redoc/",
    "/api/v1/openapi.json",
    "/api/v1/jobs",
    "/api/v1/nothing",
    "/api/v1/problems/refused",
    "/healthz",
]


@pytest.fixture
def admin(centre: Centre) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(make_user("admin", is_staff=True, is_superuser=True))
    return client


@pytest.mark.parametrize("is_signed_in", [True, False], ids=["signed in", "anonymous"])
@pytest.mark.parametrize("url", EVERYWHERE)
def test_every_answer_has_a_content_policy_and_is_in_no_frame(admin: Client, url: str, is_signed_in: bool) -> None:
    answer = (admin if is_signed_in else Client()).get(url)
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy, "nothing is loaded from elsewhere"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"


def test_a_crash_has_a_content_policy_and_tells_nothing(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("jobs.views.dashboard._live_context", fail)
    answer = admin.get("/")
    assert answer.status_code == 500
    assert "script-src 'self'" in answer["Content-Security-Policy"]
    assert b"hunter2" not in answer.content


def test_inline_code_runs_in_the_back_office_alone(admin: Client) -> None:
    assert "'unsafe-inline'" in admin.get("/admin/")["Content-Security-Policy"]
    for url in ("/", "/administration", "/account/login/", "/healthz"):
        assert "unsafe" not in admin.get(url)["Content-Security-Policy"], url


def test_a_downloaded_log_is_a_text_file_of_a_safe_name(centre: Centre) -> None:
    job = centre.submit()
    Job.objects.update(name='x"; filename="evil.html\r\nSet-Cookie: a=b')
    client = Client()
    client.force_login(centre.user)
    answer = client.get(f"/jobs/{job.pk}/log/download")
    assert answer["Content-Disposition"] == f'attachment; filename="{job.pk}.log"'
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["X-Content-Type-Options"] == "nosniff"


_COOKIES = """
from django.conf import settings as s
print(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, s.LANGUAGE_COOKIE_SECURE, s.SESSION_COOKIE_HTTPONLY,
      s.SESSION_COOKIE_NAME.startswith("__Host-"), s.CSRF_COOKIE_NAME.startswith("__Host-"), s.SECURE_SSL_REDIRECT,
      s.SECURE_HSTS_SECONDS > 0, s.SESSION_COOKIE_SAMESITE == "Lax", s.ALLAUTH_TRUSTED_PROXY_COUNT == 1,
      s.CELERY_ACCEPT_CONTENT == ["json"], s.CELERY_TASK_SERIALIZER == "json", not s.DEBUG)
"""


def test_with_https_cookies_are_secure_and_with_a_proxy_its_word_counts() -> None:
    environment = {**os.environ, "PORTAL_URL": "https://portal.example.org", "BEHIND_PROXY": "true", "DEBUG": ""}
    environment["DJANGO_SETTINGS_MODULE"] = "portal.settings"
    said = subprocess.run([sys.executable, "-c", _COOKIES], env=environment, capture_output=True, text=True, check=True)
    assert set(said.stdout.split()) == {"True"}


@pytest.mark.django_db
def test_the_language_cookie_is_out_of_reach_of_scripts() -> None:
    cookie = Client().post("/i18n/setlang/", {"language": "zh-hans", "next": "/"}).cookies["django_language"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"


# --- Bodies ----------------------------------------------------------------------------------------------------------


class _NotToBeRead:
    def read(self, *args: Any) -> bytes:
        raise AssertionError("the body was read")

    readline = read


@pytest.mark.parametrize("url", ["/account/login/", "/jobs/new", "/admin/login/", "/i18n/setlang/"])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(url: str) -> None:
    """Uploaded files would be written to disk first, for anybody who has a CSRF cookie."""
    client = Client(enforce_csrf_checks=True)
    client.cookies["portal_csrf"] = "a" * 32
    extra: dict[str, Any] = {"CONTENT_LENGTH": str(5 * 1024 * 1024), "wsgi.input": _NotToBeRead()}
    answer = client.generic("POST", url, content_type="multipart/form-data; boundary=x", **extra)
    assert answer.status_code == 413
    assert answer["Content-Security-Policy"]


def test_the_api_says_in_its_own_words_that_a_body_is_too_large() -> None:
    extra: dict[str, Any] = {"CONTENT_LENGTH": "9" * 30, "wsgi.input": _NotToBeRead()}
    answer = Client().generic("POST", "/api/v1/auth/token", content_type="application/json", **extra)
    assert answer.status_code == 413
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["type"].endswith("/content-too-large")
