"""The start page in a real browser: a picture goes in, five bars come out.

It needs chromium and its driver (Debian: apt-get install chromium chromium-driver).
SERVE_PNG=docs/serve.png in the environment makes the README's screenshot.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_resnet import export
from keras_resnet.export.savedmodel import SavedModel
from keras_resnet.opening import open_model

selenium = pytest.importorskip("selenium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="no chromedriver"),
]
ROOT = Path(__file__).resolve().parents[1]
COMMAND = Path(sys.executable).with_name("keras-resnet")
# files from base64 on the page, dropped or pasted as a browser does
GIVE = """
const [kind, files] = arguments;
const transfer = new DataTransfer();
for (const [name, type, data] of files) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type }));
}
const options = { bubbles: true, cancelable: true };
if (kind === "paste") {
  document.body.dispatchEvent(
    new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
} else {
  for (const step of ["dragenter", "dragover", "drop"]) {
    document.getElementById("drop").dispatchEvent(
      new DragEvent(step, { ...options, dataTransfer: transfer }));
  }
}
"""


def digit(index, side=320):
    """A written digit, enlarged; 8x8 as scikit-learn has it."""
    from sklearn.datasets import load_digits

    pixels = (load_digits().images[index] * 255 / 16).astype(np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "digits"
    export.save(
        open_model(str(ROOT / "models" / "resnet18d-digits" / "model.keras")), path
    )
    return path


@pytest.fixture(scope="module")
def server(folder):
    words = ["serve", str(folder), "--here", "--json", "--port", "0", "--max-body", "1"]
    with subprocess.Popen(
        [str(COMMAND), *words], stdout=subprocess.PIPE, text=True
    ) as process:
        process.url = json.loads(process.stdout.readline())["url"]
        yield process
        process.kill()


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for word in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.add_argument("--window-size=960,640")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, server):
    browser.get(server.url)
    wait(browser, lambda: "version 1" in text(browser, "model"))
    yield browser
    severe = [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert [e for e in severe if "Failed to load resource" not in e["message"]] == []


def wait(browser, condition, seconds=20):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(lambda _: condition())


def text(browser, name):
    return browser.find_element("id", name).text


def give(browser, kind, *files):
    rows = [(name, typ, base64.b64encode(data).decode()) for name, typ, data in files]
    browser.execute_script(GIVE, kind, rows)


def bars(browser):
    """[(class, percent as it is written, width of its bar in percent)]."""
    rows = browser.find_elements("css selector", "#classes li")
    return [
        (
            row.find_element("class name", "name").text,
            row.find_element("class name", "share").text,
            row.find_element("css selector", ".bar i").get_attribute("style"),
        )
        for row in rows
    ]


def assert_shows(browser, folder, data):
    """The five bars are the model's answer to these bytes."""
    wait(browser, lambda: "there and back" in text(browser, "facts"))
    with SavedModel(folder / "1") as model:
        answer = model.run("serving_bytes", image_bytes=[data])
    wait(browser, lambda: all("width: 0px" not in bar for _, _, bar in bars(browser)))
    shown = bars(browser)
    assert [name for name, _, _ in shown] == [
        name.decode() for name in answer["top_classes"][0]
    ]
    assert len(shown) == 5
    for (_, share, bar), probability in zip(shown, answer["top_probabilities"][0]):
        percent = 100 * float(probability)
        expected = "< 0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"
        assert share == expected
        width = float(bar.partition("width:")[2].strip(" %;"))
        assert width == pytest.approx(max(percent, 0.4), abs=0.01)
    assert "digits, version 1" in text(browser, "facts")
    assert text(browser, "problem") == ""


def test_dropped_picture_becomes_five_bars(page, folder):
    data = digit(4)
    give(page, "drop", ("four.png", "image/png", data))
    assert_shows(page, folder, data)
    assert bars(page)[0][0] == "4"
    assert text(page, "title") == "four.png"
    assert page.find_element("id", "picture").is_displayed()


def test_chosen_and_pasted_pictures_too(page, folder, tmp_path):
    (tmp_path / "seven.png").write_bytes(digit(7))
    page.find_element("id", "file").send_keys(str(tmp_path / "seven.png"))
    assert_shows(page, folder, digit(7))
    give(page, "paste", ("image.png", "image/png", digit(2)))
    wait(page, lambda: text(page, "title") == "image.png")
    assert_shows(page, folder, digit(2))
    page.find_element("id", "file").send_keys(str(tmp_path / "seven.png"))
    wait(page, lambda: text(page, "title") == "seven.png")
    assert_shows(page, folder, digit(7))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (
            "broken.png",
            digit(1)[:90],
            "broken.png cannot be read: it is no JPEG or PNG",
        ),
        ("empty.jpg", b"", "cannot be read"),
        ("<b>notes</b>.txt", b"not a picture", "<b>notes</b>.txt cannot be read"),
        ("large.png", bytes(1_500_000), "has 1.4 MB; the server takes up to 0.8 MB"),
    ],
)
def test_what_is_no_picture_is_said_and_the_next_one_works(
    name, data, words, page, folder
):
    give(page, "drop", (name, "image/png", data))
    wait(page, lambda: words in text(page, "problem"))
    assert bars(page) == []
    give(page, "drop", ("four.png", "image/png", digit(4)))
    wait(page, lambda: text(page, "title") == "four.png")
    assert_shows(page, folder, digit(4))


