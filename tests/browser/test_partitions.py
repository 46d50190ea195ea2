"""Choosing a partition, as a person does it."""

from selenium.webdriver.common.by import By

from tests.browser.conftest import Browser

WIDTHS = (1440, 390)


def names(browser: Browser) -> list[str]:
    return [element.text for element in browser.driver.find_elements(By.CSS_SELECTOR, "tbody th[scope=row] .cell-main")]


def test_from_the_overview_to_a_partitions_nodes_and_a_new_job_there(browser: Browser) -> None:
    browser.sign_in("lin")
    browser.open("/clusters/")
    browser.wait(lambda: "Scheduler answers" in browser.text("main"), why="the inventory is not read")
    browser.driver.find_element(By.LINK_TEXT, "A800 (simulated)").click()
    browser.wait(lambda: "/clusters/demo/" in browser.driver.current_url, why="no page of a partition")
    all_nodes = ".card-actions a[href*='nodes=all']"
    browser.wait(lambda: browser.find(all_nodes), why="the nodes are not known")
    browser.find(all_nodes).click()
    browser.wait(lambda: len(names(browser)) == 8, why="not all nodes are listed")
    assert names(browser) == sorted(names(browser))
    browser.driver.find_element(By.LINK_TEXT, "State").click()
    browser.wait(lambda: "sort=state" in browser.driver.current_url, why="not sorted")
    assert "nodes=all" in browser.driver.current_url, "the choice of nodes is kept while sorting"
    browser.find(".page-actions .btn-primary").click()
    browser.wait(lambda: "/jobs/new" in browser.driver.current_url, why="no form")
    chosen = browser.find(".choice-card:has(input:checked)")
    assert "A800 (simulated)" in chosen.text
    assert "Typical wait" in chosen.text
    assert browser.complaints() == []


def test_nothing_sticks_out_and_what_is_live_keeps_the_order(browser: Browser) -> None:
    browser.sign_in("lin")
    for width in WIDTHS:
        browser.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        for path in ("/clusters/?sort=free", "/clusters/demo/a800-sim/?nodes=all&sort=since"):
            browser.open(path)
            live = browser.find("[data-live]").get_dom_attribute("data-live")
            assert live is not None
            assert live.endswith(path.partition("?")[2])
            assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width
            # The nodes come with the first look at the cluster, and the live part shows them then.
            browser.wait(lambda: browser.driver.find_elements(By.CSS_SELECTOR, ".sort-link"), why="nothing to sort")
            links = browser.driver.find_elements(By.CSS_SELECTOR, ".sort-link")
            assert all(link.is_displayed() for link in links), "tables can be sorted on a telephone, too"
    assert browser.complaints() == []
