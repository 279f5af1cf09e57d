"""`prepare` writes each picture once, the same bytes again, whole or not at all."""

import dataclasses
import hashlib
import io
import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import hostile_pictures as hostile
import numpy as np
import pytest
import tensorflow as tf
from conftest import write_folder
from PIL import Image, ImageOps

from keras_resnet import cli, data
from keras_resnet.data.records import read_record
from keras_resnet.errors import DataError, RayError

SMALL = 20_000  # bytes of a shard: the fixture's folder makes four and two


def tree(folder):
    """{name: bytes} of all files, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def contents(split):
    """The (bytes, label) pairs of a split, sorted."""
    return sorted((picture.numpy(), int(label)) for picture, label in split.ordered())


def stopping(count, stop):
    """A progress that calls `stop` after so many pictures."""

    def progress(pictures, total):
        for number, picture in enumerate(pictures):
            if number == count:
                stop()
            yield picture

    return progress


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    """(destination, source) of the fixture's folder in several shards."""
    destination = tmp_path_factory.mktemp("prepared") / "records"
    return destination, data.prepare(folder, destination, shard_bytes=SMALL)


def test_records_hold_the_files_in_an_order_that_mixes_classes(folder, prepared):
    _, source = prepared
    files = data.open_source(folder)
    assert source.class_names == files.class_names == ("blue", "green", "red")
    for name in ("train", "val"):
        assert contents(source.split(name)) == contents(files.split(name))
    first_shard = [int(label) for _, label in source.train.ordered().take(9)]
    assert set(first_shard) == {0, 1, 2}


def test_manifest_tells_the_truth(prepared):
    destination, source = prepared
    manifest = json.loads((destination / "dataset.json").read_text())
    splits = manifest.pop("splits")
    names = ["blue", "green", "red"]
    assert manifest == {"validated": False, "class_names": names, "first_label": 0}
    listed = {"dataset.json"}
    for name, facts in splits.items():
        shards = facts["shards"]
        assert len(shards) > 1
        assert facts["records"] == sum(shard["records"] for shard in shards)
        assert facts["bad"] == []
        read = []
        for index, shard in enumerate(shards):
            file = destination / shard["file"]
            assert file.name == f"{name}-{index:05d}-of-{len(shards):05d}.tfrecord"
            listed.add(file.name)
            content = file.read_bytes()
            assert len(content) == shard["bytes"] < 2 * SMALL
            assert hashlib.sha256(content).hexdigest() == shard["sha256"]
            assert len(shard["offsets"]) == shard["records"]
            for offset in shard["offsets"]:
                record = read_record(
                    tf.constant(str(file)), tf.constant(offset, tf.int64)
                )
                features = tf.train.Example.FromString(record.numpy()).features.feature
                (label,) = features["image/class/label"].int64_list.value
                (text,) = features["image/class/text"].bytes_list.value
                assert text.decode() == names[label]
                read.append((*features["image/encoded"].bytes_list.value, label))
        assert sorted(read) == contents(source.split(name))
        mean_bytes = np.mean([len(picture) for picture, _ in read])
        assert facts["sizes"] == {
            "height": {"min": 40, "median": 40, "max": 40},
            "width": {"min": 36, "median": 36, "max": 36},
            "short_side": {"min": 36, "median": 36, "max": 36},
            "mean_bytes": pytest.approx(mean_bytes, abs=0.06),
        }
    assert tree(destination).keys() == listed


def test_same_call_writes_the_same_bytes_and_another_seed_another_order(
    folder, prepared, tmp_path
):
    again, other = tmp_path / "again", tmp_path / "other"
    data.prepare(folder, again, shard_bytes=SMALL)
    assert tree(again) == tree(prepared[0])
    source = data.prepare(folder, other, seed=1, shard_bytes=SMALL)
    first = [picture.numpy() for picture, _ in source.train.ordered()]
    second = [picture.numpy() for picture, _ in prepared[1].train.ordered()]
    assert first != second
    assert sorted(first) == sorted(second)