def test_what_is_no_file_is_said(page):
    for kind, words in (("drop", "no file"), ("paste", "no picture in the clipboard")):
        give(page, kind)
        wait(page, lambda words=words: words in text(page, "problem"))


def test_of_several_files_the_first_is_shown_and_that_is_said(page, folder):
    files = [(f"{n}.png", "image/png", digit(n)) for n in (3, 5, 6)]
    give(page, "drop", *files)
    assert_shows(page, folder, digit(3))
    assert "this is the first of 3" in text(page, "facts")


def test_last_of_two_quick_drops_is_what_is_shown(page, folder):
    give(page, "drop", ("three.png", "image/png", digit(3)))
    give(page, "drop", ("five.png", "image/png", digit(5)))
    assert_shows(page, folder, digit(5))
    assert text(page, "title") == "five.png"


def test_keyboard_reaches_the_choice_and_everything_has_a_name(page):
    from selenium.webdriver.common.keys import Keys

    page.find_element("tag name", "body").send_keys(Keys.TAB)
    focused = page.switch_to.active_element
    assert focused.get_attribute("id") == "file"
    assert "Drop a picture here" in focused.accessible_name
    assert page.find_element("id", "problem").get_attribute("role") == "alert"
    outside = page.execute_script(
        "return performance.getEntriesByType('resource').map((it) => it.name)"
    )
    assert all(name.startswith(page.current_url) for name in outside)


def resize(page, width, height):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )


@pytest.mark.parametrize("width", [340, 960])
def test_page_fits_its_window(width, page):
    resize(page, width, 800)
    give(page, "drop", (f"{'long' * 40}.png", "image/png", digit(8)))
    wait(page, lambda: len(bars(page)) == 5)
    whole = page.execute_script("return document.documentElement.scrollWidth")
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert whole <= width


@pytest.mark.skipif("SERVE_PNG" not in os.environ, reason="SERVE_PNG names no file")
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_screenshot(scheme, page, folder):
    path = Path(os.environ["SERVE_PNG"])
    if scheme == "dark":
        path = path.with_suffix(".dark.png")
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    resize(page, 960, 620)
    give(page, "drop", ("eight.png", "image/png", digit(8)))
    assert_shows(page, folder, digit(8))
    page.execute_script("document.activeElement.blur()")
    wait(page, lambda: page.save_screenshot(str(path)))


def test_server_that_has_gone_is_said(page, server):
    server.kill()
    server.wait()
    give(page, "drop", ("four.png", "image/png", digit(4)))
    wait(page, lambda: "does not answer" in text(page, "problem"))
    wait(page, lambda: "does not answer" in text(page, "model"))
