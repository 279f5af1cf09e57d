"""The site documents every public name, and its pages name nothing that is missing."""

import ast
import base64
import dataclasses
import json
import re
import sys
from pathlib import Path

import griffe
import pytest
import yaml
from conftest import page_text

from keras_resnet.config import VARIANTS
from keras_resnet.recipe import Recipe
from keras_resnet.weights.released import released

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import docs_pages
import figures

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
API = DOCS / "reference" / "api"
NOTEBOOKS = sorted(DOCS.glob("tutorials/*.ipynb"))
SITE = sorted([*DOCS.rglob("*.md"), *NOTEBOOKS])
BESIDE = sorted([*ROOT.glob("*.md"), *(ROOT / "models").rglob("*.md")])
PAGES = [str(page.relative_to(ROOT)) for page in [*SITE, *BESIDE]]
GENERATED = {
    *(DOCS / path for path in docs_pages.PAGES),
    *(page.with_suffix(".md") for page in NOTEBOOKS),
}
ROOMS = [
    "keras_resnet",
    "keras_resnet.baselines",
    "keras_resnet.data",
    "keras_resnet.distillation",
    "keras_resnet.evaluate",
    "keras_resnet.explain",
    "keras_resnet.export",
    "keras_resnet.layers",
    "keras_resnet.optimizers",
    "keras_resnet.report",
    "keras_resnet.scale",
    "keras_resnet.serve",
    "keras_resnet.sharing",
    "keras_resnet.train",
    "keras_resnet.transfer",
    "keras_resnet.weights",
]


@pytest.fixture(scope="module")
def package():
    """What griffe reads of the sources, without importing them."""
    return griffe.load("keras_resnet", search_paths=[ROOT])


@pytest.fixture(scope="module")
def documented(package):
    """The places of all objects that the pages of the API show."""
    objects = [
        find(package, path)
        for page in API.glob("*.md")
        for path in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    ]
    members = [inner for it in objects if it.is_module for inner in it.members.values()]
    return {it.path for it in [*objects, *members]}


def find(package, path):
    """The object of a dotted path, where it is defined."""
    name = path.partition(".")[2]
    it = package[name] if name else package
    return it.final_target if it.is_alias else it


def public_names(room):
    """The names of a room's stub if there is one, or else of its `__all__`."""
    folder = ROOT.joinpath(*room.split("."))
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    if (stub := file.with_suffix(".pyi")).exists():
        nodes = ast.parse(stub.read_text()).body
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        return [alias.asname for node in imports for alias in node.names]
    nodes = ast.parse(file.read_text()).body
    return next(
        ast.literal_eval(node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_documented(room, package, documented):
    names = public_names(room)
    assert names
    for name in names:
        it = find(package, f"{room}.{name}")
        if it.path in (*ROOMS, "keras_resnet.recipe"):
            continue
        if it.is_module:  # a function that has its module's name
            it = it[name]
        assert it.docstring, f"{it.path} has no docstring"
        assert it.path in documented, f"{it.path} is on no page of {API}"


def test_every_error_is_documented(package, documented):
    errors = package["errors"].members.values()
    assert len(errors) > 10
    for it in errors:
        assert it.docstring
        assert it.path in documented


def test_the_contents_of_the_site_are_its_pages():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    files = [DOCS / file for file in nav_files(nav)]
    assert len(files) == len({*files})
    assert {*files} == {*SITE, *GENERATED} - {*NOTEBOOKS}


def nav_files(entry):
    if isinstance(entry, str):
        return [entry]
    inner = entry.values() if isinstance(entry, dict) else entry
    return [file for it in inner for file in nav_files(it)]


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_exist(name):
    page = ROOT / name
    text = re.sub(r"`[^`]*`", "", "\n".join(prose(page)))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://", "mailto:", "#")):
            continue
        target = (page.parent / link.partition("#")[0]).resolve()
        if page in SITE:
            assert target.is_relative_to(DOCS), f"{link}: is not on the site"
        is_made = page in SITE and target in GENERATED  # when the site is built
        assert target.exists() or is_made, f"{link}: no such file"


@pytest.mark.parametrize("name", PAGES)
def test_lines_of_prose_have_at_most_100_characters(name):
    for line in prose(ROOT / name):
        is_whole = line.startswith(("|", "![")) or " " not in line.strip()
        assert len(line) <= 100 or is_whole, line


def prose(page):
    """The lines of a page that are not in a block of code."""
    is_code = False
    for line in page_text(page).splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code:
            yield line


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda page: page.stem)
def test_notebooks_keep_their_outputs_and_pictures_and_nothing_of_a_machine(page):
    pictures = []
    for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
        assert not cell["metadata"]  # times are kept there
        if cell["cell_type"] == "markdown":
            continue
        source, outputs = "".join(cell["source"]), cell["outputs"]
        shows = "plt.show()" in source or "print(" in source
        assert outputs or not shows, f"no output of\n{source}"
        for output in outputs:
            assert output.get("name", "display_data") in ("stdout", "display_data")
            data = output.get("data", {"text/plain": output.get("text")})
            assert not re.search(r"(^|[\s'\"(])/\w", "".join(data["text/plain"]))
            if "image/png" in data:
                assert source.startswith("# "), f"the picture has no text of\n{source}"
                pictures.append(base64.b64decode(data["image/png"]))
    assert len(pictures) >= 2
    assert max(map(len, pictures)) < 100_000
    assert page.stat().st_size < 400_000


def test_the_page_of_weights_has_every_variant_and_every_checkpoint():
    checkpoints, variants = docs_pages.tags().split("## Every variant")
    rows = [line for line in checkpoints.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(map(len, released().values())) == 156
    no_commerce = f"{docs_pages.NO_BREAK}nc{docs_pages.NO_BREAK}"
    assert sum(no_commerce in row for row in rows) == 15
    assert all("](https://" in row for row in rows)
    names = re.findall(r"^\| `(\w+)` \|", variants, re.MULTILINE)
    assert names == list(VARIANTS)


def test_the_page_of_fields_has_every_field_with_its_default():
    page = docs_pages.recipe_fields()
    fields = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(fields) == sorted(it.name for it in dataclasses.fields(Recipe))
    assert "| `base_rate` | `0.1` | at least 0 |" in page
    assert "| `schedule` | `cosine` | `cosine`, `steps`, `plateau` |" in page


def test_the_page_of_commands_has_each_with_its_options():
    page = docs_pages.command_line()
    commands = re.findall(r"^## ([\w-]+)$", page, re.MULTILINE)
    assert commands == docs_pages.group.list_commands(None)
    assert "keras-resnet evaluate [OPTIONS] MODEL DATA" in page
    assert "| `--ten-crop` | Average ten crops of each image. |" in page
    assert "| `--batch-size" not in page  # a field of a recipe


def test_figures_are_what_the_tool_draws(tmp_path):
    figures.main(["--output", str(tmp_path)])
    drawn = {file.name: file.read_text() for file in tmp_path.iterdir()}
    kept = {file.name: file.read_text() for file in (DOCS / "figures").iterdir()}
    assert drawn == kept
    assert "1\u00d71 conv, 128, stride 2" in kept["bottleneck.svg"]  # variant a
    assert "3\u00d73 conv, 128, stride 2" in kept["bottleneck.svg"]  # variant b
    assert "2\u00d72 avg pool, stride 2" in kept["shortcut.svg"]
