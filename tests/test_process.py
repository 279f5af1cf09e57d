"""A run's process: alone at its directory, and stopped in good order."""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from keras_resnet.errors import RunError
from keras_resnet.runs import layout, process

HEAD = """
    import sys, time
    from keras_resnet.runs import process
"""
HOLD = """
    with process.locked(sys.argv[1]):
        print("held", flush=True)
        time.sleep(120)
"""


@contextlib.contextmanager
def child(program, *arguments):
    """A process that has said its first line, and is gone afterwards."""
    source = textwrap.dedent(HEAD) + textwrap.dedent(program)
    running = subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        running.said = running.stdout.readline().strip()
        yield running
    finally:
        running.kill()
        running.communicate()


def test_directory_in_use_is_refused_naming_the_process(tmp_path):
    with child(HOLD, tmp_path) as other:
        assert other.said == "held"
        words = f"{tmp_path}: is being trained by process {other.pid} on "
        with (
            pytest.raises(RunError, match=words + socket.gethostname()),
            process.locked(tmp_path),
        ):
            raise AssertionError("two in one directory")
        assert f"process {other.pid} " in process.holder(tmp_path)
        assert (tmp_path / layout.LOCK).exists()


def test_lock_of_a_killed_process_is_taken_over(tmp_path):
    with child(HOLD, tmp_path) as other:
        assert other.said == "held"
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert f"process {other.pid} " in (tmp_path / layout.LOCK).read_text()
    assert process.holder(tmp_path) is None
    with process.locked(tmp_path):
        said = (tmp_path / layout.LOCK).read_text()
        assert said.split() == ["process", str(os.getpid()), "on", socket.gethostname()]


def test_lock_file_that_nobody_holds_is_free(tmp_path):
    (tmp_path / layout.LOCK).write_text("process 1 on another machine, long ago\n" * 9)
    with process.locked(tmp_path):
        text = (tmp_path / layout.LOCK).read_text()
    assert text == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_lock_is_released_and_removed_also_after_an_error(tmp_path):
    with pytest.raises(KeyError), process.locked(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert process.holder(tmp_path) is None
    with process.locked(tmp_path), pytest.raises(RunError), process.locked(tmp_path):
        raise AssertionError("the same process may not, either")


def test_one_of_many_that_start_at_once_gets_the_lock(tmp_path):
    inside, most, refused = [], [], []

    def once():
        try:
            with process.locked(tmp_path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.3)  # longer than anybody waits
                inside.pop()
        except RunError:
            refused.append(1)

    for _ in range(4):
        threads = [threading.Thread(target=once) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(most) == {1}
    assert refused
    assert len(most) + len(refused) == 32


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_first_signal_asks_and_handlers_come_back(number):
    # in a process of its own, which a mistake would end
    program = f"""
        import signal
        number = signal.{number}
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        before = [signal.getsignal(n) for n in numbers]
        with process.stoppable() as stop:
            assert stop.signal is None
            signal.raise_signal(number)
            assert stop.signal == number  # and nothing was raised
            assert [signal.getsignal(n) for n in numbers] == [signal.SIG_DFL] * 3
        assert before == [signal.getsignal(n) for n in numbers]
        try:
            with process.stoppable() as stop:
                raise KeyError
        except KeyError:
            assert stop.signal is None
        assert before == [signal.getsignal(n) for n in numbers]
        print("whole", flush=True)
    """
    with child(program) as running:
        assert running.said == "whole"
        assert running.wait(60) == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_process_at_once(first, second, tmp_path):
    program = """
        with process.stoppable() as stop:
            print("ready", flush=True)
            while not stop.signal:
                time.sleep(0.01)
            print("asked", flush=True)
            time.sleep(120)
    """
    with child(program) as running:
        assert running.said == "ready"
        running.send_signal(first)
        assert running.stdout.readline() == "asked\n"
        running.send_signal(second)
        assert running.wait(60) == -second


def test_outside_the_main_thread_signals_stay_as_they_are():
    seen = []

    def run():
        with process.stoppable() as stop:
            seen.append((stop.signal, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_interrupted_is_a_keyboard_interrupt():
    assert issubclass(process.Interrupted, KeyboardInterrupt)


def test_looking_who_trains_refuses_no_one(tmp_path):
    stop, seen = threading.Event(), queue.SimpleQueue()

    def look():
        while not stop.is_set():
            seen.put(process.holder(tmp_path))

    looking = threading.Thread(target=look)
    with process.locked(tmp_path):
        looking.start()
        assert seen.get(timeout=60)
    try:
        for _ in range(50):
            with process.locked(tmp_path):
                pass
    finally:
        stop.set()
        looking.join()
