"""Odd pictures decode as Pillow's; bad ones are named, and left out within a budget."""

import dataclasses
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import hostile_pictures as hostile
import numpy as np
import pytest
import tensorflow as tf
from conftest import load_one, write_picture
from PIL import Image

import keras_resnet
from keras_resnet import data, evaluate, train
from keras_resnet.data.checks import bad as badness
from keras_resnet.data.records import encode_example, index_records
from keras_resnet.data.transforms.decode import ends_whole, has_magic, picture_size
from keras_resnet.errors import DataError, ModelError
from keras_resnet.info import Protocol

ODD_JPEGS, ODD_PNGS = hostile.odd_jpegs(), hostile.odd_pngs()
FOREIGN = hostile.foreign()
ODD = ODD_JPEGS | ODD_PNGS


def pillow(encoded):
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def still(tiny):
    """A recipe whose training picture is the whole picture, as it is."""
    plain = tiny.replace(min_area=1.0, max_aspect=1.0, flip=0.0, train_size=64)
    return plain.replace(colour=0.0, lighting=0.0, mixup=0.0, batch_size=2)


@pytest.fixture(scope="module")
def net():
    """An untrained net of the folder's classes that answers with probabilities."""
    tiny = {"width": 8, "depths": (1,)}
    model = keras_resnet.create(
        "resnet18d", classes=3, classifier_activation="softmax", **tiny
    )
    facts = {"class_names": ("blue", "green", "red")}
    facts["protocol"] = Protocol(32, 0.875, "bicubic")
    model.info = dataclasses.replace(model.info, **facts)
    return model


# Case 17 and 18: odd but right


@pytest.mark.parametrize("name", ODD)
def test_odd_picture_decodes_to_pillows_pixels(name):
    pixels = data.decode_image(ODD[name]).numpy()
    tolerance = 1 if name == "ycck" else 0  # two matrices, each rounded
    difference = np.abs(pixels.astype(int) - pillow(ODD[name]))
    assert pixels.shape == (64, 64, 3)
    assert difference.max() <= tolerance


