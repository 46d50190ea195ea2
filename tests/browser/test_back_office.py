"""The back-office works under its content policy, in a real browser."""

import pytest

from tests.browser.conftest import Browser

pytestmark = pytest.mark.browser


def test_the_back_office_works_under_its_policy(browser: Browser) -> None:
    browser.open("/admin/accounts/user/add/")
    assert "/account/login/" in browser.driver.current_url
    browser.fill_in_sign_in("admin")
    browser.wait(lambda: browser.driver.current_url.endswith("/admin/accounts/user/add/"))
    for page in ("", "accounts/project/add/", "accounts/allocation/add/", "jobs/job/", "accounts/user/?q=lin"):
        browser.open(f"/admin/{page}")
        assert "Training Portal" in browser.driver.title
        assert browser.driver.execute_script("return typeof window.Alpine") == "object"
    assert [words for words in browser.complaints() if "Security" in words or "favicon" in words] == []
