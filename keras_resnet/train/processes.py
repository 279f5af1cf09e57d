"""The processes that train one run together, each on its slice of every batch.

`jax.distributed` connects them, and a launcher such as srun starts them; each process
runs the same program. JAX ends a process hard when another one is gone, so a parent
that does not use JAX turns this into an exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from keras_resnet.errors import RunError
from keras_resnet.files import PARTIAL
from keras_resnet.runs.process import Interrupted, Stop

CONNECT = 120  # seconds for all processes to start
_WRITE = 600  # seconds that the others wait for process 0 to write
_HEARTBEAT = 60  # seconds after which a silent process counts as dead
_MESSAGE = 1 << 16  # bytes of what a process tells the others
_LEAVE = 5.0  # seconds that a process with an error waits for the others' errors

_met: Counter[str] = Counter()

# {launcher: the environment variables with its coordinator, number of processes, index}
_VARIABLES = {
    "Keras": (
        "KERAS_DISTRIBUTION_JOB_ADDRESSES",
        "KERAS_DISTRIBUTION_NUM_PROCESSES",
        "KERAS_DISTRIBUTION_PROCESS_ID",
    ),
    "JAX": ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
}
# the same, where JAX itself finds the coordinator
_DETECTED = {
    "SLURM": ("slurm", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("ompi", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
}


class PeerLost(Interrupted):
    """Raised when another process of the run died or cannot be reached."""


@dataclass(frozen=True)
class Job:
    """The processes of a run, as a launcher or the command line gives them.

    Attributes:
        source: who gave them, such as "SLURM".
        coordinator: HOST:PORT of process 0; None if JAX finds it.
        count: the number of processes.
        index: which of them this is, from 0.
        method: JAX's name for the way to find the coordinator, or None.
    """

    source: str
    coordinator: str | None
    count: int
    index: int
    method: str | None = None

    def __str__(self) -> str:
        where = f", coordinator {self.coordinator}" if self.coordinator else ""
        return f"process {self.index} of {self.count} ({self.source}{where})"


def find_job(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Job | None:
    """The processes that the arguments give, or else the environment.

    Args:
        coordinator: HOST:PORT of process 0; with it, the other two are needed.
        processes: the number of processes.
        process: the index of this process, from 0.
        environment: where the variables of Keras, JAX, SLURM and Open MPI are looked
            up, in this order.

    Returns:
        A Job, or None if there is only one process.

    Raises:
        RunError: the values are incomplete or out of range.
    """
    given = (coordinator, processes, process)
    found = None
    if any(value is not None for value in given):
        found = _job("the command line", *given)
    for source, names in _VARIABLES.items():
        values = [environment.get(name) for name in names]
        # the address alone is what JAX itself takes beside SLURM or Open MPI
        if not found and any(values[1:]):
            found = _job(f"{source}'s environment variables", *values)
    for source, (method, count, index) in _DETECTED.items():
        if not found and environment.get(count) and environment.get(index):
            address = environment.get("JAX_COORDINATOR_ADDRESS")
            numbers = environment[count], environment[index]
            found = _job(source, address or "", *numbers, method)
    return found if found and found.count > 1 else None


def _job(
    source: str,
    coordinator: str | None,
    count: str | int | None,
    index: str | int | None,
    method: str | None = None,
) -> Job:
    text = f"coordinator={coordinator!r}, processes={count!r}, process={index!r}"
    try:
        numbers = int(count or 0), int(-1 if index is None else index)
        address = (coordinator or "").split(",")[0]
        host, _, port = address.rpartition(":")
        if not method and not (host and 0 < int(port) < 65536):
            raise ValueError
    except ValueError:
        numbers = 0, -1
    if not 0 <= numbers[1] < numbers[0]:
        raise RunError(
            f"{text}, by {source}: must be HOST:PORT of process 0, the number of "
            "processes, and the index of this one, from 0"
        )
    return Job(source, address or None, *numbers, method)


@contextlib.contextmanager
def joined(job: Job | None) -> Iterator[None]:
    """Connects this process with the others of a job; within, `fit` trains with them.

    This process is forked: the child trains, and this one waits for it and exits with
    its exit code, or with 75 if JAX ended it. Call this before JAX computes anything.

    Args:
        job: what `find_job` returns; with None nothing is done.

    Raises:
        RunError: the backend is not JAX, or the processes cannot be connected.
        PeerLost: another process is gone.
    """
    if job is None:
        yield
        return
    print(job, file=sys.stderr)
    _fork(str(job))  # before Keras starts threads
    from keras_resnet.backend import keras

    if keras.backend.backend() != "jax":
        raise RunError(
            f"{job}: only the JAX backend trains on several processes; set "
            "KERAS_BACKEND=jax"
        )
    import jax

    if job.coordinator and job.index:
        _await(job.coordinator)
    set_up_jax()
    try:
        # not keras.distribution.initialize, which does the same without time limits
        jax.distributed.initialize(
            job.coordinator,
            job.count,
            job.index,
            cluster_detection_method=job.method or "deactivate",
            initialization_timeout=CONNECT,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise RunError(f"{job}: cannot be connected: {_line(error)}") from error
    try:
        yield
        meet("end")
        jax.distributed.shutdown()
    except BaseException as error:
        if not isinstance(error, PeerLost):
            # a request to stop comes to all; of another error that is not known
            seconds = _WRITE if isinstance(error, Interrupted) else _LEAVE
            with contextlib.suppress(Exception):
                meet("end", seconds)
        # before JAX's own, which waits for the other processes
        atexit.register(_leave, 75 if isinstance(error, KeyboardInterrupt) else 1)
        raise


def set_up_jax() -> None:
    """Sets what training on several processes needs, before JAX computes anything."""
    jax = _jax()
    # programs with collective operations must run in the same order everywhere
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # `stoppable` handles SIGTERM
    jax.config.update("jax_enable_preemption_service", False)


def _fork(name: str) -> None:
    """Goes on in a child; the parent passes signals on, and exits as the child does."""
    child = os.fork()
    if child == 0:
        threading.Thread(target=_die_with, args=[os.getppid()], daemon=True).start()
        return
    first: list[float] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        # some launchers, and a terminal's Ctrl-C, signal parent and child at once
        again = bool(first) and time.monotonic() - first[0] > 1
        first.append(time.monotonic())
        os.kill(child, signal.SIGKILL if again else number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, pass_on)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        by = signal.Signals(-code).name
        why = ", as JAX does when another process is gone" if by == "SIGABRT" else ""
        text = f"{name}: ended by {by}{why}; run the same commands again to resume"
        print(f"keras-resnet: {text}", file=sys.stderr)
        code = 75
    os._exit(code)


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(75)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _await(coordinator: str) -> None:
    """Waits until process 0 listens; JAX would end this process without an error."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + CONNECT
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), 5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    f"coordinator={coordinator!r}: does not answer within {CONNECT} "
                    f"seconds ({error}); start process 0 there too"
                ) from error
            time.sleep(0.2)