@pytest.mark.parametrize("name", ODD)
def test_odd_picture_trains_as_it_decodes(name, still):
    seed = tf.constant([0, 0], tf.int64)
    trained = load_one(tf.constant(ODD[name]), still, seed).numpy()
    difference = np.abs(trained.astype(int) - data.decode_image(ODD[name]).numpy())
    assert difference.max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_keep_their_high_byte_and_alpha_is_dropped(channels):
    values = np.random.default_rng(0).integers(0, 2**16, (31, 17, channels))
    colours = values[..., :3] if channels > 2 else values[..., [0, 0, 0]]
    pixels = data.decode_image(hostile.png16(values)).numpy()
    np.testing.assert_array_equal(pixels, colours >> 8)
    # one more than 65535 levels over 257 for the upper values of some levels
    assert set(np.unique(pixels - colours // 257)) == {0, 1}


def test_webp_with_alpha_is_decoded_and_its_alpha_dropped():
    rgba = Image.open(io.BytesIO(ODD_PNGS["rgba"]))
    for options in ({"lossless": True}, {"quality": 80}):
        webp = hostile.encoded(rgba, "webp", **options)
        assert Image.open(io.BytesIO(webp)).mode == "RGBA"
        np.testing.assert_array_equal(data.decode_image(webp), pillow(webp))
    frames = {"save_all": True, "append_images": [rgba.rotate(90)]}
    moving = hostile.encoded(rgba, "webp", **frames)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Number of channels"):
        data.decode_image(moving)  # in four channels it would break memory


def test_moving_gif_is_its_first_frame_alone():
    frames = [Image.fromarray(hostile.scene()[::step]) for step in (1, -1)]
    gif = hostile.encoded(frames[0], "gif", save_all=True, append_images=[frames[1]])
    assert Image.open(io.BytesIO(gif)).n_frames == 2
    np.testing.assert_array_equal(data.decode_image(gif), pillow(gif))
    assert tuple(map(int, picture_size(tf.constant(gif)))) == (64, 64)


# Case 19: foreign


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_is_refused_by_training_evaluation_and_prediction(
    name, still, tmp_path
):
    with pytest.raises(tf.errors.InvalidArgumentError):
        data.decode_image(FOREIGN[name])
    with pytest.raises(tf.errors.InvalidArgumentError):
        load_one(tf.constant(FOREIGN[name]), still, tf.constant([0, 0], tf.int64))
    file = tmp_path / "cat.jpg"
    file.write_bytes(FOREIGN[name])
    with pytest.raises(DataError, match=r"cat.jpg: not a readable picture: \S+"):
        evaluate.load_picture(file, still.protocol)


# Case 20: turned


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_ignored_everywhere(orientation, still):
    turned, plain = hostile.turned(orientation), hostile.encoded(hostile.scene())
    with Image.open(io.BytesIO(turned)) as image:
        assert image.getexif()[0x0112] == orientation
    seed = tf.constant([0, 0], tf.int64)
    for load in (
        data.decode_image,
        lambda encoded: data.load_eval(encoded, still.protocol),
        lambda encoded: load_one(tf.constant(encoded), still, seed),
    ):
        np.testing.assert_array_equal(load(turned), load(plain))


# Case 21 and 23: cut, and lying, in a process that is watched


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """{case: [outcome, what was said, seconds, bytes that memory grew]}."""
    jpeg = hostile.encoded(hostile.scene())
    progressive = hostile.encoded(hostile.scene(), progressive=True)
    cases = {
        "whole": jpeg,
        "a GIF of 3000 x 3000, 20 times": hostile.bomb_gif(3000, 20),
        **{("lie", side): hostile.lying_jpeg(side) for side in (13_000, 65_000)},
        **{("bomb", side): hostile.bomb_png(side) for side in (12_000, 30_000)},
        ("bomb", "GIF"): hostile.bomb_gif(9_500, screen=10),
        **{("cut", n): part for n, part in hostile.cuts(jpeg).items()},
        **{("progressive", n): part for n, part in hostile.cuts(progressive).items()},
    }
    folder = tmp_path_factory.mktemp("cases")
    for place, content in enumerate(cases.values()):
        (folder / str(place)).write_bytes(content)
    done = subprocess.run(
        [sys.executable, hostile.__file__],
        input="".join(f"{folder / str(place)}\n" for place in range(len(cases))),
        capture_output=True,
        text=True,
        timeout=120,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases), (list(cases)[len(answers)], done.stderr[-2000:])
    return dict(zip(cases, answers))


def test_cut_jpeg_is_refused_wherever_it_is_cut(watched):
    cut = {case: answer for case, answer in watched.items() if case[0] in CUT}
    assert len(cut) > 900
    for case, (outcome, said, seconds, _) in cut.items():
        assert outcome == "refused", case
        assert said, case
        assert seconds < 1, case
    assert watched["whole"][:2] == ["decoded", [64, 64, 3]]


CUT = ("cut", "progressive")


def test_lying_size_and_bomb_are_refused_before_memory_is_taken(watched):
    lies = {case: answer for case, answer in watched.items() if case[0] in LIES}
    assert len(lies) == 5
    for case, (outcome, said, seconds, grown) in lies.items():
        assert outcome == "refused", case
        assert "of more than 89478485 pixels" in said, case
        assert seconds < 1, case
        assert grown < 50 * 2**20, case


LIES = ("lie", "bomb")


def test_only_the_first_of_many_frames_takes_memory(watched):
    outcome, said, _, grown = watched["a GIF of 3000 x 3000, 20 times"]
    assert (outcome, said) == ("decoded", [3000, 3000, 3])
    assert grown < 4 * 3000 * 3000 + 20 * 2**20


def test_cut_jpeg_is_refused_under_every_crop(tiny):
    # a crop above the cut used to pass
    jpeg = hostile.encoded(hostile.scene(200, 300), quality=95)
    seeds = [tf.constant([0, index], tf.int64) for index in range(30)]

    @tf.function
    def load(encoded, seed):
        return load_one(encoded, tiny.replace(min_area=0.08), seed)

    for seed in seeds:
        assert load(tf.constant(jpeg), seed).shape == (32, 32, 3)
    for share in (0.5, 0.9, 0.99, 1):
        cut = tf.constant(jpeg[: int(share * len(jpeg)) - 2])
        for seed in seeds:
            with pytest.raises(tf.errors.InvalidArgumentError):
                load(cut, seed)


def test_whole_jpeg_ends_with_its_last_marker():
    jpeg = hostile.encoded(hostile.scene())
    assert ends_whole(jpeg)
    for other in (jpeg[:-1], jpeg[:-2], jpeg + b"\0", b"", b"\xd9"):
        assert not ends_whole(other)


# Pixels in memory pass through


def test_pixels_need_no_decoding():
    pixels = tf.constant(hostile.scene(5, 7))
    np.testing.assert_array_equal(data.decode_image(pixels), pixels)
    assert tuple(map(int, picture_size(pixels))) == (5, 7)
    assert not has_magic(pixels, "jpeg")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[5,7,1\]"):
        data.decode_image(pixels[..., :1])


# Case 24: small and narrow


@pytest.mark.slow
def test_small_and_narrow_pictures_train_and_evaluate(tiny, net, tmp_path):
    shapes = [(1, 1), (1, 500), (500, 1), (1, 65_500), (65_500, 1), (2, 3)]
    for split in ("train", "val"):
        for kind in ("jpeg", "png"):
            for height, width in shapes:
                file = tmp_path / split / kind / f"{height}x{width}"
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.full((height, width, 3), (200, 90, 30), np.uint8)
                file.write_bytes(hostile.encoded(pixels, kind))
    recipe = tiny.replace(batch_size=12, mixup=0.0, colour=0.0, lighting=0.0)
    images, _ = next(iter(data.train_batches(tmp_path, recipe)))
    assert images.shape == (12, 32, 32, 3)
    expected = np.full((12, 32, 32, 3), (200, 90, 30))
    np.testing.assert_allclose(images, expected, atol=3)  # JPEG
    images, _ = next(iter(data.eval_batches(tmp_path, recipe)))
    np.testing.assert_allclose(images, expected, atol=3)
    assert np.isfinite(net.predict(images, verbose=0)).all()


# Case 25: the budget


def cut_file(path):
    path.write_bytes(path.read_bytes()[:-200])
    return str(path)


@pytest.fixture
def spoilt(own_folder):
    """(the folder of 18 and 6, the paths of the bad: two in train, one in val)."""
    paths = ["train/blue/001.jpg", "train/red/004.jpg", "val/green/001.jpg"]
    return own_folder, [cut_file(own_folder / path) for path in paths]


def test_find_bad_finds_each_and_its_reason(spoilt):
    root, _ = spoilt
    source = data.open_source(root)
    found = data.find_bad(source.train)
    assert list(found) == [1, 16]
    assert all("JPEG" in reason for reason in found.values())
    assert list(data.find_bad(source.train, limit=1)) == [1]
    assert list(data.find_bad(source.val)) == [3]


def test_bad_picture_is_fatal_and_named_by_path_and_number(spoilt, tiny):
    root, bad = spoilt
    with (
        pytest.raises(DataError) as error,
        data.blame_pictures(root),
    ):
        list(data.train_batches(root, tiny).take(5))
    assert str(error.value).startswith(f"{bad[0]}: cannot be read (")
    assert "picture 1 of train" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_of_something_else_is_not_blamed_on_pictures(spoilt):
    with (
        pytest.raises(tf.errors.ResourceExhaustedError),
        data.blame_pictures(spoilt[0]),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")


@pytest.mark.parametrize("compiled", [False, True])
def test_an_error_of_the_net_is_shown_without_a_search(
    compiled, folder, tiny, monkeypatch, capsys
):
    monkeypatch.setattr(badness, "find_bad", None)

    def step(batches):
        return tf.gather(next(batches)[0], 1000)

    step = tf.function(step) if compiled else step
    batches = iter(data.eval_batches(folder, tiny))
    with pytest.raises(tf.errors.InvalidArgumentError), data.blame_pictures(folder):
        step(batches)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_a_long_search_for_a_bad_picture_is_said(
    compiled, own_folder, tiny, monkeypatch, capsys
):
    monkeypatch.setattr(badness, "_MANY", 18)
    victim = own_folder / "train" / "red" / "002.jpg"
    victim.write_bytes(victim.read_bytes()[:200])
    take = tf.function(lambda batches: next(batches)) if compiled else next
    batches = iter(data.eval_batches(own_folder, tiny, "train"))
    with (
        pytest.raises(DataError, match=r"red/002.jpg: cannot be read"),
        data.blame_pictures(own_folder),
    ):
        list(map(take, itertools.repeat(batches)))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{own_folder}: cannot be read; decoding the 18 pictures")


def test_budget_leaves_out_so_many_and_no_more(spoilt):
    root, bad = spoilt
    source, skipped = data.without_bad(root, 3)
    assert (source.train.size, source.val.size) == (16, 5)
    assert [entry["where"] for entry in skipped] == bad
    assert [entry["split"] for entry in skipped] == ["train", "train", "val"]
    assert not set(bad) & {*source.train.files, *source.val.files}
    again, listed = data.without_bad(source, 0)  # what was granted stays so
    assert (again.train.size, listed) == (16, skipped)
    with pytest.raises(DataError, match=r"at least 3 .*max_bad_examples=2") as error:
        data.without_bad(root, 2)
    assert all(path in str(error.value) for path in bad)


def test_budget_of_a_split_is_of_that_split_alone(spoilt):
    root, bad = spoilt
    source, skipped = data.without_bad(root, 1, ("val",))
    assert (source.train.size, source.val.size) == (18, 5)
    assert [entry["where"] for entry in skipped] == bad[2:]


def test_without_a_budget_nothing_is_read(spoilt):
    root, _ = spoilt
    source, skipped = data.without_bad(root)
    assert (source.train.size, skipped) == (18, [])


@pytest.mark.slow
def test_what_is_no_picture_counts_against_the_budget_too(spoilt, net, tmp_path):
    root, _ = spoilt
    red = root / "val" / "red"
    (red / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 9)
    (red / "empty.jpg").touch()
    (red / "gone.jpg").symlink_to("nowhere")
    os.mkfifo(red / "pipe.jpg")  # which nobody may open
    with pytest.raises(DataError, match=r"at least 7 .*max_bad_examples=6"):
        data.without_bad(root, 6)
    source, skipped = data.without_bad(root, 7)
    assert (source.train.size, source.val.size) == (16, 5)
    reasons = {Path(entry["where"]).name: entry["reason"] for entry in skipped[3:]}
    assert reasons == {
        "Thumbs.db": "not a JPEG, PNG, GIF, BMP or WebP picture",
        "empty.jpg": "empty",
        "gone.jpg": "cannot be read (No such file or directory)",
        "pipe.jpg": "not a file",
    }
    assert evaluate.run(net, root, max_bad_examples=5)["examples"] == 5
    with pytest.raises(DataError, match=r"red/Thumbs.db: not a JPEG"):
        data.without_bad(root)
    with pytest.raises(DataError, match=r"red/Thumbs.db: not a JPEG"):
        evaluate.run(net, root)


def test_split_of_bad_pictures_alone_is_refused(own_folder):
    for file in (own_folder / "val").rglob("*.*"):
        cut_file(file)
    with pytest.raises(DataError, match="no val picture can be decoded"):
        data.without_bad(own_folder, 100)


@pytest.mark.slow
def test_run_lists_what_it_left_out_and_counts_exactly(spoilt, tiny, tmp_path):
    root, bad = spoilt
    recipe = tiny.replace(max_bad_examples=3, epochs=1, warmup_epochs=0.0)
    assert data.steps_per_epoch(data.without_bad(root, 3)[0], recipe) == 16 // 8
    with pytest.raises(DataError, match="cannot be used"):
        train.fit(recipe.replace(max_bad_examples=2), root, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    model = train.fit(recipe, root, tmp_path / "run")
    listed = json.loads((tmp_path / "run" / "data.json").read_text())["bad_examples"]
    assert [entry["where"] for entry in listed] == bad
    assert train.is_finished(recipe, root, tmp_path / "run")
    metrics = evaluate.run(model, root, max_bad_examples=1)
    assert metrics["examples"] == 5
    assert [entry["where"] for entry in metrics["bad_examples"]] == bad[2:]
    with pytest.raises(DataError, match=r"green/001.jpg: cannot be read"):
        evaluate.run(model, root)


@pytest.mark.slow
def test_evaluation_of_good_pictures_lists_no_bad_ones(folder, net):
    assert "bad_examples" not in evaluate.run(net, folder, max_bad_examples=5)


# Case 26: folders


@pytest.mark.slow
def test_names_of_any_bytes_and_upper_case_endings_are_read(own_folder, tiny):
    red = own_folder / "train" / "red"
    os.rename(red / "000.png", red / "a b  c.PNG")
    os.rename(red / "001.jpg", red / "ünï☃.JPEG")
    os.rename(red / "002.jpg", os.fsencode(red) + b"/\xff\xfe.Jpg")
    source = data.open_source(own_folder)
    assert len(list(source.train.ordered())) == source.train.size == 18
    cut_file(next(file for file in red.iterdir() if "\udcff" in file.name))
    with pytest.raises(DataError), data.blame_pictures(source):
        list(data.eval_batches(source, tiny, "train"))


def test_files_beside_the_classes_are_no_class(own_folder):
    before = data.open_source(own_folder).fingerprint
    (own_folder / "README.txt").write_text("about")
    (own_folder / "train" / "labels.csv").write_text("a,b")
    (own_folder / "train" / "loop").symlink_to("loop")
    assert data.open_source(own_folder).fingerprint == before


def test_unreadable_folder_is_named(own_folder, monkeypatch):
    # root may read everything, so that the system's answer is put in its mouth
    def listdir(path):
        if str(path).endswith("train/red"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    real = os.listdir
    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(DataError, match=r"train/red: .*Permission denied"):
        data.open_source(own_folder)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: file.symlink_to(file.name), "cannot be read"),
        (lambda file: file.symlink_to("nowhere"), "cannot be read"),
        (lambda file: file.mkdir(), "not a file"),
        (os.mkfifo, "not a file"),
    ],
    ids=["loop", "dangling link", "folder", "pipe"],
)
def test_what_is_no_file_is_named_and_never_opened(make, words, own_folder, net):
    odd = own_folder / "train" / "red" / "odd.jpg"
    make(odd)
    with pytest.raises(DataError, match=rf"odd.jpg: {words}.*max_bad_examples"):
        data.open_source(own_folder)
    if words == "not a file" and not odd.is_dir():
        with pytest.raises(DataError, match=r"odd.jpg: not a file"):
            evaluate.predict(net, [odd])


def test_one_class_is_a_data_set(tiny, tmp_path):
    for split in ("train", "val"):
        for index in range(8):
            write_picture(tmp_path / split / "only" / f"{index}.jpg", (9, 9, 9), index)
    source = data.open_source(tmp_path)
    assert source.class_names == ("only",)
    _, labels = next(iter(data.train_batches(source, tiny)))
    np.testing.assert_array_equal(labels, np.ones((8, 1)))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["blue", "green", "red", "background"], "only in one: background"),
        (["red", "green", "blue"], "other order"),
        (None, "has 3 classes, but the model has 4"),
    ],
)
def test_model_of_other_classes_is_refused(names, words, folder, net, monkeypatch):
    info = dataclasses.replace(
        net.info, class_names=names, classes=len(names or "1234")
    )
    monkeypatch.setattr(net, "info", info)
    with pytest.raises(ModelError, match=words):
        evaluate.run(net, folder)


