"""Runs that are damaged, starved and asked for something else: nothing is lost."""

import contextlib
import os
import shutil
import subprocess

import keras
import numpy as np
import pytest
from resume_program import RECIPE, STEPS, Moment
from runs import EVERY, NONE, differing, final, history, stop, wait_for

from keras_resnet import train
from keras_resnet.errors import RunError
from keras_resnet.runs import checkpoints, layout
from keras_resnet.runs.checkpoints import Place


def spoil_file(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def half(data, tmp_path_factory):
    """A run that was stopped in the middle."""
    run = tmp_path_factory.mktemp("half") / "run"
    stop(data, run, ("batch begin", 1, 2), **EVERY)
    return run


@pytest.mark.slow
def test_damaged_checkpoint_is_named_and_the_one_before_leads_to_the_same(
    half, data, peace, tmp_path, capsys
):
    run = shutil.copytree(half, tmp_path / "run")
    *_, before, damaged = checkpoints.places(run)
    spoil_file(checkpoints.path_of(run, damaged) / "state.npz")
    capsys.readouterr()
    resumed = Numbered()
    train.fit(RECIPE, data, run, keras.callbacks.Callback(), [resumed], **EVERY)
    (line,) = capsys.readouterr().err.splitlines()
    path = checkpoints.path_of(run, damaged)
    words = "damaged: state.npz does not match its SHA-256 in manifest.json"
    assert line == f"{path}: {words}; left out"
    assert resumed.steps[0] == before
    assert differing(final(run), peace) == []


def rewrite(run, change):
    """The newest checkpoint of a run once more, as a change of it says."""
    checkpoint, _ = checkpoints.newest(run)
    arrays, facts = change(dict(checkpoint.arrays), dict(checkpoint.facts))
    checkpoints.write(run, checkpoint.place, arrays, facts)
    return checkpoint.place


@pytest.mark.slow
def test_run_of_other_versions_goes_on_and_says_so(half, data, peace, tmp_path, capsys):
    run = shutil.copytree(half, tmp_path / "run")

    def age(arrays, facts):
        old = {"keras": "3.13.0", "numpy": "1.26.4", "tensorflow": None}
        return arrays, {**facts, "versions": {**facts["versions"], **old}}

    place = rewrite(run, age)
    capsys.readouterr()
    train.fit(RECIPE, data, run)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{run}: {place} was written by keras 3.13.0 (here ")
    assert f"numpy 1.26.4 (here {np.__version__}); resuming from it" in line
    assert "tensorflow None (here " in line
    assert "python" not in line
    assert differing(final(run), peace) == []


@pytest.mark.slow
def test_state_of_another_version_is_refused_with_both(half, data, tmp_path):
    run = shutil.copytree(half, tmp_path / "run")

    def lose(arrays, facts):
        del arrays["optimizer/00001"]
        return arrays, {**facts, "versions": {"keras": "2.15.0"}}

    place = rewrite(run, lose)
    before = size_of(run)
    words = rf"checkpoint {place}: .* \(optimizer/00001\).*2\.15\.0"
    with pytest.raises(RunError, match=words):
        train.fit(RECIPE, data, run)
    assert size_of(run) == before
    assert checkpoints.newest(run)[0].place == place


class Numbered(keras.callbacks.Callback):
    """The (epoch, batch) of every step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self.steps.append((self.epoch, batch))


def test_damaged_checkpoints_alone_are_an_error_and_no_fresh_start(
    half, data, tmp_path
):
    run = shutil.copytree(half, tmp_path / "run")
    for place in checkpoints.places(run):
        (checkpoints.path_of(run, place) / "manifest.json").unlink()
    before = content(run)
    with pytest.raises(RunError, match="none of its checkpoints is intact"):
        train.fit(RECIPE, data, run)
    assert content(run) == before


def content(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def mounted(folder, *options):
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no mount here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB of its own."""
    folder = tmp_path / "disk"
    mounted(folder, "-t", "tmpfs", "-o", "size=24m", "tmpfs")
    yield folder
    # lazily: TensorBoard's writer holds its file after an error
    subprocess.run(["umount", "--lazy", folder], check=True)


class Do(Moment):
    """Calls something at a moment."""

    def __init__(self, moment, call):
        super().__init__(*moment)
        self.call = call

    def at(self, hook, batch):
        if (hook, self.epoch, batch) == self.moment:
            self.call()


def fill(path):
    """Takes all the room that there is."""
    with open(path, "wb", buffering=0) as stream:
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(bytes(size))
    assert shutil.disk_usage(path.parent).free == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [("batch begin", 1, 1), ("batch end", 1, 3), ("train end", 2, 0)]
)
def test_full_disk_stops_the_run_which_goes_on_when_there_is_room(
    moment, small_disk, data, peace
):
    run, ballast = small_disk / "run", small_disk / "ballast"
    full = Do(moment, lambda: fill(ballast))
    saves = NONE if moment[0] == "batch end" else EVERY  # it fails after the epoch
    with pytest.raises((RunError, OSError)) as error:
        train.fit(RECIPE, data, run, None, [full], **saves)
    if moment[0] != "train end":
        assert isinstance(error.value, RunError)
        words = r"checkpoint of epoch\d+-batch\d+ cannot be written: No space left on"
        assert error.match(words)
        assert "\n" not in str(error.value)
    checkpoint, rejected = checkpoints.newest(run)
    assert rejected == []
    assert checkpoint.place >= (1, 0)
    ballast.unlink()
    train.fit(RECIPE, data, run, **EVERY)
    assert differing(final(run), peace) == []
    hidden = [path for path in run.rglob("*") if path.name.startswith(".")]
    assert hidden == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["read-only", pytest.param("immutable", marks=pytest.mark.slow)]
)
def test_checkpoints_that_may_not_be_written_stop_the_run(how, data, peace, tmp_path):
    run = tmp_path / "run"
    folder = run / layout.CHECKPOINTS
    words = {"read-only": "Read-only file system", "immutable": "not permitted"}[how]
    undo = []

    def forbid():
        # nothing is open for writing, which would forbid the mount
        wait_for(lambda: checkpoints.places(run)[-1:] == [Place(1)])
        wait_for(lambda: not list(folder.glob(".*")))
        if how == "read-only":
            mounted(folder, "--bind", folder)
            undo.append(["umount", folder])
            mounted(folder, "-o", "remount,ro,bind")
        else:
            done = subprocess.run(["chattr", "+i", folder], capture_output=True)
            if done.returncode:
                pytest.skip("no chattr +i here")
            undo.append(["chattr", "-i", folder])

    try:
        moment = Do(("batch begin", 1, 0), forbid)
        with pytest.raises(RunError, match=rf"cannot be written: .*{words}"):
            train.fit(RECIPE, data, run, None, [moment], **EVERY)
        before = checkpoints.newest(run)
        assert before[1] == []
        assert before[0].place >= (1, 0)
        with pytest.raises(RunError, match=rf"cannot be written: .*{words}"):
            train.fit(RECIPE, data, run, **EVERY)
    finally:
        for command in undo:
            subprocess.run(command, check=True)
    train.fit(RECIPE, data, run, **EVERY)
    assert differing(final(run), peace) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch_size": 4}, "batch_size is 8 there and 4 here"),
        ({"model": "resnet34d"}, "model is 'resnet18d' there and 'resnet34d' here"),
        ({"optimizer": "lamb"}, "optimizer is 'sgd' there and 'lamb' here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"epochs": 2}, "epochs is 3 there and 2 here"),
        ({"epochs": 4, "mixup": 0.0}, "belongs to another run: mixup is 0.2 there"),
    ],
)
def test_another_recipe_is_refused_with_the_fields(fields, words, half, data):
    before = content(half)
    with pytest.raises(RunError, match=f"{words}.*only epochs may be larger"):
        train.fit(RECIPE.replace(**fields), data, half)
    assert content(half) == before