KILLED = """
import os, signal, sys
from keras_resnet import data

def progress(pictures, total):
    for number, picture in enumerate(pictures):
        if number == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        yield picture

data.prepare(sys.argv[1], sys.argv[2], shard_bytes=int(sys.argv[3]), progress=progress)
"""


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_in_the_same_bytes(folder, prepared, tmp_path):
    destination = tmp_path / "records"
    arguments = [str(folder), str(destination), str(SMALL)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    partial = tmp_path / ".records.partial"
    assert list(tmp_path.iterdir()) == [partial]
    written = {
        path.name: path.stat().st_mtime_ns for path in partial.glob("*.tfrecord")
    }
    assert 0 < len(written) < len(list(prepared[0].glob("train-*")))
    totals = []

    def progress(pictures, total):
        totals.append(total)
        return pictures

    data.prepare(folder, destination, shard_bytes=SMALL, progress=progress)
    assert list(tmp_path.iterdir()) == [destination]
    assert tree(destination) == tree(prepared[0])
    shards = prepared[1].train.shard
    records = sum(int((shards == index).sum()) for index in range(len(written)))
    assert totals == [48 - records]
    for name, time in written.items():
        assert (destination / name).stat().st_mtime_ns == time


def test_interruption_leaves_no_destination_and_another_call_no_trace(
    folder, prepared, tmp_path
):
    destination = tmp_path / "records"
    with pytest.raises(KeyboardInterrupt):
        data.prepare(
            folder,
            destination,
            shard_bytes=SMALL // 2,
            progress=stopping(30, interrupt),
        )
    assert [path.name for path in tmp_path.iterdir()] == [".records.partial"]
    data.prepare(folder, destination, shard_bytes=SMALL)
    assert tree(destination) == tree(prepared[0])
    assert list(tmp_path.iterdir()) == [destination]


def test_picture_that_changed_in_between_is_written_anew(own_folder, tmp_path):
    def prepare(name, **more):
        return data.prepare(own_folder, tmp_path / name, shard_bytes=3000, **more)

    with pytest.raises(KeyboardInterrupt):
        prepare("records", progress=stopping(20, interrupt))
    victim = own_folder / "train" / "red" / "001.jpg"
    victim.write_bytes((own_folder / "val" / "red" / "001.jpg").read_bytes())
    source = prepare("records")
    assert contents(source.train) == contents(data.open_source(own_folder).train)


def test_second_process_is_refused(folder, tmp_path):
    def again():
        with pytest.raises(DataError, match="records: another process is writing"):
            data.prepare(folder, tmp_path / "records")

    source = data.prepare(folder, tmp_path / "records", progress=stopping(5, again))
    assert source.train.size == 36


def test_existing_destination_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "here").mkdir()
    with pytest.raises(DataError, match=r"here: exists; remove it"):
        data.prepare(tmp_path / "no such folder", tmp_path / "here")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def photo(width, height, seed):
    """A picture with edges, gradients and some noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + y / b) for a, b in random.uniform(5, 60, (3, 2))]
    pixels = 128 + 70 * np.stack(waves, -1) + random.normal(0, 4, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 90)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of classes, of sizes above and below 256."""
    root = tmp_path_factory.mktemp("photos")
    # none above 256 twice as high as wide: there Pillow 13, unlike 12, does rows first
    sizes = {
        "wide": [(500, 375), (401, 300), (300, 257)],
        "high": [(375, 500), (290, 560)],
        "small": [(256, 900), (120, 90), (64, 64)],
    }
    for name, each in sizes.items():
        (root / name).mkdir()
        for number, size in enumerate(each):
            kind = "png" if number == 1 else "jpg"
            photo(*size, number).save(root / name / f"{number}.{kind}", quality=95)
    return root


@pytest.fixture(scope="module")
def shrunk(photos, tmp_path_factory):
    """(destination, source) of the photos with a third held out, at 256."""
    destination = tmp_path_factory.mktemp("shrunk") / "records"
    return destination, data.prepare(photos, destination, val=0.3, resize=256)


