"""Several processes train one run together, as one process does."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from resume_program import RECIPE, pictures
from test_devices import PROGRAM

from keras_resnet.data import eval_batches, open_source, train_batches
from keras_resnet.errors import DataError, RunError
from keras_resnet.opening import open_model
from keras_resnet.train import processes

SECONDS = 400  # that any job here may take


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    for split, (images, labels) in pictures().items():
        for number, (image, label) in enumerate(zip(images, labels)):
            place = folder / split / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number:02}.png")
    return folder


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Job:
    """The commands of one run, each in a process group of its own."""

    def __init__(self, count, folder, run, *options, each=lambda index: (), **recipe):
        address = f"127.0.0.1:{free_port()}"
        file = run.with_suffix(".json")
        file.write_text(json.dumps(RECIPE.replace(**recipe).to_dict()))
        self.run = run
        self.commands = []
        for index in range(count):
            joined = ["--coordinator", address, "--processes", str(count)]
            joined += ["--process", str(index)]
            command = [
                sys.executable,
                "-c",
                "from keras_resnet.cli import program as p",
            ]
            command[-1] += "; p()"
            command += ["train", folder, run, "--recipe", file, "--json"]
            command += joined if count > 1 else []
            self.commands.append(
                subprocess.Popen(
                    [*map(str, command), *options, *each(index)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                    env={
                        **os.environ,
                        "KERAS_BACKEND": "jax",
                        "JAX_PLATFORMS": "cpu",
                        "CUDA_VISIBLE_DEVICES": "",
                        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                    },
                )
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for command in self.commands:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.pid, signal.SIGKILL)
            command.communicate()

    def ended(self):
        """[(exit code, last line of stderr)] of the commands, in time."""
        deadline, ends = time.monotonic() + SECONDS, []
        for command in self.commands:
            said = command.communicate(timeout=max(deadline - time.monotonic(), 1))[1]
            ends.append((command.returncode, said.strip().rpartition("\n")[2]))
        return ends

    def wait_for(self, number):
        """Waits until there are so many checkpoints."""
        deadline = time.monotonic() + SECONDS
        while len(list(self.run.glob("checkpoints/epoch*"))) < number:
            assert time.monotonic() < deadline, "no checkpoint"
            assert self.commands[0].poll() is None, self.commands[0].stderr.read()
            time.sleep(0.05)


def trained(count, folder, run, *options, **recipe):
    with Job(count, folder, run, *options, **recipe) as job:
        ends = job.ended()
    assert [code for code, _ in ends] == [0] * count, ends
    return weights_of(run)


def weights_of(run):
    history = json.loads((run / "history.json").read_text())
    return [np.array(weight) for weight in open_model(run).weights], history


def assert_same(one, several, tolerance):
    for first, second in zip(one[0], several[0], strict=True):
        np.testing.assert_allclose(second, first, atol=tolerance)
    for row, other in zip(one[1], several[1], strict=True):
        assert row["val_top5"] == 1  # of three classes
        assert row == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one(folder, tmp_path):
    fields = {"epochs": 1, "warmup_epochs": 0.0, "ema": 0.0}
    runs = tmp_path / "one", tmp_path / "two"
    with (
        Job(1, folder, runs[0], **fields) as one,
        Job(2, folder, runs[1], **fields) as two,
    ):
        ends = [*one.ended(), *two.ended()]
    assert [code for code, _ in ends] == [0] * 3, ends
    assert_same(*map(weights_of, runs), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_as_one(count, folder, tmp_path):
    # 12 pictures to evaluate, so that 4 x 8 are mostly filled up
    fields = {"eval_batch_size": 32, "accumulate": 1 if count == 4 else 2}
    one = trained(1, folder, tmp_path / "one", **fields)
    assert_same(one, trained(count, folder, tmp_path / "all", **fields), 1e-5)


@pytest.mark.slow
def test_run_goes_on_with_other_numbers_of_processes(folder, tmp_path):
    def extended(run, counts):
        for epochs, count in enumerate(counts, start=1):
            fields = {"schedule": "steps", "boundaries": [9], "warmup_epochs": 0.0}
            result = trained(count, folder, run, epochs=epochs, **fields)
        return result

    one = extended(tmp_path / "one", (1, 1, 1))
    assert_same(one, extended(tmp_path / "several", (2, 1, 4)), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_steps_in_float64(count, tmp_path):
    def steps(total):
        address, running = f"127.0.0.1:{free_port()}", []
        out = tmp_path / f"{total}.npz"
        for index in range(total):
            spec = {"devices": 1, "kind": "steps", "out": str(out)}
            if total > 1:
                spec["process"] = [address, total, index]
            environment = {
                **os.environ,
                "KERAS_BACKEND": "jax",
                "JAX_PLATFORMS": "cpu",
                "JAX_ENABLE_X64": "1",
            }
            command = [sys.executable, PROGRAM, json.dumps(spec)]
            running.append(subprocess.Popen(command, env=environment))
        assert [process.wait(SECONDS) for process in running] == [0] * total
        with np.load(out) as arrays:
            return dict(arrays)

    one, several = steps(1), steps(count)
    assert {"loss", "top1", "val_loss", "val_top1"} <= one.keys()
    for name, array in one.items():
        np.testing.assert_allclose(several[name], array, atol=1e-10, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_signal_to_one_process_stops_all_with_a_checkpoint(victim, folder, tmp_path):
    run = tmp_path / "run"
    with Job(2, folder, run, epochs=500) as job:
        job.wait_for(2)
        job.commands[victim].send_signal(signal.SIGTERM)
        for code, said in job.ended():
            assert code == 75
            assert "stopped by SIGTERM; checkpoint epoch" in said
    place = said.partition("checkpoint ")[2].split()[0]
    assert (run / "checkpoints" / place / "manifest.json").is_file()


@pytest.mark.slow
def test_killed_processes_lose_nothing(folder, tmp_path):
    fields = {"epochs": 60, "ema": 0.0}
    undisturbed = trained(2, folder, tmp_path / "undisturbed", **fields)
    run, drawn = tmp_path / "run", random.Random(0)
    for _ in range(10):
        with Job(2, folder, run, "--checkpoint-steps", "1", **fields) as job:
            time.sleep(drawn.uniform(0, 14))  # before, while and after they connect
            victim = drawn.randrange(2)
            number = drawn.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            job.commands[victim].send_signal(number)
            ends = job.ended()
        assert ends[victim][0] in (75, -signal.SIGKILL), ends
        code, said = ends[1 - victim]
        assert code == 75 or (code == 1 and "does not answer" in said), ends
    assert any(run.glob("checkpoints/epoch*"))
    resumed = trained(2, folder, run, "--checkpoint-steps", "1", **fields)
    for first, second in zip(undisturbed[0], resumed[0], strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        pytest.param({"mixup": 0.2}, (2, 4), marks=pytest.mark.slow),
        pytest.param({"mixup": 0.0}, (2, 4), marks=pytest.mark.slow),
        ({"mixup": 0.2, "cutmix": 1.0, "accumulate": 2, "colour": 0.4}, (2,)),
        ({"mixup": 0.0, "accumulate": 2, "repeats": 2}, (2,)),
    ],
)
def test_slices_make_up_the_batch(fields, counts):
    recipe, source = RECIPE.replace(**fields), open_source(pictures())

    def taken(index, count):
        batches = train_batches(source, recipe, 1, 2, (index, count))
        return [batch for batch, _ in zip(batches.as_numpy_iterator(), range(6))]

    whole = taken(0, 1)
    for count in counts:
        slices = [taken(index, count) for index in range(count)]
        for place, batch in enumerate(whole):
            for kind in (0, 1):
                shape = (recipe.accumulate, -1, *batch[kind].shape[1:])
                parts = [each[place][kind].reshape(shape) for each in slices]
                joint = np.concatenate(parts, axis=1).reshape(batch[kind].shape)
                # XLA rounds batches of other sizes differently when it mixes
                np.testing.assert_allclose(joint, batch[kind], rtol=1e-6)


def test_a_batch_of_slices_has_the_pictures_of_the_plain_one():
    recipe, source = RECIPE.replace(mixup=0.0, colour=0.0), open_source(pictures())
    plain, whole = (
        next(train_batches(source, recipe, slice_of=slice_of).as_numpy_iterator())
        for slice_of in (None, (0, 1))
    )
    np.testing.assert_array_equal(plain[0], whole[0])
    mixed = RECIPE.replace(mixup=0.2)
    plain, whole = (
        next(train_batches(source, mixed, slice_of=slice_of).as_numpy_iterator())
        for slice_of in (None, (0, 1))
    )
    order = [0, 7, 1, 6, 2, 5, 3, 4]  # who are mixed are neighbours
    for kind in (0, 1):
        np.testing.assert_allclose(plain[kind][order], whole[kind], rtol=1e-6)


@pytest.mark.parametrize(
    "size", [2, *(pytest.param(it, marks=pytest.mark.slow) for it in (4, 32))]
)
def test_every_picture_is_evaluated_once(size):
    source = open_source(pictures())
    plain = list(eval_batches(source, RECIPE, batch_size=12).as_numpy_iterator())
    for count in (1, 2):
        seen = []
        slices = [
            list(
                eval_batches(
                    source, RECIPE, batch_size=size, slice_of=(index, count)
                ).as_numpy_iterator()
            )
            for index in range(count)
        ]
        assert len({len(batches) for batches in slices}) == 1
        for batches in zip(*slices):
            for images, labels, weights in batches:
                assert len(images) == size // count
                seen += [
                    (image.tobytes(), label.argmax())
                    for image, label, weight in zip(images, labels, weights)
                    if weight
                ]
        assert seen == [
            (image.tobytes(), label.argmax()) for image, label in zip(*plain[0])
        ]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"batch_size": 2, "mixup": 0.0}, 4),
        ({"batch_size": 6, "mixup": 0.2}, 2),
        ({"batch_size": 4, "mixup": 0.0, "accumulate": 4}, 2),
    ],
)
def test_batch_that_cannot_be_divided(fields, count):
    with pytest.raises(DataError, match=r"batch_size=\d.*cannot be divided among"):
        train_batches(pictures(), RECIPE.replace(**fields), slice_of=(0, count))


JAX = {
    "JAX_COORDINATOR_ADDRESS": "host:12",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
KERAS = {
    "KERAS_DISTRIBUTION_JOB_ADDRESSES": "one:12,two:13",
    "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    "KERAS_DISTRIBUTION_PROCESS_ID": "0",
}
SLURM = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}
MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (JAX, "process 3 of 4 (JAX's environment variables, coordinator host:12)"),
        (KERAS, "process 0 of 2 (Keras's environment variables, coordinator one:12)"),
        (SLURM, "process 5 of 8 (SLURM)"),
        (MPI, "process 1 of 2 (Open MPI)"),
        (
            {**SLURM, "JAX_COORDINATOR_ADDRESS": "h:9"},
            "5 of 8 (SLURM, coordinator h:9)",
        ),
        ({**SLURM, **JAX}, "process 3 of 4"),
        ({**JAX, **KERAS}, "process 0 of 2"),
    ],
)
def test_launchers_are_found(environment, says):
    assert says in str(processes.find_job(environment=environment))


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_PROCID": "0"},
        {"JAX_COORDINATOR_ADDRESS": "host:12"},
        {**JAX, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ],
)
def test_one_process_needs_no_job(environment):
    assert processes.find_job(environment=environment) is None


def test_command_line_stands_above_the_environment():
    job = processes.find_job("here:1", 3, 2, environment={**JAX, **SLURM})
    assert str(job) == "process 2 of 3 (the command line, coordinator here:1)"


@pytest.mark.parametrize(
    ("given", "environment"),
    [
        (("host:12", 2, None), {}),
        (("host:12", None, 0), {}),
        ((None, 2, 0), {}),
        (("host", 2, 0), {}),
        (("host:0", 2, 0), {}),
        (("host:70000", 2, 0), {}),
        ((":12", 2, 0), {}),
        (("host:12", 2, 2), {}),
        ((None, None, None), {**JAX, "JAX_PROCESS_ID": "4"}),
        ((None, None, None), {**JAX, "JAX_NUM_PROCESSES": "many"}),
        ((None, None, None), {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}),
    ],
)
def test_incomplete_jobs_are_refused(given, environment):
    with pytest.raises(RunError, match="must be HOST:PORT of process 0, the number"):
        processes.find_job(*given, environment=environment)


def test_absent_coordinator_is_waited_for_in_vain(monkeypatch):
    monkeypatch.setattr(processes, "CONNECT", 0.5)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(RunError, match=rf"coordinator='{address}': does not answer"):
        processes._await(address)


def test_facts_that_differ_are_named(monkeypatch):
    facts = {"recipe": {"epochs": 3, "seed": 0}, "versions": {"keras": "3.15.1"}}
    others = {"recipe": {"epochs": 4, "seed": 0}, "versions": {"keras": "3.15.1"}}
    monkeypatch.setattr(processes, "gathered", lambda mine: [mine, facts, others])
    with pytest.raises(RunError, match="recipe epochs: 4 in process 2, 3 in process 0"):
        processes.check_same(facts)
    monkeypatch.setattr(processes, "gathered", lambda mine: [mine, facts])
    processes.check_same(facts)


@pytest.mark.slow
def test_only_jax_trains_on_several_processes(folder, tmp_path, monkeypatch):
    with Job(1, folder, tmp_path / "run") as alone:
        pass
    command = [*alone.commands[0].args, "--coordinator", "127.0.0.1:9"]
    done = subprocess.run(
        [*command, "--processes", "2", "--process", "0"],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("set KERAS_BACKEND=jax")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("each", "says"),
    [
        (
            lambda index: ["--epochs", str(3 + index)],
            "recipe epochs: 4 in process 1, 3",
        ),
        (lambda index: ["--batch-size", "1"], "batch_size=1"),
    ],
)
def test_processes_that_cannot_train_together(each, says, folder, tmp_path):
    with Job(2, folder, tmp_path / "run", each=each) as job:
        ends = job.ended()
    assert [code for code, _ in ends] == [1, 1], ends
    assert all(says in said for _, said in ends), ends
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_port_in_use_is_said(folder, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Job(
            1,
            folder,
            tmp_path / "run",
            each=lambda index: [
                *("--coordinator", address, "--processes", "2", "--process", "0")
            ],
        ) as job:
            ((code, said),) = job.ended()
    assert code == 1
    assert "cannot be connected" in said
    assert address in said


def test_error_of_a_lost_process_is_an_interruption(tmp_path, monkeypatch):
    lost = ValueError(
        "UNKNOWN: Gloo all-reduce failed: Connection closed by peer\nmore"
    )
    with pytest.raises(ValueError, match="Gloo"), processes.explained(tmp_path):
        raise lost  # of one process it is not known
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(processes.PeerLost) as caught, processes.explained(tmp_path):
        raise lost
    assert isinstance(caught.value, KeyboardInterrupt)
    assert "closed by peer); run the same commands again to resume" in str(caught.value)
    with pytest.raises(ZeroDivisionError), processes.explained(tmp_path):
        raise ZeroDivisionError


def test_directory_that_is_not_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "meet", lambda name: None)
    monkeypatch.setattr(processes, "gathered", lambda mine: [mine, False])
    with pytest.raises(RunError, match="process 1 does not see what process 0 writes"):
        processes.check_shared(tmp_path / "run")
    assert not any(tmp_path.iterdir())