def test_other_data_and_classes_are_refused(half, data):
    before = content(half)
    images, labels = data["train"]
    other = images.copy()
    other[0, 0, 0, 0] ^= 1
    with pytest.raises(RunError, match="another run: data_hash is"):
        train.fit(RECIPE, data | {"train": (other, labels)}, half)
    more = {name: (x, np.arange(len(x)) % 4) for name, (x, _) in data.items()}
    with pytest.raises(RunError, match="another run: class_names is"):
        train.fit(RECIPE, more, half)
    assert content(half) == before


@pytest.mark.slow
def test_more_epochs_go_on_and_what_was_killed_then_is_not_taken_for_finished(
    data, tmp_path
):
    run = tmp_path / "run"
    train.fit(RECIPE.replace(epochs=2), data, run)
    first = history(run)
    (run / layout.FINISHED).unlink()  # as of an older version
    models = ("model.keras", layout.AVERAGE, layout.BEST)
    before = [(run / name).read_bytes() for name in models]
    longer = RECIPE.replace(epochs=3)

    class Killed(Exception):
        pass

    def die():
        raise Killed

    with pytest.raises(Killed):
        train.fit(longer, data, run, None, [Do(("train end", 2, 0), die)])
    assert len(history(run)) == 3
    assert [(run / name).read_bytes() for name in models] == before  # none is lost
    assert not train.is_finished(longer, data, run)  # model.keras is of two epochs
    model = train.fit(longer, data, run)
    assert layout.finished(run) == {"epochs": 3, "of": 3, "stopped": ""}
    assert (run / "model.keras").read_bytes() != before[0]
    assert history(run)[:2] == first
    arrays = checkpoints.newest(run)[0].arrays
    state = [arrays[name] for name in sorted(arrays) if name.startswith("model/")]
    state = [array for array in state if array.shape != (2,)]  # seeds
    for weight, array in zip(model.weights, state):
        np.testing.assert_array_equal(weight.numpy(), array)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_kept(data, peace, tmp_path):
    def spoil():
        kernel = moment.model.net.get_layer("head").kernel
        kernel.assign(np.full(kernel.shape, np.nan))

    moment = Do(("batch begin", 1, 1), spoil)
    # a save that is still being written leaves out the next: the epoch may end first
    words = r"not finite at step \d, after [12] epochs; rate 0\.\d+, loss scale none"
    run = tmp_path / "run"
    with pytest.raises(RunError, match=f"{words}.*The last checkpoint is kept"):
        train.fit(RECIPE, data, run, None, [moment], **EVERY)
    checkpoint, rejected = checkpoints.newest(run)
    assert rejected == []
    assert (1, 0) <= checkpoint.place <= (1, 1)
    assert all(np.isfinite(array).all() for array in checkpoint.arrays.values())
    train.fit(RECIPE, data, run)
    assert differing(final(run), peace) == []


