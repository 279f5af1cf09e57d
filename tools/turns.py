"""Sides of a comparison in turns: each a process of its own, idle but in its turn.

A side is a program that calls `answer`; it needs this file and nothing else of the
project, since the Python it runs in may be another.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Answers = Mapping[str, Sequence[Mapping[str, float]]]  # of a side, one a round
Round = Callable[[], Mapping[str, float]]  # a side's answer of a round
Rows = list[dict[str, Any]]  # of a table
_SKIPPED = "skipped: "
_START = 15.0  # seconds that a side takes to start, about

# before a side imports TensorFlow, which leaves it off on processors with AVX2 alone
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def take(
    script: str | os.PathLike[str],
    names: Iterable[str],
    arguments: Iterable[object],
    rounds: int,
    python: str | None = None,
    only: Container[str] = (),
    seconds: float = 5.0,
) -> Answers:
    """What each side answered in each round but the first, which starts everything.

    How long it takes, about, and each answer are lines on stderr as they come.

    A side that says that it cannot run, for want of a package, is left out with a line
    on stderr; one that fails ends this program with what it wrote there.

    Args:
        script: the program of all sides; it gets a side's name and `arguments`.
        names: of the sides; those that begin with "timm" run in the other Python.
        arguments: after the name.
        rounds: that count.
        python: the other Python; without one, its sides are left out.
        only: the names of the sides to run; empty: all.
        seconds: of a side's turn, about.
    """
    names = [name for name in names if not only or name in only]
    minutes = len(names) * (_START + (rounds + 1) * seconds) / 60
    say(f"{len(names)} sides, {rounds + 1} rounds: about {minutes:.0f} min")
    answers: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sides: dict[str, tuple[subprocess.Popen, Path]] = {}
        for name in names:
            interpreter = python if name.startswith("timm") else sys.executable
            if not interpreter:
                say(f"{name}: {_SKIPPED}no --python")
                continue
            log = Path(folder, str(len(sides)))
            side = subprocess.Popen(
                [*map(str, [interpreter, script, name, *arguments])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(log.open("w")),
                text=True,
            )
            stack.enter_context(side)
            stack.callback(side.kill)
            first = _line(side, name, log)  # it has started: the next one may
            if first.startswith(_SKIPPED):
                say(f"{name}: {first}")
            else:
                sides[name], answers[name] = (side, log), []
        for turn in range(rounds + 1):
            for name, (side, log) in sides.items():
                print(file=side.stdin, flush=True)
                said = json.loads(_line(side, name, log))
                say(f"round {turn} of {rounds}, {name}: {numbers(said)}")
                if turn:
                    answers[name].append(said)
    return answers


def say(text: str) -> None:
    """Prints a line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def numbers(answer: Mapping[str, object]) -> str:
    """What of an answer is a number, as text."""
    found = {key: it for key, it in answer.items() if isinstance(it, (int, float))}
    return ", ".join(f"{key} {_cell(it)}" for key, it in found.items())


def _line(side: subprocess.Popen[str], name: str, log: Path) -> str:
    assert side.stdout is not None
    line = side.stdout.readline().strip()
    if not line:
        sys.exit(f"{name}: {log.read_text()}")
    return line


def answer(start: Callable[[], Round]) -> None:
    """A side: starts, then answers each line on standard input by what a round gives.

    Args:
        start: makes what gives the answer of a round; an ImportError of it says what
            is lacking, and skips the side.
    """
    ours = os.fdopen(os.dup(1), "w")  # libraries write to theirs
    os.dup2(2, 1)
    try:
        work = start()
    except ImportError as error:
        print(f"{_SKIPPED}{error}".replace("\n", " "), file=ours, flush=True)
        return
    print("ready", file=ours, flush=True)
    for _ in sys.stdin:
        print(json.dumps(work()), file=ours, flush=True)


def run(command: Iterable[object]) -> None:
    """A process to its end; if it fails, this program ends with what it wrote."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)


def spread(answers: Answers, name: str, key: str) -> dict[str, float]:
    """Median, least and most of a side's answers."""
    each = [answer[key] for answer in answers[name]]
    return {key: statistics.median(each), "least": min(each), "most": max(each)}


def ratios(answers: Answers, name: str, base: str, key: str) -> dict[str, float]:
    """Median, least and most of `name` / `base`, round by round."""
    each = [
        one[key] / other[key]
        for one, other in zip(answers[name], answers[base], strict=True)
    ]
    return {"ratio": statistics.median(each), "least": min(each), "most": max(each)}


def tables(result: Mapping) -> str:
    """What was measured as Markdown: each list of rows a table, each number a line."""
    lines: list[str] = []
    for name, value in result.items():
        if isinstance(value, Mapping):
            lines += ["", f"{name}:", tables(value)]
        elif isinstance(value, list):
            columns = list(dict.fromkeys(key for row in value for key in row))
            rows = [[_cell(row.get(column, "")) for column in columns] for row in value]
            lines += [
                *([""] if lines else []),
                _row(columns),
                _row("---" for _ in columns),
            ]
            lines += map(_row, rows)
        else:
            lines.append(f"- {name}: {_cell(value)}")
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine() -> dict[str, str]:
    """What the numbers are of: processor, cores, commit."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in found.items()}
    flags = fields.get("flags", "").split()
    wide = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    cores = len(os.sched_getaffinity(0))
    name = fields.get("model name", platform.machine())
    return {
        "processor": f"{name}, {cores} cores, {' '.join(wide)}".rstrip(", "),
        "commit": _git("rev-parse", "--short", "HEAD") + _git_dirty(),
    }


def _git_dirty() -> str:
    return " and changes" if _git("status", "--porcelain", "-uno") else ""


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
    return done.stdout.strip()
