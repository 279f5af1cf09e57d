"""Whatever becomes of a worker that decodes pictures, the others go on."""

from pathlib import Path

import pytest

from keras_resnet.data.checks import workers
from keras_resnet.errors import DataError

LIMITS = {"seconds": 60.0, "memory": 2**31}

# a program in the place of inspector.py that does what the requests say
PROGRAM = """
import json, os, signal, sys, time
from multiprocessing.connection import Connection

pipe = Connection(int(sys.argv[1]))
pipe.send_bytes(b"{}")
while True:
    do = json.loads(pipe.recv_bytes())
    if do == "hang":
        time.sleep(1000)
    elif do == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif do == "memory":
        os._exit(77)
    elif do == "exit":
        os._exit(3)
    elif do == "rave":
        pipe.send_bytes(b"{")
        time.sleep(1000)
    else:
        pipe.send_bytes(json.dumps({"sha256": do, "text": str(os.getpid())}).encode())
"""


@pytest.fixture
def obedient(tmp_path, monkeypatch):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(workers, "_PROGRAM", program)
    return program


def test_whatever_a_picture_does_the_others_are_looked_at(obedient):
    evil = ["hang", "crash", "memory", "exit", "rave"]
    requests = [evil[n // 5 % 5] if n % 5 == 2 else f"fine {n}" for n in range(60)]
    answers = dict(workers.examine(requests, 3, seconds=2.0, memory=2**30))
    assert sorted(answers) == list(range(60))
    expected = {
        "hang": "took longer than 2 s",
        "crash": "the decoder died of SIGSEGV",
        "memory": "needs more than 1 GiB of memory",
        "exit": "the decoder ended with exit code 3",
        "rave": "the decoder went astray",
    }
    for place, request in enumerate(requests):
        if request in evil:
            assert answers[place] == {"reason": expected[request]}
        else:
            assert answers[place]["sha256"] == request


def alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_no_process_outlives_an_interruption(obedient):
    answers = workers.examine(["fine"] * 8 + ["hang"] * 3, 3, **LIMITS)
    pids = {int(next(answers)[1]["text"]) for _ in range(8)}
    assert all(map(alive, pids))
    answers.close()
    assert not any(map(alive, pids))


def test_program_that_cannot_start_says_why(obedient):
    obedient.write_text("raise ImportError('no tensorflow')")
    with pytest.raises(DataError, match="cannot start: ImportError: no tensor"):
        list(workers.examine(["fine"], 1, **LIMITS))
