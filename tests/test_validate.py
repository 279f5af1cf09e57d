"""`validate` decodes every picture, survives it, and its manifest is the truth."""

import contextlib
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hostile_pictures as hostile
import numpy as np
import pytest
import tensorflow as tf
from checkpoints import GOLDENS
from click.testing import CliRunner
from conftest import write_folder
from PIL import Image
from test_workers import alive

from keras_resnet import cli, data
from keras_resnet.data.checks import validation, workers
from keras_resnet.data.checks.inspection import inspect
from keras_resnet.data.records import encode_example
from keras_resnet.errors import DataError


@pytest.fixture
def validate(monkeypatch):
    """`data.validate` without its processes, whose start takes seconds."""

    def examine(requests, count, seconds, memory):
        for place, request in enumerate(requests):
            copy = json.loads(json.dumps(request))
            yield place, json.loads(json.dumps(inspect(copy)))

    monkeypatch.setattr(validation, "examine", examine)
    return data.validate


def reasons(report):
    return {Path(bad["where"]).name: bad["reason"] for bad in report["bad"]}


# The whole command, with its processes


def start(*arguments):
    return subprocess.Popen(
        [Path(sys.executable).with_name("keras-resnet"), "validate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A folder of all that there is, and the answer of the command on it."""
    root = write_folder(tmp_path_factory.mktemp("zoo") / "pictures", train=2, val=1)
    red = root / "train" / "red"
    for name, content in {**hostile.odd_jpegs(), **hostile.odd_pngs()}.items():
        (red / f"{name}.jpg").write_bytes(content)
    for orientation in range(1, 9):
        file = root / "train" / "green" / f"turned{orientation}.jpg"
        file.write_bytes(hostile.turned(orientation))
    for kind in ("ok", "bad"):
        for file in (GOLDENS / "pictures" / kind).iterdir():
            shutil.copy(file, root / "train" / "blue" / f"{kind}_{file.name}")
    for name, content in hostile.foreign().items():
        (root / "val" / "blue" / f"foreign_{name}.jpg").write_bytes(content)
    (red / "hog.png").write_bytes(hostile.bomb_png(9_400))  # 265 MB, and allowed
    os.mkfifo(red / "pipe.jpg")
    (red / "folder.jpg").mkdir()
    (red / "loop.jpg").symlink_to("loop.jpg")
    for name in ("twin.png", "ünï \udcff [red].JPG"):
        shutil.copy(root / "train" / "green" / "001.jpg", root / "val" / "green" / name)
    process = start(root, "--json", "--memory", "0.2", "--seconds", "60")
    said, complained = process.communicate(timeout=200)
    assert complained == ""
    return root, json.loads(said), process.returncode


def test_bad_pictures_are_all_found_and_nothing_else(zoo):
    root, report, code = zoo
    bad = {Path(entry["where"]).name for entry in report["bad"]}
    assert bad == {
        *(f"bad_{file.name}" for file in (GOLDENS / "pictures" / "bad").iterdir()),
        *(f"foreign_{name}.jpg" for name in hostile.foreign()),
        *("hog.png", "pipe.jpg", "folder.jpg", "loop.jpg"),
    }
    assert code == 1
    assert report["splits"]["train"]["pictures"] == sum(
        len(list(folder.iterdir())) for folder in (root / "train").iterdir()
    )


def test_each_bad_picture_has_its_reason(zoo):
    said = reasons(zoo[1])
    assert said["hog.png"] == "needs more than 0.2 GiB of memory"
    assert said["pipe.jpg"] == said["folder.jpg"] == "not a file"
    assert said["loop.jpg"].startswith("cannot be read (Too many levels")
    assert said["foreign_html.jpg"].startswith("not a JPEG, PNG, GIF")
    assert "20000 20000" in said["bad_bomb_20000x20000.png"]
    assert all("\n" not in reason for reason in said.values())


def test_report_counts_what_there_is(zoo):
    _, report, _ = zoo
    assert report["exif"] | {"none": 0} == {
        **{str(orientation): 1 for orientation in range(1, 9)},
        "6": 2,  # and the golden one
        "none": 0,
    }
    assert report["formats"].keys() == {"jpeg", "png", "gif", "bmp", "webp"}
    assert {"RGB", "L", "CMYK", "P", "RGBA", "LA", "1"} <= report["modes"].keys()
    assert report["modes"]["CMYK"] == 4
    # 8 PNGs that are called .jpg, the golden one, and a JPEG that is called .png
    assert report["misnamed"]["count"] == 10
    assert report["duplicates"]["across"] == 1
    assert report["duplicates"]["first"][0] == [
        str(zoo[0] / "train" / "green" / "001.jpg"),
        str(zoo[0] / "val" / "green" / "twin.png"),
        str(zoo[0] / "val" / "green" / "ünï \udcff [red].JPG"),
    ]
    assert report["classes"]["green"] == {"train": 10, "val": 3}
    good = sum(sum(counts.values()) for counts in report["classes"].values())
    assert good + len(report["bad"]) == sum(
        split["pictures"] for split in report["splits"].values()
    )


def test_manifest_is_what_training_opens(zoo, tiny):
    root, report, _ = zoo
    source = data.open_source(root)
    assert source.validated
    count = len(report["bad"])
    with pytest.raises(DataError, match=rf"{count} of its pictures cannot"):
        data.without_bad(source, count - 1)
    left, skipped = data.without_bad(source, count)
    assert [entry["reason"] for entry in skipped] == [
        entry["reason"] for entry in report["bad"]
    ]
    assert len(list(data.eval_batches(left, tiny, "train", batch_size=1))) == (
        left.train.size
    )
    entries = json.loads((root / "dataset.json").read_text())["splits"]["train"]
    entry = next(e for e in entries["files"] if e["file"].endswith("turned6.jpg"))
    sizes = {"height": 64, "width": 64, "mode": "RGB", "exif": 6, "format": "jpeg"}
    assert sizes.items() <= entry.items()


def test_command_says_how_it_went_in_its_last_line(validate, own_folder):
    done = CliRunner().invoke(cli.group, ["validate", str(own_folder)])
    assert done.exit_code == 0, done.output
    last = done.stdout.splitlines()[-1]
    assert last == f"24 images, none bad; {own_folder}/dataset.json lists them"
    (own_folder / "train" / "red" / "[b] \udcff.txt").write_text("x")
    done = CliRunner().invoke(cli.group, ["validate", str(own_folder)])
    assert done.exit_code == 1
    assert r"/[b] \udcff.txt: not a JPEG" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last == f"25 images, 1 bad; {own_folder}/dataset.json lists them"


def test_command_says_what_is_ignored_and_what_to_do(validate, own_folder):
    red = own_folder / "train" / "red"
    for orientation in (1, 3, 6):
        (red / f"turned{orientation}.jpg").write_bytes(hostile.turned(orientation))
    for name in ("rgba", "la", "palette_trns", "palette"):
        (red / f"{name}.png").write_bytes(hostile.odd_pngs()[name])
    lines = CliRunner().invoke(cli.group, ["validate", str(own_folder)]).stdout
    assert "2 images have an EXIF rotation, which training and evaluation" in lines
    assert "`keras-resnet prepare --upright` applies it" in lines
    assert "3 images have alpha, which is dropped; `keras-resnet prepare --ba" in lines
    data.prepare(own_folder, own_folder / "r", upright=True, background="white")
    lines = CliRunner().invoke(cli.group, ["validate", str(own_folder / "r")]).stdout
    assert "31 images, none bad" in lines
    assert "EXIF rotation" not in lines
    assert "have alpha" not in lines


def workers_of(pid):
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # imports have children of their own
            if "inspector.py" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


@pytest.mark.slow
def test_worker_starts_without_keras_and_without_the_nets():
    program = (
        "import sys; from keras_resnet.data.checks import inspection; "
        "import keras_resnet.memory; inspection.warm_up(); "
        "assert not {'keras', 'keras_resnet.weights'} & set(sys.modules)"
    )
    environment = {**os.environ, **workers._ENVIRONMENT}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_command_leaves_nothing_and_nobody(own_folder, how):
    process = start(own_folder)
    deadline = time.monotonic() + 60
    while not (pids := workers_of(process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 75, said
        assert said.count("\n") == 1
    deadline = time.monotonic() + 5  # less than it takes to import TensorFlow
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not list(own_folder.glob("*dataset*"))


# Again: what changed (case 22)


def damage(file, at, *values):
    content = bytearray(file.read_bytes())
    content[at : at + len(values)] = values
    file.write_bytes(content)


def test_bit_rot_that_decodes_is_found_by_the_second_call(validate, own_folder):
    whole = own_folder / "train" / "red" / "001.jpg"
    before = whole.read_bytes()
    assert validate(own_folder)["bad"] == []
    for place, values in ((-30, [before[-30] ^ 1]), (-200, [0] * 20)):
        damage(whole, len(before) + place, *values)
        data.decode_image(whole.read_bytes())  # undetectable without the manifest
        for _ in range(2):  # and it stays so
            assert reasons(validate(own_folder)) == {
                "001.jpg": "changed since dataset.json was written (SHA-256)"
            }
        with pytest.raises(DataError, match=r"1 of its pictures .*red/001.jpg"):
            data.without_bad(own_folder)
        whole.write_bytes(before)
        assert validate(own_folder)["bad"] == []
    damage(whole, len(before) - 30, before[-30] ^ 1)
    (own_folder / "dataset.json").unlink()  # which says: so it shall be
    assert validate(own_folder)["bad"] == []


def test_repaired_new_and_removed_pictures_are_taken_as_they_are(validate, own_folder):
    red = own_folder / "train" / "red"
    whole = (red / "001.jpg").read_bytes()
    (red / "001.jpg").write_bytes(whole[:300])
    assert list(reasons(validate(own_folder))) == ["001.jpg"]
    (red / "001.jpg").write_bytes(whole)
    (red / "002.jpg").unlink()
    shutil.copy(red / "004.jpg", red / "new.jpg")
    with pytest.raises(DataError, match=r"red/001.jpg: missing, or not 300"):
        data.open_source(own_folder)
    report = validate(own_folder)
    assert report["bad"] == []
    assert report["gone"] == {"count": 1, "first": [str(red / "002.jpg")]}
    assert data.open_source(own_folder).train.size == 18


def test_file_beside_the_manifest_is_refused_until_it_is_looked_at(
    validate, own_folder
):
    validate(own_folder)
    shutil.copy(own_folder / "train/red/001.jpg", own_folder / "train/red/late.jpg")
    with pytest.raises(DataError, match=r"red/late.jpg: not in .*validate"):
        data.open_source(own_folder)


def test_validated_folder_is_the_very_same_source(validate, own_folder):
    before = data.open_source(own_folder)
    validate(own_folder)
    after = data.open_source(own_folder)
    assert after.fingerprint == before.fingerprint
    assert after.train.files == before.train.files


def test_folder_that_cannot_be_written_is_reported_all_the_same(validate, own_folder):
    # root may write everywhere, but not a file where a folder is
    (own_folder / "dataset.json").mkdir()
    report = validate(own_folder)
    assert report["manifest"] is None
    assert report["problem"].startswith(f"{own_folder}: dataset.json cannot be written")
    assert "write it elsewhere with `--manifest" in report["problem"]
    assert report["splits"]["train"] == {"pictures": 18, "bad": 0}


def test_manifest_lies_elsewhere_and_is_a_source(validate, own_folder, tmp_path):
    (own_folder / "val" / "red" / "001.jpg").write_bytes(b"")
    before = sorted(own_folder.rglob("*"))
    file = tmp_path / "manifests" / "colours.json"
    arguments = ["validate", str(own_folder), "--manifest", str(file)]
    done = CliRunner().invoke(cli.group, arguments)
    assert "manifests/colours.json: must be a .json file in a" in str(done.exception)
    file.parent.mkdir()
    done = CliRunner().invoke(cli.group, arguments)
    assert done.exit_code == 1  # there is a bad one
    assert done.stdout.splitlines()[-1] == f"24 images, 1 bad; {file} lists them"
    assert sorted(own_folder.rglob("*")) == before
    source = data.open_source(file)
    assert source.path == str(own_folder)
    assert source.bad["val"] == {5: "empty"}
    assert (
        source.fingerprint == data.open_source(own_folder, preflight=False).fingerprint
    )
    left, _ = data.without_bad(file, 1)
    assert (left.train.size, left.val.size) == (18, 5)
    victim = own_folder / "train" / "red" / "002.jpg"
    damage(victim, victim.stat().st_size - 30, victim.read_bytes()[-30] ^ 1)
    report = validate(own_folder, manifest=file)  # which is compared
    assert reasons(report)["002.jpg"].startswith("changed since dataset.json")
    own_folder.rename(tmp_path / "moved")
    with pytest.raises(DataError, match=r"colours.json: describes .*, which is not"):
        data.open_source(file)
    for content in ("{}", "[1]", "cat"):
        file.write_text(content)
        with pytest.raises(DataError, match=r"not a manifest.*; give a folder"):
            data.open_source(file)


def test_manifest_of_shards_lies_elsewhere_too(validate, tmp_path):
    root = write_shard(tmp_path / "records", [1, 2, 3])
    file = tmp_path / "birds.json"
    validate(root, first_label=1, manifest=file)
    assert data.open_source(file).train.size == 3
    assert [path.name for path in root.iterdir()] == ["train-00000-of-00001"]
    with pytest.raises(DataError, match=rf"{file} says 1; leave it out"):
        validate(root, first_label=0, manifest=file)


def test_interruption_leaves_no_manifest(validate, own_folder):
    def interrupting(pictures, total):
        yield from (next(iter(pictures)) for _ in range(total // 2))
        raise KeyboardInterrupt

    before = sorted(own_folder.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        validate(own_folder, progress=interrupting)
    assert sorted(own_folder.rglob("*")) == before


def test_file_that_goes_while_others_are_looked_at_is_bad(validate, own_folder):
    gone = own_folder / "val" / "red" / "000.png"
    pipe = gone.with_name("001.jpg")

    def spoiling(pictures, total):
        for place, picture in enumerate(pictures):
            if place == 3:
                gone.unlink()
                pipe.unlink()
                os.mkfifo(pipe)
            yield picture

    assert reasons(validate(own_folder, progress=spoiling)) == {
        "000.png": "cannot be read (No such file or directory)",
        "001.jpg": "not a file",
    }


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (lambda root: root / "no", {}, r"no: no such folder"),
        (lambda root: root, {"first_label": 1}, r"folder of classes has their names"),
        (lambda root: root / "train", {}, r"has neither train/ nor val/"),
        (lambda root: root, {"seconds": 0}, r"seconds=0: must be above 0"),
        (lambda root: root, {"memory": -1}, r"memory=-1: must be above 0"),
    ],
)
def test_what_cannot_be_looked_at_is_named(
    make, arguments, words, validate, own_folder
):
    with pytest.raises(DataError, match=words):
        validate(make(own_folder), **arguments)


def test_foreign_manifest_is_refused(validate, own_folder):
    (own_folder / "dataset.json").write_text("[1]")
    with pytest.raises(DataError, match=r"not a manifest of this package"):
        validate(own_folder)


# TFRecords with our manifest (case 27)


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    return Path(data.prepare(folder, tmp_path_factory.mktemp("x") / "records").path)


@pytest.fixture
def records(prepared, tmp_path):
    return Path(shutil.copytree(prepared, tmp_path / "records"))


def shard_of(root):
    return sorted(root.glob("train-*"))[0]


def test_prepared_records_are_validated(validate, records):
    report = validate(records)
    assert report["bad"] == []
    assert report["classes"]["red"] == {"train": 12, "val": 4}
    source = data.open_source(records)
    assert source.validated
    assert source.train.size == 36


def test_flipped_bit_of_a_payload_is_that_record_alone(validate, records):
    validate(records)
    shard, offsets = shard_of(records), data.open_source(records).train.offset
    at = int(offsets[7]) + 100
    damage(shard, at, shard.read_bytes()[at] ^ 4)
    for _ in range(2):
        report = validate(records)
        assert [bad["where"] for bad in report["bad"]] == [f"{shard}: record 7"]
        assert report["bad"][0]["reason"].startswith("damaged record (corrupted")
    left, _ = data.without_bad(records, 1)
    assert left.train.size == 35


def flip(place):
    def spoil(shard, content, offsets):
        at = offsets[5] + place
        damage(shard, at, content[at] ^ 1)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (flip(0), r"record 5: damaged or trunc"),
        (flip(6), r"record 5: damaged or trunc"),
        (lambda f, c, o: f.write_bytes(c[:-1]), r"record 35: damaged or trunc"),
        (lambda f, c, o: f.write_bytes(c[: o[9]]), r"record 9: .*has 9 of 36 rec"),
        (lambda f, c, o: f.write_bytes(c[o[1] :]), r"record 1: not at the offset"),
        (lambda f, c, o: f.write_bytes(b""), r"empty"),
        (lambda f, c, o: f.write_bytes(gzip.compress(c)), r"compressed; unpack"),
        (lambda f, c, o: f.write_bytes(b"<html>" * 99), r"record 0: damaged or trunc"),
        (lambda f, c, o: f.write_bytes(c + bytes(64)), r"record 36: damaged or trunc"),
        (lambda f, c, o: f.unlink(), r"missing, but dataset.json lists it"),
        (lambda f, c, o: f.with_name("train-9-of-9").write_bytes(c), r"not in dataset"),
    ],
    ids=[
        *("length bit", "high length bit", "cut", "cut between records", "first gone"),
        *("zero bytes", "gzip", "html", "zero tail", "gone", "one more"),
    ],
)
def test_shard_that_cannot_be_used_is_named_with_its_record(
    spoil, words, validate, records
):
    shard = shard_of(records)
    before = (records / "dataset.json").read_text()
    offsets = data.open_source(records).train.offset.tolist()
    spoil(shard, shard.read_bytes(), offsets)
    with pytest.raises(DataError, match=words) as error:
        validate(records)
    assert str(records / "train-") in str(error.value)
    assert (records / "dataset.json").read_text() == before


def test_shard_rewritten_with_right_checksums_is_found(validate, records):
    shard = shard_of(records)
    examples = [record.numpy() for record in tf.data.TFRecordDataset([str(shard)])]
    place = next(n for n, record in enumerate(examples) if b"JFIF" in record)
    at = examples[place].index(b"\xff\xd9") - 10  # in the last rows of pixels
    changed = bytearray(examples[place])
    changed[at] ^= 1
    examples[place] = bytes(changed)
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for example in examples:
            writer.write(example)
    with pytest.raises(DataError, match=r"train-.*: changed since dataset.json"):
        validate(records)


def test_names_in_another_order_than_the_records_are_refused(validate, records):
    file = records / "dataset.json"
    manifest = json.loads(file.read_text())
    manifest["class_names"].reverse()
    file.write_text(json.dumps(manifest))
    with pytest.raises(
        DataError, match=r"record 0: label \d is '\w+', but '\w+' in .*dataset"
    ):
        validate(records)


# Foreign TFRecords: what do their labels mean? (case 28)

PICTURE = hostile.encoded(hostile.scene(8, 8))
BIRDS = ["crane", "hen", "kite"]


def write_shard(root, labels, split="train", texts=None, synsets=None, **fields):
    """One shard of these labels, named as the scripts of ImageNet do."""
    root.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(root / f"{split}-00000-of-00001")) as writer:
        for place, label in enumerate(labels):
            text = texts[place] if texts else ""
            parsed = tf.train.Example.FromString(encode_example(PICTURE, label, text))
            feature = parsed.features.feature
            if not texts:
                del feature["image/class/text"]
            if synsets:
                values = feature["image/class/synset"].bytes_list.value
                values.append(synsets[place].encode())
            for key, value in fields.get(str(place), {}).items():
                del feature[key]
                if value is not None:
                    feature[key].bytes_list.value.append(value)
            writer.write(parsed.SerializeToString())
    return root


@pytest.mark.parametrize("first", [0, 1])
def test_labels_are_mapped_as_it_is_said(first, validate, tmp_path):
    labels = [first + n % 3 for n in range(9)]
    root = write_shard(tmp_path / "r", labels, texts=[BIRDS[n % 3] for n in range(9)])
    write_shard(root, labels[:3], "validation", texts=BIRDS)
    with pytest.raises(DataError, match=r"--first-label 0 .*or 1"):
        validate(root)
    with pytest.raises(DataError, match=r"validate --first-label"):
        data.open_source(root)
    report = validate(root, first_label=first)
    assert report["classes"] == {name: {"train": 3, "val": 1} for name in BIRDS}
    source = data.open_source(root)
    assert source.class_names == tuple(BIRDS)
    assert [int(y) for _, y in source.train.ordered()] == [0, 1, 2] * 3
    with pytest.raises(DataError, match=rf"first_label={1 - first}: .* says {first}"):
        validate(root, first_label=1 - first)
    assert validate(root)["bad"] == []


CONTRADICTIONS = {
    "from 1 to 3; use first_label=1": ([1, 2, 3], {"first_label": 0}),
    "first_label=0, but no picture has it": ([1, 2], {"first_label": 0, "classes": 2}),
    "record 1: label 0, but first_label=1; labels": ([1, 0, 2], {"first_label": 1}),
    "record 2: label 3, but no picture has": ([0, 1, 3], {"first_label": 0}),
    "record 2: label 1001, but no picture": ([0, 1, 1001], {"first_label": 0}),
    "first_label=2: must be 0 or 1": ([0, 1], {"first_label": 2}),
}


@pytest.mark.parametrize("words", CONTRADICTIONS)
def test_labels_that_contradict_what_is_said_are_refused(words, validate, tmp_path):
    labels, arguments = CONTRADICTIONS[words]
    root = write_shard(tmp_path / "records", labels)
    with pytest.raises(DataError, match=words):
        validate(root, **arguments)
    assert not (root / "dataset.json").exists()


def test_label_out_of_range_is_a_bad_record(validate, tmp_path):
    root = write_shard(tmp_path / "records", [0, 1, -1, 2, 1001])
    write_shard(root, [0, 3], "val")
    report = validate(root, first_label=0, classes=3)
    assert [bad["where"].rpartition("-")[2] for bad in report["bad"]] == [
        *("00001: record 2", "00001: record 4", "00001: record 1")
    ]
    assert [bad["reason"] for bad in report["bad"]] == [
        f"label {label}: must be from 0 to 2" for label in (-1, 1001, 3)
    ]
    left, _ = data.without_bad(root, 3)
    assert [int(label) for _, label in left.train.ordered()] == [0, 1, 2]


def test_1001_classes_of_which_one_has_no_picture_are_allowed_if_said(
    validate, tmp_path
):
    root = write_shard(tmp_path / "records", [1, 2, 3])
    assert len(validate(root, first_label=0, classes=4)["classes"]) == 4


def test_label_of_two_names_is_refused(validate, tmp_path):
    texts = ["hen", "kite", "crane"]
    root = write_shard(tmp_path / "records", [0, 1, 0], texts=texts)
    with pytest.raises(
        DataError, match=r"record 2: label 0 is 'crane', but 'hen' in .*record 0"
    ):
        validate(root, first_label=0)


def test_two_classes_of_one_text_have_their_synsets_for_names(validate, tmp_path):
    synsets = ["n02012849", "n03126707"]
    root = write_shard(
        tmp_path / "records", [0, 1], texts=["crane", "crane"], synsets=synsets
    )
    assert list(validate(root, first_label=0)["classes"]) == synsets


def test_classes_without_names_have_their_labels_for_names(validate, tmp_path):
    root = write_shard(tmp_path / "records", [1, 2, 1])
    assert list(validate(root, first_label=1)["classes"]) == ["1", "2"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"image/class/label": None},
            r"no image/class/label; its fields are image/enc",
        ),
        (
            {"image/class/label": b"1"},
            r"image/class/label is a bytes_list of 1, must be",
        ),
        (
            {"image/encoded": None},
            r"no image/encoded; its fields are image/class/label",
        ),
        ({"image/encoded": b"<html>"}, r"no picture, or of more than"),
    ],
)
def test_record_of_other_fields_is_bad_with_its_reason(
    fields, words, validate, tmp_path
):
    root = write_shard(tmp_path / "records", [0, 1, 0], **{"2": fields})
    (bad,) = validate(root, first_label=0)["bad"]
    assert bad["where"].endswith("train-00000-of-00001: record 2")
    assert words in bad["reason"]


def test_records_of_other_keys_are_refused(validate, tmp_path):
    missing = {str(place): {"image/class/label": None} for place in range(2)}
    root = write_shard(tmp_path / "records", [0, 1], **missing)
    with pytest.raises(DataError, match=r"no record has a label; the first: no im"):
        validate(root, first_label=0)


# What one inspection finds


def test_inspection_reads_header_and_hash_of_each(tmp_path):
    file = tmp_path / "x.jpg"
    file.write_bytes(hostile.turned(6))
    found = inspect({"file": str(file)})
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        assert (found["width"], found["height"]) == image.size
    assert found["exif"] == 6
    assert found["bytes"] == file.stat().st_size
    assert len(found["sha256"]) == 64
    assert "reason" not in found
    file.write_bytes(hostile.encoded(np.zeros((2, 3, 3), np.uint8), "png")[:-20])
    assert inspect({"file": str(file)})["reason"].startswith("Invalid PNG")
