"""A whole portal and a real Chromium before it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.running_portal import RunningPortal, running_portal

_QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--lang=en",
    "--window-size=1440,1000",
)


@dataclass
class Browser:
    """Chromium with the few moves that a person makes."""

    driver: webdriver.Chrome
    portal: RunningPortal

    def open(self, path: str) -> None:
        self.driver.get(f"{self.portal.url}{path}")

    def sign_in(self, user: str) -> None:
        self.open("/account/login/")
        self.fill_in_sign_in(user)

    def fill_in_sign_in(self, user: str) -> None:
        """On the sign-in page, wherever it leads; the button is pressed when both fields hold what was typed."""
        for name, words in (("login", user), ("password", self.portal.passwords[user])):
            self.type(name, words)
            self.wait(lambda: self.find(f"[name={name}]").get_property("value") == words, why=f"{name} not typed")  # noqa: B023
        self.find("form[action*=login] button[type=submit]").click()
        self.wait(lambda: "/account/login" not in self.driver.current_url, why="not signed in")

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return " ".join(element.text for element in self.driver.find_elements(By.CSS_SELECTOR, selector))

    def choose(self, name: str, value: str) -> None:
        """Click a radio button or choose an option, as its label."""
        element = self.find(f'[name={name}][value="{value}"], [name={name}] option[value="{value}"]')
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        if element.tag_name == "option":
            element.click()
        else:
            label = self.driver.execute_script("return arguments[0].labels[0]", element)
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", label)
            label.click()

    def type(self, name: str, value: str) -> None:
        element = self.find(f"[name={name}]")
        element.clear()
        element.send_keys(value)

    def wait(self, condition: Callable[[], Any], *, seconds: float = 60, why: str = "") -> Any:
        # An element may be replaced by a live part between being found and being read: look again then.
        waiting = WebDriverWait(
            self.driver, seconds, poll_frequency=0.2, ignored_exceptions=[StaleElementReferenceException]
        )
        try:
            return waiting.until(lambda _: condition(), message=why)
        except TimeoutException as error:
            raise AssertionError(f"waited {seconds} s in vain{why and ': '}{why}\n{self._what_is_shown()}") from error

    def _what_is_shown(self) -> str:
        """What a person would report: the address, the page's words, the console and the portal's last lines."""
        log = (self.portal.home.logs / "all.log").read_text(errors="replace").splitlines()
        return "\n".join(
            [self.driver.current_url, self.text("body")[:2000], *map(str, self.driver.get_log("browser")), *log[-40:]]
        )

    def complaints(self) -> list[str]:
        """Errors and policy violations that the console has shown since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="session")
def portal() -> Iterator[RunningPortal]:
    with running_portal() as running:
        yield running


@pytest.fixture
def browser(portal: RunningPortal) -> Iterator[Browser]:
    binary, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver_path:
        pytest.skip("chromium and chromedriver are not installed")
    profile = Path(tempfile.mkdtemp(prefix="chromium-"))
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*_QUIET, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path, env={**os.environ, "HOME": str(profile)}))
    try:
        yield Browser(driver, portal)
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)
