"""A researcher's first job, in a real browser, against a portal with real workers."""

import pytest

from tests.browser.conftest import Browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SCRIPT = '#!/bin/bash\nexec "$PORTAL_EXAMPLES/char_transformer/job.sh" --steps 75\n'


def fill_in(browser: Browser, *, script: str) -> None:
    browser.open("/jobs/new")
    browser.choose("partition", "demo/host-cpu")
    browser.type("nodes", "1")
    browser.type("devices_per_node", "1")
    browser.choose("model_source", "preset")
    browser.choose("preset", "char-transformer-demo")
    browser.type("tokens", "76800")
    browser.choose("entry_kind", "script")
    browser.type("script", script)


def test_a_job_submitted_by_form_is_estimated_live_and_watched_to_its_end_without_a_reload(browser: Browser) -> None:
    browser.sign_in("lin")
    fill_in(browser, script=SCRIPT)
    browser.wait(lambda: "Fits on 1 card" in browser.text("#estimate"), why="no live estimate")
    browser.driver.execute_script("window.sameDocument = true")
    before = browser.text("#estimate")
    browser.type("tokens", "7680000")
    browser.wait(lambda: browser.text("#estimate") not in ("", before), why="the estimate did not follow the form")
    browser.type("tokens", "76800")
    browser.wait(lambda: browser.text("#estimate") == before, why="the estimate did not come back")
    assert browser.driver.execute_script("return window.sameDocument") is True

    browser.find("#job-form button[type=submit]").click()
    browser.wait(lambda: browser.driver.current_url.rsplit("/", 1)[-1].count("-") == 4, why="no job page")
    browser.driver.execute_script("window.sameDocument = true")
    browser.wait(lambda: "Running" in browser.text("main"), why="never seen running")
    browser.wait(lambda: "Completed" in browser.text("main"), seconds=90, why="never seen completed")
    browser.wait(lambda: "Charged" in browser.text("main"), why="never seen charged")
    browser.wait(lambda: '"event": "summary"' in browser.text(".log-pane"), why="the log was not followed")
    browser.wait(lambda: browser.driver.find_elements("css selector", "#curves canvas"), why="no loss curve")
    assert browser.driver.execute_script("return window.sameDocument") is True
    assert browser.complaints() == []

    job_id = browser.driver.current_url.rsplit("/", 1)[-1]
    job = browser.portal.client("lin").get(f"/jobs/{job_id}").json()
    assert job["state"] == "COMPLETED"
    assert job["charged_s"] == job["usage"]["elapsed_s"] > 0


def test_a_running_job_is_cancelled_after_a_question_and_pays_for_what_it_used(browser: Browser) -> None:
    browser.sign_in("lin")
    fill_in(browser, script="#!/bin/bash\nsleep 600\n")
    browser.find("#job-form button[type=submit]").click()
    browser.wait(lambda: "Running" in browser.text("main"), why="never seen running")
    browser.find("button[form=cancel-form]").click()
    browser.wait(lambda: browser.find("dialog[open]").is_displayed(), why="no question asked")
    browser.find("dialog[open] [data-confirm-agree]").click()
    browser.wait(lambda: "Cancelled" in browser.text("main"), why="never seen cancelled")
    assert browser.complaints() == []


def test_the_language_is_switched_and_stays(browser: Browser) -> None:
    browser.sign_in("lin")
    browser.open("/")
    browser.driver.execute_script("document.querySelector('form[action*=setlang] [value=zh-hans]').click()")
    browser.wait(lambda: browser.find("html").get_attribute("lang") == "zh-hans", why="the language did not change")
    browser.open("/jobs/")
    assert browser.find("html").get_attribute("lang") == "zh-hans"
    assert browser.complaints() == []