@pytest.mark.slow
def test_one_loss_that_is_not_finite_in_float16_stops_nothing(data, tmp_path):
    kept = []

    def overflow():
        head = begin.model.net.get_layer("head")
        kept.append(head.kernel.numpy())
        head.kernel.assign(np.full(head.kernel.shape, 3e38))

    def mend():
        begin.model.net.get_layer("head").kernel.assign(kept[0])

    begin, end = Do(("batch begin", 0, 1), overflow), Do(("batch end", 0, 1), mend)
    recipe = RECIPE.replace(precision="mixed_float16")
    train.fit(recipe, data, tmp_path / "run", None, [begin, end], **EVERY)
    losses = [row["loss"] for row in history(tmp_path / "run")]
    assert np.isfinite(losses).tolist() == [False, True, True]


class Use(keras.callbacks.Callback):
    """Bytes of the checkpoints, and open files, at every step."""

    def __init__(self, run):
        super().__init__()
        self.folder = run / layout.CHECKPOINTS
        self.bytes, self.files = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.bytes.append(size_of(self.folder))
        self.files.append(len(os.listdir("/proc/self/fd")))


def size_of(folder):
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
                stat = os.stat(os.path.join(parent, name))
                sizes[stat.st_ino] = stat.st_size  # it may be renamed meanwhile
    return sum(sizes.values())


@pytest.mark.slow
def test_long_run_takes_no_more_room_and_leaves_the_files_of_others(data, tmp_path):
    run, epochs = tmp_path / "run", 25
    use, recipe = Use(run), RECIPE.replace(epochs=epochs)
    others = [run / "thesis.txt", run / "checkpoints" / "thesis.txt", run / "my" / "a"]

    def write():
        for path in others:
            path.parent.mkdir(exist_ok=True)
            path.write_text("mine")

    begin = Do(("batch begin", 0, 2), write)
    train.fit(recipe, data, run, None, [use, begin], keep=3, **EVERY)
    one = size_of(checkpoints.path_of(run, Place(epochs)))
    rest = sum(path.stat().st_size for path in others)
    assert len(use.bytes) == epochs * STEPS
    assert max(use.bytes) <= (3 + 1 + 1) * one + rest
    assert max(use.bytes) > 2 * one  # which is more than one
    first, second = use.files[: len(use.files) // 2], use.files[len(use.files) // 2 :]
    assert max(second) <= max(first)
    assert [path.read_text() for path in others] == ["mine"] * 3
    scores = [row["val_top1"] for row in history(run)]
    best = Place(1 + int(np.argmax(scores)))
    places = checkpoints.places(run)
    assert best in places
    assert places[-1] == Place(epochs)
    assert len(places) == (4 if best < places[-3] else 3)