def count() -> int:
    """The number of processes that are connected; 1 without any other."""
    return _jax().process_count() if _is_connected() else 1


def index() -> int:
    """Which of the connected processes this is, from 0."""
    return _jax().process_index() if _is_connected() else 0


def _is_connected() -> bool:
    # without this, asking for the number of processes would start JAX's devices
    return "jax" in sys.modules and _jax().distributed.is_initialized()


def _jax() -> Any:
    import jax

    return jax


def gathered(value: Any) -> list[Any]:
    """What each process passes, in their order; all of them must call this.

    Args:
        value: JSON of up to 64 KiB.
    """
    if count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    text = json.dumps(value).encode()
    assert len(text) < _MESSAGE
    buffer = np.zeros(_MESSAGE, np.uint8)
    buffer[: len(text)] = np.frombuffer(text, np.uint8)
    rows = multihost_utils.process_allgather(buffer)
    return [json.loads(row.tobytes().rstrip(b"\0")) for row in np.asarray(rows)]


def meet(name: str, seconds: float = _WRITE) -> None:
    """Waits until all processes have called this with the same name.

    Raises:
        Exception: they do not come in time; of a kind that is JAX's.
    """
    if count() > 1:
        from jax._src import distributed  # its public barriers have no time limit

        _met[name] += 1  # a barrier can be used once
        client: Any = distributed.global_state.client
        client.wait_at_barrier(f"{name} {_met[name]}", int(1000 * seconds))


