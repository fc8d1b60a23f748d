"""The report in a real browser: nothing is complained about, nothing sticks out, it can be zoomed and read in the dark.

Runs where Chromium or Chrome, its driver and selenium are there.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instances.instance import Instance
from instances.schedule import Schedule, SearchPoint
from opt.replay.intracore import judge_tiles
from reports.html import render_report
from reports.intracore import tile_page
from tests.intracore.handmade import TWICE, TWICE_ANSWER

webdriver = pytest.importorskip("selenium.webdriver")
image = pytest.importorskip("PIL.Image")

from selenium.webdriver.chrome.service import Service  # noqa: E402

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no browser with its driver")

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    quiet = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for word in [*quiet.split(), "disable-component-update", "disable-sync", "disable-dev-shm-usage"]:
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(instance: Instance, schedule: Schedule, tmp_path: Path) -> str:
    """Address of a report with everything in it."""
    search = (
        SearchPoint(time_s=0.02, objective_ns=None, bound_ns=2622, source="hbm_traffic"),
        SearchPoint(time_s=0.05, objective_ns=9000, bound_ns=2622, source="greedy"),
        SearchPoint(time_s=1.5, objective_ns=7301, bound_ns=6900, source="a source with <b>a name</b>"),
    )
    told = schedule.model_copy(update={"search": search})
    reasons = {told.kernels[0].label: "because " * 30}
    html = render_report(instance, told, baselines={"stack": 9000, "unfused": 12000}, reasons=reasons)
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


def show(browser: Any, page: str, width: int = 1280, scheme: str = "light") -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page)


def sizes(browser: Any) -> list[float]:
    """How far each figure over time is stretched along time, in px."""
    return browser.execute_script(
        "return [...document.querySelectorAll('figure[data-span]')].map((figure) => {"
        "const box = figure.querySelector('.plot').getBoundingClientRect();"
        "return figure.dataset.axis === 'x' ? box.width : box.height; })"
    )


def press(browser: Any, keys: str, figure: int = 0) -> None:
    scroll = browser.find_elements("css selector", "figure[data-span] .scroll")[figure]
    browser.execute_script("arguments[0].focus()", scroll)
    scroll.send_keys(keys)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_nothing_is_complained_about(browser: Any, page: str, width: int, scheme: str) -> None:
    show(browser, page, width, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    outside = browser.execute_script(
        "const most = document.documentElement.clientWidth;"
        "return [...document.querySelectorAll('body *')].filter((part) => !part.closest('.wide, .scroll, .skip, svg')"
        " && part.getBoundingClientRect().right > most + 1).map((part) => part.outerHTML.slice(0, 80))"
    )
    assert outside == []
    for part in browser.find_elements("css selector", "svg.plot"):
        box = part.rect
        assert box["width"] > 200
        assert box["height"] > 20


@pytest.mark.parametrize("scheme", SCHEMES)
def test_there_is_something_to_see(browser: Any, page: str, scheme: str) -> None:
    show(browser, page, 1280, scheme)
    picture = image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    colours = sorted(picture.getcolors(2**24), reverse=True)
    assert len(colours) > 20
    assert colours[0][0] < 0.99 * picture.width * picture.height
    assert (sum(colours[0][1]) > 600) is (scheme == "light")
    assert (sum(colours[0][1]) < 150) is (scheme == "dark")


def test_keys_zoom_all_figures_together(browser: Any, page: str) -> None:
    show(browser, page)
    whole = sizes(browser)
    assert len(whole) == 3
    press(browser, "++")
    assert sizes(browser) == pytest.approx([4 * size for size in whole], rel=0.01)
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    press(browser, "-", figure=2)
    assert sizes(browser) == pytest.approx([2 * size for size in whole], rel=0.01)
    press(browser, "0", figure=1)
    assert sizes(browser) == pytest.approx(whole, rel=0.01)
    assert browser.get_log("browser") == []


def begins(browser: Any) -> list[float]:
    """The share of the whole span at which each figure's visible part begins, once it has come to rest."""
    return browser.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done("
        "[...document.querySelectorAll('figure[data-span]')].map((figure) => {"
        "const scroll = figure.querySelector('.scroll');"
        "const box = figure.querySelector('.plot').getBoundingClientRect();"
        "return figure.dataset.axis === 'x' ? scroll.scrollLeft / box.width : scroll.scrollTop / box.height; })), 300)"
    )