# Case 27: records, as training meets them


def write_records(root, examples):
    """A folder of the serialized examples as both splits, with a manifest."""
    root.mkdir(exist_ok=True)
    splits = {}
    for split in ("train", "val"):
        shard = root / f"{split}-00000-of-00001.tfrecord"
        with tf.io.TFRecordWriter(str(shard)) as writer:
            for example in examples:
                writer.write(example)
        facts = {"file": shard.name, "records": len(examples)}
        facts |= {"bytes": shard.stat().st_size, "offsets": index_records(shard)}
        splits[split] = {"records": len(examples), "bad": [], "shards": [facts]}
    manifest = {"class_names": ["cat", "dog"], "first_label": 0, "validated": False}
    (root / "dataset.json").write_text(json.dumps({**manifest, "splits": splits}))
    return root


def example(picture=None, label=0, **fields):
    if picture is None:
        picture = hostile.encoded(hostile.scene(8, 8))
    parsed = tf.train.Example.FromString(encode_example(picture, label, "cat"))
    for name, value in fields.items():
        key = {"encoded": "image/encoded", "label_": "image/class/label"}[name]
        del parsed.features.feature[key]
        if value is not None:
            parsed.features.feature[key].bytes_list.value.append(value)
    return parsed.SerializeToString()


BAD_RECORDS = {
    "label out of range: -1": example(label=-1),
    "label out of range: 2": example(label=2),
    "label out of range: 1001": example(label=1001),
    "Feature: image/class/label (data type: int64) is required": example(label_=None),
    "Key: image/class/label.  Data types don't match": example(label_=b"0"),
    "Feature: image/encoded (data type: string) is required": example(encoded=None),
    "no picture, or of more than": example(picture=FOREIGN["html"]),
    "Could not parse example": b"no example",
}