class SharedStop(Stop):
    """A request to stop that any process may get, and all follow at the same step.

    What a process was asked goes to the others with one step's delay, so that no step
    waits for it.
    """

    def __init__(self) -> None:
        jax = _jax()
        mesh = jax.sharding.Mesh(np.array(jax.devices()), "batch")
        self._shards = jax.sharding.NamedSharding(mesh, jax.P("batch"))
        everywhere = jax.sharding.NamedSharding(mesh, jax.P())
        self._highest = jax.jit(lambda x: x.max(), out_shardings=everywhere)
        self._asked, self._before = 0, None
        self._devices = jax.local_device_count()

    def ask(self, number: int) -> bool:
        self._asked = self._asked or number
        return False

    def look(self) -> None:
        before = self._before
        asked = np.full(self._devices, self._asked, np.int32)
        asked = _jax().make_array_from_process_local_data(self._shards, asked)
        self._before = self._highest(asked)
        if before is not None and self.signal is None:
            self.signal = int(before) or None


def check_same(facts: Mapping[str, Any]) -> None:
    """Raises a RunError in all processes if their facts differ.

    Args:
        facts: {what: JSON, perhaps a dict}, such as {"versions": {"keras": "3.15.1"}}.
    """
    first, *rows = gathered(facts)
    for place, row in enumerate(rows, start=1):
        if differing := _differing(first, row):
            name, here, there = differing
            raise RunError(
                f"{name}: {there} in process {place}, {here} in process 0; all "
                "processes of a run must have the same"
            )


def _differing(first: Any, second: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """(name, value, value) of the first difference of two JSON values, or None."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in first.keys() | second.keys():
            found = _differing(first.get(key), second.get(key), f"{name} {key}".strip())
            if found:
                return found
        return None
    return None if first == second else (name, first, second)


def check_shared(run: Path) -> None:
    """Raises a RunError in all processes if they do not see the same directory."""
    if count() == 1:
        return
    parent = run.resolve().parent
    token = f"{PARTIAL}{os.getpid()}-{time.time_ns()}"
    token = gathered(token)[0]
    if index() == 0:
        parent.mkdir(parents=True, exist_ok=True)
        (parent / token).touch()
    meet("token")
    try:
        seen = any(_is_in(token, parent) for _ in range(20))
        for place, sees in enumerate(gathered(seen)):
            if not sees:
                raise RunError(
                    f"{run}: process {place} does not see what process 0 writes there; "
                    "use a directory on a file system that all processes share"
                )
    finally:
        if index() == 0:
            (parent / token).unlink()


def _is_in(name: str, folder: Path) -> bool:
    """Whether a folder has a file, which a network file system may show later."""
    with contextlib.suppress(OSError):
        if name in os.listdir(folder):
            return True
    time.sleep(0.5)
    return False


def _is_peer_lost(error: BaseException) -> bool:
    """Whether an error means that another process is gone, by its message."""
    words = "Gloo", "NCCL", "coordination service", "CoordinationService"
    return count() > 1 and any(word in str(error) for word in words)


@contextlib.contextmanager
def explained(run: Path) -> Iterator[None]:
    """Turns an error of JAX that another process caused into a PeerLost."""
    try:
        yield
    except Exception as error:
        if not _is_peer_lost(error):
            raise
        raise PeerLost(
            f"{run}: another process of this run is gone ({_line(error)}); run the "
            "same commands again to resume from the last checkpoint"
        ) from error


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
