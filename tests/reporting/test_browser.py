"""The results page in a real browser: it draws, answers the reader, and logs no error."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import ROLES

from bench.reporting import figures
from bench.reporting.page import document
from bench.reporting.page.chooser import chooser
from bench.reporting.tables import evidence_of, tables
from bench.settings import Comparison
from bench.store import read_parquet_if_there
from bench.tasks.catalogue import TASKS as KNOWN

selenium = pytest.importorskip("selenium", reason="the page's behaviour is tested with selenium: pip install selenium")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"
)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--force-prefers-reduced-motion", "--window-size=1280,1000",
)  # fmt: skip
WAIT = 30
AXE = Path(__file__).parent / "axe" / "axe.min.js"
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(DRIVER)) as browser:
        yield browser


@pytest.fixture(scope="module")
def choice(points: pd.DataFrame, results: Path) -> dict[str, Any]:
    evidence = evidence_of(points, results / "runs", Comparison(resamples=100))
    assert evidence
    some = points[points["task"].isin(["cola", "rte"])]
    return chooser(some, ROLES, evidence, KNOWN, read_parquet_if_there(results / "latency.parquet"))


@pytest.fixture(scope="module")
def address(points: pd.DataFrame, choice: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    some = points[points["task"].isin(["cola", "rte"])]
    folder: Path = tmp_path_factory.mktemp("page")
    figure = figures.score_against_cost(some, ROLES, cost=figures.COSTS["parameters"])
    figures.drawing.save(figure, folder / "figures", "parameters")
    return document.write(some, folder, tables(some, ROLES), ROLES, choice=choice).as_uri()


@pytest.fixture
def browser(driver: webdriver.Chrome, address: str) -> Iterator[webdriver.Chrome]:
    """The page, drawn; whatever the test did, the console must be silent."""
    driver.get(address)
    WebDriverWait(driver, WAIT).until(lambda each: each.find_elements(By.CSS_SELECTOR, "#plot .scatterlayer .trace"))
    yield driver
    assert driver.get_log("browser") == []


def choose(browser: webdriver.Chrome, control: str, value: str) -> None:
    Select(browser.find_element(By.ID, control)).select_by_value(value)


def traces(browser: webdriver.Chrome) -> dict[str, list[list[float]]]:
    """Name -> the [x, y] points of each method that is drawn."""
    return browser.execute_script(
        """const plot = document.getElementById("plot");
        return Object.fromEntries(plot._fullData.filter((each) => each.visible === true).map((each) =>
            [each.name, [...each.x].map((x, i) => [x, each.y[i]]).filter((point) => point[0] !== null)]));"""
    )


def status(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.ID, "status").text


def test_it_opens_on_the_mean_of_all_tasks(browser: webdriver.Chrome) -> None:
    assert status(browser).startswith("Mean of all tasks:")
    assert set(traces(browser)) >= {"Teacher", "COST-EFF", "PABEE"}
    assert "COST-EFF 2x, no assistant" not in traces(browser)
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


def test_choosing_a_task_redraws(browser: webdriver.Chrome) -> None:
    before = traces(browser)
    choose(browser, "task", "rte")
    assert status(browser).startswith("RTE:")
    after = traces(browser)
    assert after["COST-EFF"] != before["COST-EFF"]
    choose(browser, "which", "all")
    assert len(traces(browser)["COST-EFF"]) > len(after["COST-EFF"])
    choose(browser, "split", "calibration")
    assert "calibration" in status(browser)
    assert traces(browser)["COST-EFF"] != after["COST-EFF"]


def test_every_axis_can_be_chosen(browser: webdriver.Chrome) -> None:
    choose(browser, "task", "cola")
    for axis in [option.get_attribute("value") for option in Select(browser.find_element(By.ID, "x")).options]:
        choose(browser, "x", axis)
        assert traces(browser)["PABEE"], axis
    metrics = [option.text for option in Select(browser.find_element(By.ID, "y")).options]
    assert metrics[0] == "Matthews correlation (ranks)"
    assert "accuracy" in metrics
    choose(browser, "y", "accuracy")
    title = browser.find_element(By.CSS_SELECTOR, "#plot .ytitle").get_attribute("textContent")
    assert title == "accuracy × 100"


def test_hovering_over_a_mark_shows_its_point(browser: webdriver.Chrome) -> None:
    choose(browser, "task", "rte")
    place = browser.execute_script(
        """const plot = document.getElementById("plot");
        const trace = plot._fullData.find((each) => each.name === "COST-EFF");
        plot.scrollIntoView({ block: "center", behavior: "instant" });
        const [x, y] = [plot._fullLayout.xaxis, plot._fullLayout.yaxis];
        const box = plot.getBoundingClientRect();
        return [box.left + x._offset + x.d2p(trace.x[0]), box.top + y._offset + y.d2p(trace.y[0])];"""
    )
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(round(place[0]) - 20, round(place[1]))
    actions.w3c_actions.pointer_action.move_to_location(round(place[0]), round(place[1]))
    actions.perform()
    labels = WebDriverWait(browser, WAIT).until(
        lambda each: each.find_elements(By.CSS_SELECTOR, "#plot .hoverlayer .hovertext")
    )
    words = labels[0].get_attribute("textContent")
    for part in (
        "COST-EFF",
        "seed",
        "fixed exit",  # the cheapest of its frontier
        "accuracy",
        "FLOPs",
        "speed-up by FLOPs",
        "measured at batch 32",
    ):
        assert part in words, words


def test_a_method_that_was_hidden_stays_hidden(browser: webdriver.Chrome) -> None:
    entry = next(
        each
        for each in browser.find_elements(By.CSS_SELECTOR, "#plot .legend .traces")
        if "PABEE" in each.get_attribute("textContent")
    )
    entry.find_element(By.CSS_SELECTOR, ".legendtoggle").click()
    WebDriverWait(browser, WAIT).until(lambda each: "PABEE" not in traces(each))
    choose(browser, "task", "cola")
    assert "PABEE" not in traces(browser)
    assert "COST-EFF" in traces(browser)


def test_a_table_sorts_by_the_column_that_is_clicked(browser: webdriver.Chrome) -> None:
    table = browser.find_element(By.CSS_SELECTOR, "#table-main table")
    head = next(each for each in table.find_elements(By.TAG_NAME, "th") if each.text.startswith("CoLA"))
    column = table.find_elements(By.TAG_NAME, "th").index(head)
    button = head.find_element(By.TAG_NAME, "button")

    def cells() -> list[str]:
        rows = table.find_elements(By.CSS_SELECTOR, "tbody tr")
        return [row.find_elements(By.TAG_NAME, "td")[column].get_attribute("data-key") for row in rows]

    before = cells()
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    known = [float(value) for value in cells() if value]
    assert known == sorted(known, reverse=True)
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in cells() if value] == sorted(known)
    assert sorted(cells()) == sorted(before)
    assert cells()[len(known) :] == [""] * (len(before) - len(known))


def pick(browser: webdriver.Chrome, group: str, value: str) -> None:
    """Click on the label of a choice, as a reader does."""
    choice = browser.find_element(By.CSS_SELECTOR, f"#choices input[name={group}][value='{value}']")
    browser.execute_script("arguments[0].parentElement.click()", choice)


def test_which_method_at_a_budget_takes_three_clicks_at_most(browser: webdriver.Chrome, choice: dict[str, Any]) -> None:
    answer = browser.find_element(By.ID, "answer")
    pick(browser, "budgets", "2")
    pick(browser, "tasks", "pairs")
    pick(browser, "metrics", "accuracy")
    block = choice["blocks"]["flops 2 pairs accuracy"]
    assert answer.text == block["answer"]
    rows = browser.find_elements(By.CSS_SELECTOR, "#choice-rows tr")
    assert [row.find_element(By.TAG_NAME, "th").text for row in rows] == [row["method"] for row in block["rows"]]
    assert any(word in rows[1].text for word in ("worse", "equal", "not decided"))


def test_the_chooser_works_with_the_keyboard(browser: webdriver.Chrome, choice: dict[str, Any]) -> None:
    tasks = [name for name, _ in choice["tasks"]]
    browser.execute_script("document.querySelector('#choices input[name=tasks]:checked').focus()")
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    chosen = browser.find_element(By.CSS_SELECTOR, "#choices input[name=tasks]:checked").get_attribute("value")
    assert chosen == tasks[1]
    answer = browser.find_element(By.ID, "answer").text
    assert answer in [choice["blocks"][f"flops {b} {chosen} score"]["answer"] for b, _ in choice["budgets"]]


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(browser: webdriver.Chrome, width: int) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE | {"width": width, "mobile": width < 500})
    try:
        browser.execute_script(AXE.read_text(encoding="utf-8"))
        found = browser.execute_async_script("axe.run().then((found) => arguments[0](found.violations))")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in serious] == []


def test_a_phone_scrolls_tables_inside_themselves_and_scales_figures(browser: webdriver.Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        WebDriverWait(browser, WAIT).until(
            lambda each: each.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
        )
        images = browser.execute_script(
            "return [...document.querySelectorAll('figure img')].map((each) => each.getBoundingClientRect().width)"
        )
        inside = browser.execute_script(
            "const box = document.querySelector('#table-main .scroll'); return [box.clientWidth, box.scrollWidth]"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert images and all(0 < width <= PHONE["width"] for width in images)
    assert inside[0] <= PHONE["width"] < inside[1]
