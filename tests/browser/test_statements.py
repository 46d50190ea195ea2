"""Reports and statements in a real browser: what is on paper, and that nothing sticks out."""

import base64
import os
from pathlib import Path

import pytest

from tests.browser.conftest import Browser

A4_INCHES = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True, "printBackground": False}
LOAD = """
from datetime import timedelta
from django.utils import timezone
from accounts.models import Allocation
from accounts.services import ledger
from jobs.models import Job, JobSegment, UsageRecord
from accounts.models import Project, User, Partition
now = timezone.now()
project = Project.objects.get(code="nlp-lab")
allocation = project.allocations.first()
partition = Partition.objects.filter(resource_class=allocation.resource_class).first()
# Its UUID begins with a digit, which no selector of the form "#id" may.
Allocation.objects.filter(pk=allocation.pk).update(
    start_at=now - timedelta(days=60), uuid="7ab0c0de-0000-4000-8000-000000000001"
)
for day in range(28):
    ended = now - timedelta(days=day, hours=1)
    user = User.objects.get(username=("lin", "chen")[day % 2])
    amount = 3600 * (1 + day % 5)
    job = Job.objects.create(user=user, project=project, partition=partition, name=f"train-{day}", nodes=1,
        devices_per_node=1, time_limit_minutes=600, reserved_s=2 * amount, billing_weight=1, charged_s=amount,
        state=("COMPLETED", "COMPLETED", "COMPLETED", "FAILED")[day % 4], submitted_at=ended - timedelta(hours=3),
        queued_at=ended - timedelta(hours=3), started_at=ended - timedelta(hours=1), ended_at=ended, settled_at=ended,
        workload={"model": {"preset": ("qwen2.5-7b", "llama-2-7b")[day % 2]}})
    segment = JobSegment.objects.create(job=job, number=1, cluster=partition.cluster, key=f"{job.pk}-1",
        first_attempt_at=ended, accounted_at=ended)
    UsageRecord.objects.create(segment=segment, devices=1, elapsed_s=amount, charged_s=amount, ended_at=ended,
        recorded_at=ended)
    ledger.reserve(project_id=project.pk, resource_class_id=allocation.resource_class_id, reference=str(job.pk),
        amount_s=2 * amount, at=ended)
    ledger.settle(reference=str(job.pk), amount_s=amount, at=ended)
"""


@pytest.fixture
def used(browser: Browser) -> Browser:
    """Four weeks of use by two people."""
    if "True" not in browser.portal.manage(
        "shell", "-v0", "-c", "from jobs.models import Job; print(Job.objects.exists())"
    ):
        browser.portal.manage("shell", "-v0", "-c", LOAD)
    browser.portal.manage("refresh_usage_days")
    assert "0 differences" in browser.portal.manage("verify_usage_days")
    browser.sign_in("chen")
    return browser


def look(browser: Browser, name: str) -> None:
    """Keep a picture where somebody who wants to look says so."""
    if directory := os.environ.get("SCREENSHOTS"):
        height = browser.driver.execute_script("return document.documentElement.scrollHeight")
        width = browser.driver.execute_script("return window.innerWidth")
        shot = browser.driver.execute_cdp_cmd(
            "Page.captureScreenshot",
            {
                "captureBeyondViewport": True,
                "clip": {"x": 0, "y": 0, "width": width, "height": min(height, 3000), "scale": 1},
            },
        )
        (Path(directory) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_a_statement_prints_on_little_paper(used: Browser, language: str) -> None:
    used.driver.add_cookie({"name": "django_language", "value": language})
    used.open("/projects/nlp-lab/statements/")
    used.find(".people a").click()
    used.wait(lambda: "statements/20" in used.driver.current_url, why="no statement")
    look(used, f"statement-{language}")
    printed = base64.b64decode(used.driver.execute_cdp_cmd("Page.printToPDF", A4_INCHES)["data"])
    if directory := os.environ.get("SCREENSHOTS"):
        (Path(directory) / f"statement-{language}.pdf").write_bytes(printed)
    assert printed.startswith(b"%PDF-")
    assert 1 <= printed.count(b"/Type /Page\n") <= 2, "three resource classes need no more paper"
    used.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not used.find(".app-header").is_displayed()
    assert not used.find("[data-print]").is_displayed()
    used.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert used.complaints() == []


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_a_report_and_a_forecast_fit_wide_and_narrow(used: Browser, language: str) -> None:
    used.driver.add_cookie({"name": "django_language", "value": language})
    for width in (1440, 390):
        used.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        for name, path in (("report", "/reports/?group_by=user"), ("project", "/projects/nlp-lab/")):
            used.open(path)
            used.wait(lambda: used.driver.find_elements("css selector", "figure.chart canvas"), why="no chart")
            look(used, f"{name}-{language}-{width}")
            assert used.driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert used.complaints() == []
