"""Loads a server of ours on loopback, checks every answer, and watches its memory.

    python tools/load.py [DIR] [--clients 1,8,32] [--seconds 60] [--json]

DIR is a model folder, as `keras-resnet export` writes it; without one the released
resnet18d-digits is exported. Clients send pictures of mixed sizes, one a request, 5 %
of them bad: garbage, cut, of wrong rank, or with a header that lies. Each answer must
be that which the same server gave the same request when nothing else ran. The table has
milliseconds at the 50th, 95th and 99th percentile, requests a second, and the server's
resident memory with its slope, after a warm-up by the most clients: TensorFlow keeps
what it prepared for each size of batch. Exit code 1 if an answer was wrong or the
server died.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SIDES = (32, 64, 100, 224, 320, 500, 900)  # pixels, about; odd ones come by chance
PICTURES = 64
BAD = 0.05
TOLERANCE = 1e-5  # between probabilities, alone and in a batch
LONGEST = 600  # seconds a stage
TIMEOUT = 60  # seconds an answer
WARM_UP = 30  # seconds
Answer = tuple[int, Any]  # status, what JSON says
Requests = list[tuple[bytes, Answer]]


def pictures(seed: int = 0) -> Iterator[bytes]:
    """Files of mixed sizes, shapes and formats."""
    draw = np.random.default_rng(seed)
    for index in range(PICTURES):
        side = SIDES[index % len(SIDES)]
        shape = (side, max(8, int(side * draw.uniform(0.6, 1.4))), 3)
        small = draw.integers(0, 256, (6, 6, 3), np.uint8)
        picture = Image.fromarray(small).resize(shape[1::-1], Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.save(file, "PNG" if index % 4 == 0 else "JPEG", quality=90)
        yield file.getvalue()


def bad_ones(good: bytes) -> Iterator[bytes]:
    """Bodies of requests that no server should like."""
    lying = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2
    for data in (random.Random(0).randbytes(3000), good[: len(good) // 2]):
        yield body(data)
    yield body(lying + bytes(64))
    yield body(b"")
    yield json.dumps({"instances": [[[1.0, 2.0]]]}).encode()
    yield b'{"instances": [' + b"[" * 100_000


def body(data: bytes) -> bytes:
    row = {"b64": base64.b64encode(data).decode()}
    request = {"signature_name": "serving_bytes", "instances": [row]}
    return json.dumps(request).encode()


@contextlib.contextmanager
def serving(
    folder: str | os.PathLike[str],
) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """(process, host:port, model's name) of a server."""
    command = Path(sys.executable).with_name("keras-resnet")
    words = [str(command), "serve", str(folder), "--here", "--json", "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline() or "null")
            if not facts:
                sys.exit("the server did not start")
            yield process, facts["url"].removeprefix("http://"), facts["model"]
        finally:
            process.kill()


class Client:
    """One connection, kept alive."""

    def __init__(self, address: str, name: str) -> None:
        self.path = f"/v1/models/{name}:predict"
        self.connection = http.client.HTTPConnection(address, timeout=TIMEOUT)

    def ask(self, content: bytes) -> Answer:
        """(status, answer)"""
        self.connection.request("POST", self.path, content)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())


def equal(answer: Answer, expected: Answer) -> bool:
    """Whether two answers say the same, up to the rounding of another batch size."""
    if answer[0] != expected[0] or answer[0] != 200:
        return answer == expected
    [ours], [theirs] = answer[1]["predictions"], expected[1]["predictions"]
    close = np.allclose(ours["probabilities"], theirs["probabilities"], 0, TOLERANCE)
    best, next_best = [*theirs["top_probabilities"], 0.0][:2]
    tie = best - next_best < 2 * TOLERANCE
    same = tie or ours["top_classes"][0] == theirs["top_classes"][0]
    return bool(close and same and ours.get("ok") == theirs.get("ok"))


def stage(
    address: str,
    name: str,
    process: subprocess.Popen[str],
    clients: int,
    seconds: float,
    requests: tuple[Requests, Requests],
) -> dict[str, Any]:
    """What so many clients measured in so many seconds."""
    stop = time.monotonic() + seconds
    times: list[float] = []
    wrong: list[str] = []

    def work(number: int) -> None:
        draw, client = random.Random(number), Client(address, name)
        good, bad = requests
        while time.monotonic() < stop and len(wrong) < 10:
            content, expected = draw.choice(bad if draw.random() < BAD else good)
            start = time.perf_counter()
            try:
                answer = client.ask(content)
            except (OSError, http.client.HTTPException, ValueError) as error:
                wrong.append(repr(error))
                client = Client(address, name)
                continue
            times.append(time.perf_counter() - start)
            if not equal(answer, expected):
                wrong.append(f"{answer} is not {expected}"[:500])
        client.connection.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    memory = watch(process, stop)
    for thread in threads:
        thread.join()
    return measures(clients, seconds, times, wrong, memory, process)


def watch(process: subprocess.Popen[str], stop: float) -> list[tuple[float, float]]:
    """[(second, MiB resident)] until `stop`."""
    start, memory = time.monotonic(), []
    while time.monotonic() < stop and process.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            line = next(it for it in status.splitlines() if it.startswith("VmRSS"))
            memory.append((time.monotonic() - start, int(line.split()[1]) / 1024))
        time.sleep(0.25)
    return memory


def measures(
    clients: int,
    seconds: float,
    times: list[float],
    wrong: list[str],
    memory: list[tuple[float, float]],
    process: subprocess.Popen[str],
) -> dict[str, Any]:
    milliseconds = 1000 * np.percentile(times or [np.nan], [50, 95, 99])
    settled = np.array(memory[len(memory) // 3 :] or [(0, 0)])
    still = len(settled) < 3
    slope = 0.0 if still else 60 * np.polyfit(settled[:, 0], settled[:, 1], 1)[0]
    return {
        "clients": clients,
        "requests": len(times),
        "per_second": len(times) / seconds,
        **dict(zip(("p50_ms", "p95_ms", "p99_ms"), milliseconds.tolist())),
        "wrong": len(wrong),
        "examples": wrong[:3],
        "alive": process.poll() is None,
        "memory_mib": [round(value, 1) for _, value in memory],
        # of its later two thirds
        "memory_mib_per_minute": float(slope),
    }


def run(
    folder: str | os.PathLike[str],
    clients: Sequence[int],
    seconds: float,
    say: Callable[[str], object] = print,
    warm_up: float = WARM_UP,
) -> dict[str, Any]:
    """The measures of each number of clients, and the server's exit code."""
    files = list(pictures())
    with serving(folder) as (process, address, name):
        client = Client(address, name)
        good, bad = [
            [(content, client.ask(content)) for content in contents]
            for contents in (map(body, files), bad_ones(files[1]))
        ]
        assert all(answer[0] == 200 for _, answer in good)
        client.connection.close()
        requests, stages = (good, bad), []
        if warm_up:
            stage(address, name, process, max(clients), warm_up, requests)
        for count in clients:
            stages.append(stage(address, name, process, count, seconds, requests))
            say(row(stages[-1]))
        process.send_signal(signal.SIGTERM)
        try:
            code: int | None = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            code = None
    return {"stages": stages, "exit_code": code}


HEAD = """\
| clients | requests | requests/s | p50, ms | p95, ms | p99, ms | wrong | RSS, MiB: first, last | MiB/min |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""  # noqa: E501


def row(found: Mapping[str, Any]) -> str:
    memory = found["memory_mib"] or [0.0]
    return (
        f"| {found['clients']} | {found['requests']:,} | {found['per_second']:.0f} "
        f"| {found['p50_ms']:.1f} | {found['p95_ms']:.1f} | {found['p99_ms']:.1f} "
        f"| {found['wrong']} | {memory[0]:.0f}, {memory[-1]:.0f} "
        f"| {found['memory_mib_per_minute']:+.1f} |"
    )


def exported(folder: Path) -> Path:
    """The released digits net as a model folder."""
    words = ["export", str(ROOT / "models/resnet18d-digits/model.keras"), str(folder)]
    command = Path(sys.executable).with_name("keras-resnet")
    subprocess.run([str(command), *words], check=True, stdout=subprocess.DEVNULL)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", metavar="DIR")
    parser.add_argument("--clients", default="1,8,32", help="at a time, as 1,8,32")
    parser.add_argument("--seconds", type=float, default=60, help="for each of them")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not 0 < options.seconds <= LONGEST:
        parser.error(f"--seconds {options.seconds}: must be in (0, {LONGEST}]")
    clients = [int(count) for count in options.clients.split(",")]
    if not all(0 < count <= 256 for count in clients):
        parser.error(f"--clients {options.clients}: each must be in [1, 256]")
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or exported(Path(place) / "digits")
        say = (lambda line: None) if options.json else print
        say(HEAD)
        found = run(folder, clients, options.seconds, say)
    if options.json:
        print(json.dumps(found))
    stages = found["stages"]
    for problem in [it for found in stages for it in found["examples"]]:
        print(problem, file=sys.stderr)
    good = all(found["alive"] and not found["wrong"] for found in stages)
    sys.exit(0 if good and found["exit_code"] == 0 else 1)


if __name__ == "__main__":
    main()
