"""Shards of raw pixels train as the pictures that they were made of do."""

import json
import re
import shutil
import sys
from pathlib import Path

import hostile_pictures as hostile
import numpy as np
import pytest
import tensorflow as tf
from conftest import COLOURS, write_picture
from PIL import Image, ImageOps

from keras_resnet import cli, data, train
from keras_resnet.data.checks import validation
from keras_resnet.data.checks.inspection import inspect
from keras_resnet.data.checks.labels import KEYS
from keras_resnet.data.records import encode_example, read_record
from keras_resnet.errors import DataError
from keras_resnet.runs.status import status

SIZES = [(60, 81), (90, 48), (30, 40), (48, 48)]  # to a short side of 48


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three classes in several sizes, of JPEGs and PNGs."""
    root = tmp_path_factory.mktemp("photos") / "large"
    for number, (name, colour) in enumerate(COLOURS.items()):
        for index in range(8):
            split, kind = "train" if index > 1 else "val", "png" if index % 3 else "jpg"
            file = root / split / name / f"{index}.{kind}"
            write_picture(file, colour, 10 * number + index, SIZES[index % len(SIZES)])
    return root


@pytest.fixture(scope="module")
def raw(photos, tmp_path_factory):
    """Its pictures as raw pixels, at 48."""
    destination = tmp_path_factory.mktemp("raw") / "records"
    return data.prepare(photos, destination, resize=48, raw=True)


@pytest.fixture(scope="module")
def lossless(photos, tmp_path_factory):
    """The same pixels in PNG files, in the same order."""
    folder = tmp_path_factory.mktemp("lossless")
    for file in photos.glob("*/*/*"):
        image = data.decode_image(tf.io.read_file(str(file)))
        if min(image.shape[:2]) > 48:
            image = data.resize_short(image, 48)
        copy = folder / "files" / file.relative_to(photos).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(tf.io.encode_png(image).numpy())
    return data.prepare(folder / "files", folder / "records")


@pytest.fixture
def validate(monkeypatch):
    """`data.validate` without its processes, whose start takes seconds."""

    def examine(requests, count, seconds, memory):
        for place, request in enumerate(requests):
            yield place, inspect(request)

    monkeypatch.setattr(validation, "examine", examine)
    return data.validate


@pytest.fixture
def own(raw, tmp_path):
    """The folder of raw records, for a test that spoils it."""
    return shutil.copytree(raw.path, tmp_path / "records")


def spoil(folder, change):
    """Rewrites a training shard, its record 3 by `change`, with right checksums."""
    manifest = json.loads((folder / "dataset.json").read_text())
    (shard,) = manifest["splits"]["train"]["shards"]
    file = folder / shard["file"]
    records = []
    for number, offset in enumerate(shard["offsets"]):
        place = tf.constant(offset, tf.int64)
        record = read_record(tf.constant(str(file)), place).numpy()
        records.append(change(record) if number == 3 else record)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            writer.write(record)
    lengths = [16 + len(record) for record in records]
    shard["offsets"] = np.cumsum([0, *lengths[:-1]]).tolist()
    shard["bytes"] = sum(lengths)
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return file


def changed(**fields):
    def change(record):
        example = tf.train.Example.FromString(record)
        for name, value in fields.items():
            feature = example.features.feature[f"image/{name}"]
            if value is None:
                del example.features.feature[f"image/{name}"]
            elif name == "encoded":
                feature.bytes_list.value[0] = feature.bytes_list.value[0][:value]
            else:
                feature.int64_list.value[0] = value
        return example.SerializeToString()

    return change


def test_records_are_the_pixels_and_their_sides(raw, lossless, photos):
    shapes = set()
    for name in ("train", "val"):
        pairs = zip(
            raw.split(name).ordered(), lossless.split(name).ordered(), strict=True
        )
        for (pixels, label), (png, same) in pairs:
            assert label == same
            np.testing.assert_array_equal(pixels, data.decode_image(png))
            shapes.add(tuple(pixels.shape))
    assert shapes == {(48, 64, 3), (90, 48, 3), (30, 40, 3), (48, 48, 3)}
    manifest = json.loads(Path(raw.path, "dataset.json").read_text())
    assert manifest["raw"] is True
    assert manifest["splits"]["train"]["sizes"]["short_side"]["max"] == 48
    assert raw.train.size == data.open_source(photos).train.size == 18


@pytest.mark.slow
def test_batches_of_raw_records_are_those_of_the_same_pictures(raw, lossless, tiny):
    batches = [data.train_batches(source, tiny).take(6) for source in (raw, lossless)]
    for ours, theirs in zip(*batches, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    batches = [data.eval_batches(source, tiny) for source in (raw, lossless)]
    for ours, theirs in zip(*batches, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_run_on_raw_records_resumes_on_validated_and_moved_ones(
    raw, lossless, own, tiny, tmp_path
):
    recipe = tiny.replace(epochs=2, warmup_epochs=0.0, batch_size=6)
    run = tmp_path / "run"
    train.fit(recipe, raw.path, run)
    state = status(run)
    assert (state["state"], state["epoch"]) == ("finished", 2)
    report = data.validate(own)
    assert report["bad"] == []
    assert report["formats"] == {"raw": 24}
    assert report["modes"] == {"RGB": 24}
    again = data.open_source(own)
    assert again.validated
    assert again.fingerprint == raw.fingerprint != lossless.fingerprint
    assert train.is_finished(recipe, own, run)
    model = train.fit(recipe.replace(epochs=3), own, run)
    assert status(run)["epoch"] == 3
    other = tmp_path / "other"
    train.fit(recipe, lossless, other)
    theirs = train.fit(recipe.replace(epochs=3), lossless, other)
    for a, b in zip(model.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(a, b)


WORDS = r"raw pixels have another number of bytes: \d+ for height and width: "


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"encoded": -1}, WORDS),
        ({"encoded": 0}, WORDS),
        ({"height": 49}, WORDS),
        ({"width": -48}, WORDS + r"\d+ -48"),
        ({"height": 0, "encoded": 0}, WORDS + "0"),
        # whose product with 3 is 0 in 64 bits
        ({"height": 2**62, "width": 4, "encoded": 0}, WORDS + "4611686018427387904 4"),
    ],
)
def test_record_whose_length_does_not_fit_is_named(fields, words, own, tiny):
    shard = spoil(own, changed(**fields))
    with (
        pytest.raises(DataError, match=f"record 3: cannot be read .{words}") as error,
        data.blame_pictures(own),
    ):
        for _ in data.train_batches(own, tiny).take(2):
            pass
    assert str(error.value).startswith(f"{shard}: record 3: ")
    left, skipped = data.without_bad(own, 1)
    assert left.train.size == 17
    assert [it["where"] for it in skipped] == [f"{shard}: record 3"]
    offset = int(data.open_source(own).train.offset[3])
    found = inspect({"shard": str(shard), "offset": offset, "keys": KEYS})
    assert found["format"] == "raw"
    assert re.match(words, found["reason"])


def as_png(record):
    png = tf.io.encode_png(np.zeros((9, 9, 3), np.uint8)).numpy()
    return encode_example(png, 0, "blue")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (changed(encoded=-3), WORDS),
        (changed(height=None), "no image/height; its fields are image/class/label"),
        (as_png, "png, but most records are raw"),
    ],
)
def test_validate_finds_the_record_without_a_manifest(change, reason, own, validate):
    shard = spoil(own, change)
    (own / "dataset.json").unlink()
    (bad,) = validate(own, first_label=0)["bad"]
    assert bad["where"] == f"{shard}: record 3"
    assert re.match(reason, bad["reason"])
    source = data.open_source(own)
    assert source.train.raw
    left, _ = data.without_bad(source, 1)
    assert left.train.size == 17


def test_flipped_bit_is_that_record_alone(own, validate):
    file = next(own.glob("train-*"))
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    (bad,) = validate(own)["bad"]
    assert bad["where"] == f"{file}: record 17"
    assert bad["reason"].startswith("damaged record (corrupted")


def test_raw_records_are_prepared_again(raw, lossless, tmp_path):
    again = data.prepare(raw.path, tmp_path / "raw", seed=5, raw=True)
    encoded = data.prepare(raw.path, tmp_path / "encoded", seed=5)
    assert again.train.raw
    assert not encoded.train.raw
    order = raw.train.order(5, -1).numpy()
    pngs = lossless.train.take(order).ordered()
    splits = again.train.ordered(), encoded.train.ordered(), pngs
    for (pixels, _), (png, _), (other, _) in zip(*splits, strict=True):
        assert png == other  # an array is stored as a PNG
        np.testing.assert_array_equal(pixels, data.decode_image(png))


@pytest.mark.slow
def test_what_was_begun_encoded_begins_afresh_raw(photos, raw, tmp_path, monkeypatch):
    def progress(pictures, total):
        for number, picture in enumerate(pictures):
            if number == 9:
                raise KeyboardInterrupt
            yield picture

    destination = tmp_path / "records"
    with pytest.raises(KeyboardInterrupt):
        data.prepare(
            photos, destination, resize=48, shard_bytes=9000, progress=progress
        )
    assert list(tmp_path.glob(".records.partial/*.tfrecord"))
    arguments = ["prepare", photos, destination, "--resize", "48", "--raw", "--json"]
    monkeypatch.setattr(sys, "argv", ["keras-resnet", *map(str, arguments)])
    cli.main()
    for file in Path(raw.path).iterdir():
        assert (destination / file.name).read_bytes() == file.read_bytes()


def test_arrays_and_turned_pictures_are_stored_raw(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 9, 5, 3), dtype=np.uint8)
    arrays = {"train": (images, np.arange(7) % 3)}
    source = data.prepare(arrays, tmp_path / "records", raw=True)
    stored = {pixels.numpy().tobytes() for pixels, _ in source.train.ordered()}
    assert stored == {image.tobytes() for image in images}
    file = tmp_path / "turned" / "train" / "only" / "x.jpg"
    file.parent.mkdir(parents=True)
    file.write_bytes(hostile.turned(6))
    turned = data.prepare(
        tmp_path / "turned", tmp_path / "upright", upright=True, raw=True
    )
    ((pixels, _),) = turned.train.ordered()
    with Image.open(file) as image:
        np.testing.assert_array_equal(pixels, ImageOps.exif_transpose(image))