@pytest.mark.slow
def test_bad_records_are_named_with_shard_and_number(tiny, tmp_path):
    examples = [example(), *BAD_RECORDS.values(), example()]
    source = data.open_source(write_records(tmp_path / "records", examples))
    found = data.find_bad(source.train)
    assert list(found) == list(range(1, 9))
    for words, reason in zip(BAD_RECORDS, found.values()):
        assert words in reason
    named = r"train-00000-of-00001.tfrecord: record 1: .*\(label out of range: -1\)"
    with pytest.raises(DataError, match=named), data.blame_pictures(source):
        list(data.train_batches(source, tiny.replace(batch_size=10)).take(1))
    left, skipped = data.without_bad(source, 16)
    assert len(skipped) == 16
    images = [x for x, _ in data.eval_batches(left, tiny.replace(batch_size=1))]
    assert len(images) == left.val.size == 2


def test_labels_in_range_are_read_to_the_last(tmp_path):
    root = write_records(tmp_path / "records", [example(label=0), example(label=1)])
    labels = [int(label) for _, label in data.open_source(root).train.ordered()]
    assert labels == [0, 1]


# Case 29: while it is read


@pytest.mark.parametrize(
    "how",
    [
        "deleted",
        pytest.param("cut", marks=pytest.mark.slow),
        pytest.param("replaced", marks=pytest.mark.slow),
    ],
)
def test_picture_that_changes_during_an_epoch_is_named(how, own_folder, tiny):
    source = data.open_source(own_folder)
    victim = own_folder / "train" / "green" / "005.jpg"
    batches = iter(data.train_batches(source, tiny.replace(batch_size=2)))
    next(batches)
    if how == "deleted":
        victim.unlink()
    elif how == "cut":
        cut_file(victim)
    else:
        victim.write_bytes(FOREIGN["html"])
    with (
        pytest.raises(DataError, match=r"green/005.jpg: cannot be read"),
        data.blame_pictures(source),
    ):
        list(itertools.islice(batches, 50))  # what was read ahead may still hold it
