"""The report in a real browser: no request, no error, and nothing overflows.

It needs chromium and its driver (Debian: apt-get install chromium chromium-driver).
REPORT=runs/digits/report.html REPORT_PNG=docs/report.png in the environment makes a
picture of a report.
"""

import io
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from keras_resnet import report

selenium = pytest.importorskip("selenium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="no chromedriver"),
]
HEIGHT = 2165  # pixels, of the picture for the documentation


@pytest.fixture(scope="module")
def page(trained, folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "tiny.html"
    report.write(trained[0], folder, path)
    return path


def resize(browser, width, height=900):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def theme(browser, name):
    feature = {"name": "prefers-color-scheme", "value": name}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["light", "dark"])
def test_page_shows_all_of_itself_without_a_request(browser, page, width, name):
    resize(browser, width)
    theme(browser, name)
    browser.get(page.as_uri())
    run = browser.execute_script
    assert (
        run(
            "const it = document.documentElement; "
            "return it.scrollWidth - it.clientWidth"
        )
        == 0
    )
    asked = run("return performance.getEntriesByType('resource').map((it) => it.name)")
    assert [it for it in asked if not it.startswith("data:")] == []
    assert browser.get_log("browser") == []
    assert run("return [...document.images].every((it) => it.naturalWidth === 32)")
    assert run("return document.images.length") > 0
    assert run("return document.querySelectorAll('section').length") > 7
    # what is drawn, and said, has the colour of its page
    dark = name == "dark"
    colours = run(
        "return [document.body, document.querySelector('svg text')].map((it) => "
        "getComputedStyle(it)[it === document.body ? 'color' : 'fill'])"
    )
    assert len({*colours}) == 1
    assert (min(map(int, colours[0][4:-1].split(","))) > 200) == dark


def test_fold_opens_the_whole_recipe(browser, page):
    browser.get(page.as_uri())
    field = browser.find_elements("xpath", "//details//th[.='weight_decay']")[-1]
    assert not field.is_displayed()
    browser.find_elements("css selector", "summary")[-1].click()
    assert field.is_displayed()


@pytest.mark.skipif("REPORT_PNG" not in os.environ, reason="no REPORT_PNG")
def test_picture_for_the_documentation(browser):
    resize(browser, 1280, HEIGHT)
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    theme(browser, "light")
    browser.get(Path(os.environ["REPORT"]).resolve().as_uri())
    shot = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
    few = shot.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(os.environ["REPORT_PNG"], optimize=True)
    assert shot.width == 1280
    assert len(shot.getcolors(shot.width * shot.height)) > 10  # no empty page
