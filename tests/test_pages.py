"""The code of the pages names what is there, and the quickstart runs as printed."""

import ast
import functools
import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

import click
import pytest
from conftest import page_text

import keras_resnet
import keras_resnet.cli
from keras_resnet.cli.base import group

ROOT = Path(__file__).parent.parent
PAGES = [
    str(page.relative_to(ROOT))
    for page in sorted(
        [
            *ROOT.glob("*.md"),
            *ROOT.glob("docs/**/*.md"),
            *ROOT.glob("docs/tutorials/*.ipynb"),
            *ROOT.glob("models/**/*.md"),
        ]
    )
    if "```" in page_text(page)
]
COMMAND = Path(sys.executable).with_name("keras-resnet")


def blocks(page, language, after="", before=None):
    """The blocks of code of a page, or of its part between two headings."""
    text = page_text(ROOT / page)
    text = text[text.index(after) : before and text.index(before)]
    found = re.findall(rf"^( *)```{language}\b[^\n]*\n(.*?)^\1```", text, re.S | re.M)
    return [textwrap.dedent(body) for _, body in found]


def resolve(path):
    """What a dotted path names, as code that imports `keras_resnet` finds it."""
    return functools.reduce(getattr, path.split(".")[1:], keras_resnet)


def dotted(node):
    """The dotted path of an expression of names, or ""."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return inner and f"{inner}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("page", PAGES)
def test_python_names_what_is_there(page):
    imported = {"keras_resnet": "keras_resnet"}
    for body in blocks(page, "python"):
        nodes = [*ast.walk(ast.parse(body))]
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_res"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    name = alias.asname or alias.name
                    if not hasattr(module, alias.name):  # then it is a module itself
                        importlib.import_module(f"{node.module}.{alias.name}")
                    imported[name] = f"{node.module}.{alias.name}"
        for node in nodes:
            path = dotted(node)
            if isinstance(node, ast.Attribute) and path.startswith("keras_resnet."):
                resolve(path)
            if isinstance(node, ast.Call):
                check_call(node, imported)


def check_call(node, imported):
    """Asserts that a function of the package has the arguments of a call."""
    first, _, rest = dotted(node.func).partition(".")
    if first not in imported:
        return
    module, _, name = imported[first].rpartition(".")
    start = getattr(importlib.import_module(module), name) if module else keras_resnet
    function = functools.reduce(getattr, filter(None, rest.split(".")), start)
    if not callable(function) or any(isinstance(it, ast.Starred) for it in node.args):
        return
    keywords = {it.arg: None for it in node.keywords if it.arg}
    inspect.signature(function).bind_partial(*node.args, **keywords)


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_their_options(page):
    for body in blocks(page, "sh"):
        for line in body.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\s)keras-resnet (.*)", line)
            if found and not line.lstrip().startswith("#"):
                check_command(found[1])


def check_command(line):
    """Asserts that the command line takes these words, without running them."""
    words = [it.strip("()") for it in shlex.split(line, comments=True)]
    if any(it in words for it in ("|", ">", "&&", "&")):
        words = words[: min(words.index(it) for it in words if it in "|>&&")]
    if not words or words[0].startswith("-"):
        return
    command = group.get_command(click.Context(group), words[0])
    assert command, f"{words[0]}: no such command"
    # of a file that is not there this says nothing
    command.make_parser(click.Context(command)).parse_args(words[1:])


def test_unknown_names_and_options_would_be_seen():
    with pytest.raises(click.NoSuchOption):
        check_command("train photos run --epoch-count 3")
    with pytest.raises(AssertionError, match="no such command"):
        check_command("trian photos run")
    node = ast.parse("keras_resnet.export.save(model, 'x', formt='onnx')").body[0].value
    with pytest.raises(TypeError, match="formt"):
        check_call(node, {"keras_resnet": "keras_resnet"})


@pytest.mark.slow
def test_quickstart_runs_as_printed(tmp_path):
    page, end = "docs/quickstart.md", "## 7. Serve"
    ours = {"PYTHONPATH": str(ROOT), "TF_ENABLE_ONEDNN_OPTS": "1"}
    path = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
    about = {"cwd": tmp_path, "env": {**os.environ, **ours, "PATH": path}}
    program = "\n".join(blocks(page, "python", "# Quickstart", end))
    told = subprocess.check_output([sys.executable, "-c", program], text=True, **about)
    assert re.search(r"top-1 9\d\.\d\d% on 360 images", told), told
    script = "\n".join(blocks(page, "sh", "## 3. Train", end))
    subprocess.run(["bash", "-e", "-c", script], check=True, **about)
    assert {it.name for it in (tmp_path / "served" / "digits").glob("[0-9]")} == {*"12"}

    start, client = "## 7. Serve", "another terminal"
    (words,) = blocks(page, "sh", start, client)
    words = shlex.split(words, comments=True)
    with subprocess.Popen(words, **about) as server:
        try:
            wait_for("http://127.0.0.1:8501/health", server)
            (program,) = blocks(page, "python", client, "## Your own images")
            command = [sys.executable, "-c", program]
            assert subprocess.check_output(command, text=True, **about)[:3] == "['0"
            if shutil.which("curl"):
                (script,) = blocks(page, "sh", client, "## Your own images")
                answer = subprocess.check_output(["bash", "-c", script], **about)
                assert b'"top_classes": ["0"' in answer
        finally:
            server.terminate()


def wait_for(url, process):
    while True:
        assert process.poll() is None
        try:
            return urllib.request.urlopen(url)
        except urllib.error.URLError:
            time.sleep(0.1)
