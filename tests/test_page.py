"""The start page in a real browser: a picture goes in, bars, boxes or a mask come out.

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

# the server's answers from here on, for models that are too large to train here
ANSWER = """
const [prediction] = arguments;
const ask = window.fetch;
window.fetch = async (path, ...rest) => path.endsWith(":predict")
  ? Response.json({ predictions: [prediction] }, { headers: { "x-model-version": 1 } })
  : ask(path, ...rest);
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


def photo(width, height, orientation=1):
    file, picture = io.BytesIO(), Image.new("RGB", (width, height), "silver")
    exif = picture.getexif()
    exif[0x112] = orientation
    picture.save(file, "JPEG", exif=exif)
    return file.getvalue()


def detection(*boxes, length=100):
    """A detector's answer of (left, top, right, bottom), class, label, confidence."""
    sides, classes, labels, confidence = zip(
        *boxes, *[((-1, -1, -1, -1), "", -1, -1.0)] * (length - len(boxes))
    )
    lists = {"boxes": sides, "classes": classes, "labels": labels}
    return {**lists, "confidence": confidence, "ok": True}


TWO_CATS = detection(
    ((100, 50, 300, 150), "cat", 7, 0.9),
    ((0, 0, 400, 200), "<b>dog</b>", 2, 0.75),
    ((390, 190, 400, 200), "cat", 7, 0.5),
    ((10, 10, 20, 20), "bird", 0, 0.04),
)


def show(page, answer, data):
    page.execute_script(ANSWER, answer)
    give(page, "drop", ("photo.jpg", "image/jpeg", data))
    wait(page, lambda: "there and back" in text(page, "facts"))
    assert text(page, "problem") == ""


def rows(page):
    found = page.find_elements("css selector", "#classes li")
    return [tuple(row.text.split("\n")) for row in found if row.is_displayed()]


def shown_boxes(page):
    """[(label, left, top, right, bottom)], in parts of the picture, as listed."""
    frame = page.find_element("id", "picture").rect
    found = []
    for box in page.find_elements("css selector", "#marks > .box")[::-1]:
        if box.is_displayed():
            left = (box.rect["x"] - frame["x"]) / frame["width"]
            top = (box.rect["y"] - frame["y"]) / frame["height"]
            right = left + box.rect["width"] / frame["width"]
            bottom = top + box.rect["height"] / frame["height"]
            found.append((box.text, left, top, right, bottom))
    return found


def slide(page, steps):
    from selenium.webdriver.common.keys import Keys

    key = Keys.ARROW_RIGHT if steps > 0 else Keys.ARROW_LEFT
    page.find_element("id", "least").send_keys(*[key] * abs(steps))


@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_are_drawn_where_the_model_saw_them(orientation, page):
    show(page, TWO_CATS, photo(400, 200, orientation))
    assert rows(page) == [
        ("cat", "90.0 %"),
        ("<b>dog</b>", "75.0 %"),
        ("cat", "50.0 %"),
    ]
    assert text(page, "counts") == "2 \u00d7 cat, 1 \u00d7 <b>dog</b>"
    picture = page.find_element("id", "picture").rect
    assert picture["width"] == pytest.approx(2 * picture["height"], abs=1)
    drawn = shown_boxes(page)
    assert [box[0] for box in drawn] == ["cat 90 %", "<b>dog</b> 75 %", "cat 50 %"]
    expected = [(0.25, 0.25, 0.75, 0.75), (0, 0, 1, 1), (0.975, 0.95, 1, 1)]
    for (_, *box), sides in zip(drawn, expected):
        assert box == pytest.approx(sides, abs=0.005)


def test_slider_chooses_the_boxes(page):
    show(page, TWO_CATS, photo(400, 200))
    slide(page, 1)
    assert rows(page) == [("cat", "90.0 %"), ("<b>dog</b>", "75.0 %")]
    assert len(shown_boxes(page)) == 2
    slide(page, 9)
    assert text(page, "percent") == "100 %"
    assert text(page, "counts") == "Nothing was found with this confidence."
    assert shown_boxes(page) == rows(page) == []
    slide(page, -20)
    assert len(shown_boxes(page)) == len(rows(page)) == 4


def test_keyboard_goes_through_the_boxes(page):
    from selenium.webdriver.common.keys import Keys

    show(page, TWO_CATS, photo(400, 200))
    slider = page.find_element("id", "least")
    assert "Confidence of at least 50 %" in slider.accessible_name
    assert page.find_element("id", "marks").get_attribute("aria-hidden") == "true"
    slider.send_keys(Keys.TAB)
    for label in ("cat 90 %", "<b>dog</b> 75 %", "cat 50 %"):
        (on,) = page.find_elements("css selector", "#marks > .on")
        assert on.text == label
        page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.find_elements("css selector", "#marks > .on") == []


def test_mask_is_laid_over_the_picture_with_its_legend(page):
    mask = np.full((8, 8), 1)  # below and right of 4 x 8 is no picture
    mask[:4], mask[:2, :2], mask[3, 7] = 0, 2, 3
    names = ["background", "never", "sky", "sea"]
    answer = {"mask": mask.tolist(), "size": [4, 8], "class_names": names, "ok": True}
    show(page, answer, photo(400, 200))
    assert rows(page) == [
        ("background", "84.4 %"),
        ("sky", "12.5 %"),
        ("sea", "3.1 %"),
    ]
    assert not page.find_element("id", "sieve").is_displayed()
    picture = page.find_element("id", "picture").rect
    layers = page.find_elements("css selector", "#marks > canvas")[::-1]
    for layer, number in zip(layers, (0, 2, 3), strict=True):
        assert layer.rect == pytest.approx(picture)
        opaque = page.execute_script(
            "const [it] = arguments; return [...it.getContext('2d').getImageData("
            "0, 0, it.width, it.height).data].filter((_, place) => place % 4 === 3)",
            layer,
        )
        expected = (mask[:4] == number) & (number != 0)
        np.testing.assert_array_equal(np.reshape(opaque, (4, 8)), 255 * expected)


def test_classes_after_boxes_are_bars_again(page, folder):
    page.execute_script("window.original = window.fetch")
    show(page, TWO_CATS, photo(200, 400))
    page.execute_script("window.fetch = window.original")
    give(page, "drop", ("four.png", "image/png", digit(4)))
    assert_shows(page, folder, digit(4))
    assert shown_boxes(page) == []
    picture, drop = (page.find_element("id", it).rect for it in ("picture", "drop"))
    border = 2
    assert (
        picture["height"] == drop["height"] - 2 * border == drop["width"] - 2 * border
    )


def test_colors_of_many_classes_differ_and_carry_white_text(page):
    boxes = [((i, 0, i + 9, 9), f"class {i}", i, 0.9) for i in range(20)]
    show(page, detection(*boxes), photo(400, 200))
    colors = page.execute_script(
        "const context = document.createElement('canvas').getContext('2d');"
        "return [...document.querySelectorAll('.box b')].map((label) => {"
        "  context.fillStyle = getComputedStyle(label).backgroundColor;"
        "  context.fillRect(0, 0, 1, 1);"
        "  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)]; })"
    )
    rgb = np.asarray(colors) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # WCAG's contrast of text
    assert (1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)).min() >= 4.5
    assert len({tuple(color) for color in colors}) == 20


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


@pytest.mark.parametrize("width", [340, 760, 960])
def test_boxes_fit_the_window_too(width, page):
    resize(page, width, 800)
    show(page, detection(((0, 0, 9, 9), "long" * 40, 0, 0.9)), photo(400, 200))
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