def test_figures_show_the_same_stretch_of_time(browser: Any, page: str) -> None:
    """Where one is scrolled to, and also on a screen of another width."""
    show(browser, page)
    press(browser, "++")
    browser.execute_script(
        "const scroll = document.querySelector('figure[data-span] .scroll');"
        "scroll.scrollLeft = 0.6 * scroll.scrollWidth"
    )
    assert begins(browser) == pytest.approx([0.6] * 3, abs=0.005)
    screen = {"width": 1000, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    assert begins(browser) == pytest.approx([0.6] * 3, abs=0.005)


def test_addresses_stretch_and_names_appear(browser: Any, page: str) -> None:
    show(browser, page, 390)
    l2 = "figure[data-axis='y']"
    count = f'return [...document.querySelectorAll("{l2} .plot text.on")].filter((text) => text.textContent).length'
    before = browser.execute_script(count)
    width = browser.execute_script(f'return document.querySelector("{l2} .plot").getBoundingClientRect().width')
    press(browser, ">>++", figure=2)
    assert browser.execute_script(
        f'return document.querySelector("{l2} .plot").getBoundingClientRect().width'
    ) == pytest.approx(4 * width, rel=0.1)
    assert browser.execute_script(count) > before
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_mark_of_a_core_group_tells_its_kernel(browser: Any, page: str) -> None:
    show(browser, page)
    told = browser.execute_script(
        "const figure = document.querySelectorAll('figure[data-span]')[1];"
        "const mark = figure.querySelector('g[data-k=\"3\"] rect');"
        "mark.dispatchEvent(new PointerEvent('pointerover', { bubbles: true }));"
        "return figure.querySelector('output').textContent"
    )
    assert told.startswith("kernel 3 ")
    assert "vector" in told


def test_a_link_opens_the_map_of_a_kernel(browser: Any, page: str) -> None:
    show(browser, page)
    browser.execute_script("document.querySelectorAll('details').forEach((part) => { part.open = false; })")
    browser.execute_script("document.querySelector('#k2 a').click()")
    assert browser.execute_script("return document.querySelector(location.hash).closest('details').open")


def test_without_the_script_everything_is_there(browser: Any, page: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, page)
        assert not browser.find_element("css selector", ".tools").is_displayed()
        assert len(browser.find_elements("css selector", "#k1, #k2, #k3, #k4")) == 4
        words = browser.find_element("tag name", "body").text
        assert "7.301" in words
        assert browser.find_elements("css selector", "figure[data-axis='y'] .plot rect.mark")[0].is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.fixture
def tiles(tmp_path: Path) -> str:
    """Address of the page about tile operations that moves buffers out."""
    verdict = judge_tiles(TWICE, TWICE_ANSWER)
    path = tmp_path / "tiles.html"
    html = tile_page(TWICE, TWICE_ANSWER, verdict.starts, verdict.traffic, verdict.makespan)
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_tiles_fit_and_are_drawn(browser: Any, tiles: str, width: int, scheme: str) -> None:
    show(browser, tiles, width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    drawn = browser.execute_async_script(
        "const count = (one) => new Set(new Uint32Array("
        " one.getContext('2d').getImageData(0, 0, one.width, one.height).data.buffer)).size;"
        "const tell = () => arguments[0]([...document.querySelectorAll('canvas')].map(count));"
        "requestAnimationFrame(() => requestAnimationFrame(tell))"
    )
    assert len(drawn) == 2 and min(drawn) > 5
    assert browser.get_log("browser") == []


def test_tiles_are_zoomed_and_told(browser: Any, tiles: str) -> None:
    """A key zooms; what is under the pointer is told: buffer 1, on its way back when the time is two thirds gone."""
    show(browser, tiles)
    canvas = browser.find_elements("css selector", "canvas")[1]
    told = (
        "const box = arguments[0].getBoundingClientRect();"
        "arguments[0].dispatchEvent(new PointerEvent('pointermove', { bubbles: true,"
        " clientX: box.left + 58 + 0.75 * (box.width - 59), clientY: box.top + 60 }));"
        "return document.querySelector('output').textContent"
    )
    words = browser.execute_script(told, canvas)
    assert words.startswith("Buffer 1 is on its way back in UB at 100 to 1,000, 3,660 to 5,610: 1,950 cycles")
    canvas.send_keys("++")
    canvas.send_keys("0")
    assert browser.execute_script(told, canvas) == words
    canvas.send_keys("+" * 6)
    assert browser.execute_script(told, canvas) != words
    assert browser.get_log("browser") == []


def test_tiles_without_the_script(browser: Any, tiles: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, tiles)
        assert not browser.find_element("css selector", ".figures").is_displayed()
        words = browser.find_element("tag name", "body").text
        assert "6,250" in words and "The overview and the tables need none" in words
        assert browser.find_elements("css selector", ".use path")[0].is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