def test_resize_shrinks_as_pillow_and_leaves_small_pictures_alone(photos, shrunk):
    stored = {picture for picture, _ in contents(shrunk[1].train)}
    stored |= {picture for picture, _ in contents(shrunk[1].val)}
    untouched = 0
    for file in sorted(photos.glob("*/*")):
        content = file.read_bytes()
        with Image.open(file) as image:
            short = min(image.size)
            size = tuple(256 * side // short for side in image.size)
            pillows = image.resize(size, Image.Resampling.BICUBIC)
        if short <= 256:
            stored.remove(content)
            untouched += 1
            continue
        ours = data.resize_short(data.decode_image(content), 256).numpy()
        assert np.abs(ours - np.asarray(pillows, int)).max() <= 1
        encoded = tf.io.encode_jpeg(ours, quality=92).numpy()
        stored.remove(encoded)
        stream = io.BytesIO()
        pillows.save(stream, "jpeg", quality=92)
        with Image.open(io.BytesIO(encoded)) as found, Image.open(stream) as expected:
            assert found.size == size
            assert found.quantization == expected.quantization
            error = np.square(np.asarray(found, int) - np.asarray(expected, int))
        assert error.mean() < 255**2 / 10**4.5  # 45 decibels
    assert (untouched, stored) == (3, set())
    manifest = json.loads((shrunk[0] / "dataset.json").read_text())
    short_side = manifest["splits"]["train"]["sizes"]["short_side"]
    assert short_side["min"] < short_side["median"] == short_side["max"] == 256


@pytest.fixture(scope="module")
def amiss(tmp_path_factory):
    """A folder of one class, of turned pictures and of such with alpha."""
    folder = tmp_path_factory.mktemp("amiss") / "train" / "only"
    folder.mkdir(parents=True)
    tags = Image.Exif()
    for orientation in range(1, 9):
        tags[0x0112] = orientation
        file = folder / f"turned{orientation}.jpg"
        photo(60, 40, orientation).save(file, exif=tags)
    photo(40, 60, 9).save(folder / "turned.png", exif=tags)
    with_alpha = ("rgba", "la", "palette_trns", "rgb_trns", "gray_trns")
    for name in with_alpha:
        (folder / f"{name}.png").write_bytes(hostile.odd_pngs()[name])
    rgba = Image.open(io.BytesIO(hostile.odd_pngs()["rgba"]))
    rgba.save(folder / "alpha.webp", lossless=True, exif=tags)
    return folder.parent.parent


def pillows(file, upright, background):
    """The pixels that Pillow makes of it."""
    with Image.open(file) as image:
        has_alpha = image.mode.endswith("A") or "transparency" in image.info
        if background and has_alpha:
            below = Image.new("RGBA", image.size, background)
            above = image.convert("RGBA")
            above.info["exif"] = image.info.get("exif", b"")
            image = Image.alpha_composite(below, above)
            image.info["exif"] = above.info["exif"]
        turned = ImageOps.exif_transpose(image) if upright else image
        return np.asarray(turned.convert("RGB"))


@pytest.mark.parametrize(
    "background",
    [
        pytest.param("", marks=pytest.mark.slow),
        "white",
        pytest.param("#204060", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("upright", [pytest.param(False, marks=pytest.mark.slow), True])
def test_turned_and_transparent_pictures_are_amended_as_by_pillow(
    upright, background, amiss, tmp_path
):
    arguments = {"upright": upright, "background": background}
    source = data.prepare(amiss, tmp_path / "records", **arguments)
    split = data.open_source(amiss).train
    order = split.order(0, -1).numpy()
    kept = set()
    for number, (stored, _) in zip(order, source.train.ordered(), strict=True):
        file = Path(split.files[number])
        expected = pillows(file, upright, background)
        np.testing.assert_array_equal(data.decode_image(stored), expected, file.name)
        if stored.numpy() == file.read_bytes():
            kept.add(file.stem)
    turned = {"turned", "alpha", *(f"turned{n}" for n in range(2, 9))}
    clear = {"rgba", "la", "palette_trns", "rgb_trns", "gray_trns", "alpha"}
    changed = (turned if upright else set()) | (clear if background else set())
    assert kept == {Path(file).stem for file in split.files} - changed


@pytest.mark.slow
def test_turned_pictures_are_turned_before_they_shrink(amiss, tmp_path):
    source = data.prepare(amiss, tmp_path / "records", resize=30, upright=True)
    shapes = [tuple(data.decode_image(p).shape) for p, _ in source.train.ordered()]
    # four of eight JPEGs lie on their side, as the PNG does; the others are square
    assert shapes.count((45, 30, 3)) == 4
    assert shapes.count((30, 45, 3)) == 4 + 1
    assert shapes.count((30, 30, 3)) == 6


@pytest.mark.slow
def test_other_options_begin_afresh_and_odd_colours_are_named(amiss, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        data.prepare(
            amiss, tmp_path / "r", shard_bytes=9000, progress=stopping(9, interrupt)
        )
    assert list((tmp_path / ".r.partial").glob("*.tfrecord"))
    source = data.prepare(amiss, tmp_path / "r", upright=True)
    again = data.prepare(amiss, tmp_path / "again", upright=True)
    assert contents(source.train) == contents(again.train)
    for colour in ("whitish", "#ffffff80"):
        with pytest.raises(DataError, match=f"background='{colour}': must be an"):
            data.prepare(amiss, tmp_path / "s", background=colour)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_prepared_source_is_prepared_again(photos, shrunk, tmp_path):
    plain = data.prepare(photos, tmp_path / "plain", val=0.3)
    again = data.prepare(tmp_path / "plain", tmp_path / "again", resize=256)
    assert contents(again.train) == contents(shrunk[1].train) != contents(plain.train)
    assert contents(again.val) == contents(shrunk[1].val)


def test_arrays_are_stored_without_loss(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 9, 5, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2, 2])
    arrays = {"train": (images, labels), "class_names": ["a", "b", "c"]}
    source = data.prepare(arrays, tmp_path / "records")
    assert source.class_names == ("a", "b", "c")
    assert source.val is None
    pictures = [(data.decode_image(png), y) for png, y in source.train.ordered()]
    ours = sorted((image.numpy().tobytes(), int(y)) for image, y in pictures)
    assert ours == sorted((i.tobytes(), y) for i, y in zip(images, labels))


def test_val_holds_out_a_share_of_each_class(tmp_path):
    write_folder(tmp_path / "all", train=10, val=1)
    source = data.prepare(tmp_path / "all" / "train", tmp_path / "records", val=0.2)
    assert (source.train.size, source.val.size) == (24, 6)
    train, val = contents(source.train), contents(source.val)
    assert not {picture for picture, _ in train} & {picture for picture, _ in val}
    np.testing.assert_array_equal(np.bincount([label for _, label in val]), 2)


@pytest.mark.slow
def test_bad_picture_is_named_and_once_repaired_the_rest_stays(own_folder, tmp_path):
    def prepare(source, name, resize=0):
        return data.prepare(source, tmp_path / name, resize=resize, shard_bytes=4000)

    train = data.open_source(own_folder).train
    victim = Path(train.files[train.order(0, -1)[-1]])
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-300])
    prepare(own_folder, "plain")  # which does not decode
    name = f"{victim.parent.name}/{victim.name}"
    words = rf"{name}: cannot be read \(jpeg.+\); repair or remove it$"
    with pytest.raises(DataError, match=words):
        prepare(own_folder, "records", resize=256)
    with pytest.raises(DataError, match=r"plain/train-.*tfrecord: record \d+: can"):
        prepare(tmp_path / "plain", "again", resize=256)
    partial = tmp_path / ".records.partial"
    written = {path.name: path.stat().st_ino for path in partial.glob("train-*")}
    assert len(written) > 1
    victim.write_bytes(whole)
    source = prepare(own_folder, "records", resize=256)
    assert (source.train.size, source.val.size) == (18, 6)
    for name, inode in written.items():
        assert (tmp_path / "records" / name).stat().st_ino == inode


def test_header_without_a_size_is_bad_without_resize_too(own_folder, tmp_path):
    victim = own_folder / "train" / "red" / "000.png"
    victim.write_bytes(victim.read_bytes()[:20])
    with pytest.raises(DataError, match=r"red/000.png: cannot be read \(no pict"):
        data.prepare(own_folder, tmp_path / "records")


def test_picture_that_validate_found_bad_is_refused(folder, tmp_path):
    source = data.open_source(folder)
    source = dataclasses.replace(source, bad={"val": {1: "cut"}}, validated=True)
    with pytest.raises(DataError, match=r"val/blue/001.jpg: .*\(cut\); repair"):
        data.prepare(source, tmp_path / "records")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"val": 1.5}, r"val=1.5: must be in \(0, 1\)"),
        ({"val": -0.1}, r"val=-0.1: must be in \(0, 1\)"),
        ({"seed": -1}, r"seed=-1: must be 0 or more"),
        ({"resize": -5}, r"resize=-5: must be 0 or more"),
    ],
)
def test_bad_argument_is_named(arguments, words, folder, tmp_path):
    with pytest.raises(DataError, match=words):
        data.prepare(folder / "train", tmp_path / "records", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_val_of_what_is_no_folder_is_refused(tmp_path):
    pair = (np.zeros((4, 2, 2, 3), np.uint8), np.arange(4))
    for source in (pair, "tfds:mnist"):
        with pytest.raises(DataError, match=r"val=0.5: can only split a folder"):
            data.prepare(source, tmp_path / "records", val=0.5)


def test_full_disk_is_one_clear_line(folder, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"train-0.*cannot be written \(.+\)$"):
            data.prepare(folder, tmp_path / "records")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_missing_ray_is_one_clear_line(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayError, match=r"ray='local': .*install keras-resnet-d\[ray\]"):
        data.prepare(folder, tmp_path / "records", ray="local")
    assert list(tmp_path.iterdir()) == []


def test_command_line(photos, shrunk, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["keras-resnet", *map(str, arguments)])
        cli.main()
        return capsys.readouterr()

    options = ["--val", 0.3, "--resize", 256]
    monkeypatch.chdir(tmp_path)
    said = call("prepare", photos, "records", *options, "--json")
    facts = {"path": "records", "classes": 3, "train": 5, "val": 3}
    assert json.loads(said.out) == facts
    assert said.err == ""
    assert tree(tmp_path / "records") == tree(shrunk[0])
    said = call("prepare", "records", "again")
    assert re.search(r"train\W+5\W+val\W+3", said.out)
    assert contents(data.open_source("again").train) == contents(shrunk[1].train)
