"""Pictures arrive exact, each once, in an order that seed and epoch determine."""

import io
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from checkpoints import GOLDENS
from conftest import write_folder, write_picture
from PIL import Image

from keras_resnet import data
from keras_resnet.data.crop import load_train
from keras_resnet.data.decode import picture_size
from keras_resnet.data.pipeline import mixup
from keras_resnet.model import Protocol

PICTURES = GOLDENS / "pictures"
GOOD = sorted(path.name for path in (PICTURES / "ok").iterdir())
BAD = sorted(path.name for path in (PICTURES / "bad").iterdir())
CROPS = sorted((PICTURES / "eval").glob("*.eval_*"))


def pillow(path):
    with Image.open(path) as image:
        if image.mode.startswith("I"):  # Pillow clips 16 bits to 8
            grey = np.asarray(image).astype(np.int64) // 257
            return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def test_the_catalogue_of_pictures_is_here():
    assert (len(GOOD), len(BAD), len(CROPS)) == (18, 10, 8)


@pytest.mark.parametrize("name", GOOD)
def test_good_picture_decodes_to_pillows_pixels(name):
    encoded = tf.io.read_file(str(PICTURES / "ok" / name))
    expected = pillow(PICTURES / "ok" / name)
    np.testing.assert_array_equal(data.decode_image(encoded), expected)
    assert tuple(map(int, picture_size(encoded))) == expected.shape[:2]


@pytest.mark.parametrize("name", BAD)
def test_bad_picture_is_refused(name):
    encoded = tf.io.read_file(str(PICTURES / "bad" / name))
    with pytest.raises(tf.errors.InvalidArgumentError):
        data.decode_image(encoded)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp", "webp"])
def test_every_format_decodes_in_a_graph_and_announces_its_size(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (19, 33, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    decode = tf.function(
        data.decode_image, input_signature=[tf.TensorSpec([], tf.string)]
    )
    expected = np.asarray(Image.open(stream).convert("RGB"))
    np.testing.assert_array_equal(decode(stream.getvalue()), expected)
    assert tuple(map(int, picture_size(tf.constant(stream.getvalue())))) == (19, 33)


def test_picture_beyond_the_limit_is_refused_before_it_is_decoded():
    encoded = tf.io.read_file(str(PICTURES / "ok" / "plain.jpg"))
    assert data.decode_image(encoded, max_pixels=160 * 120).shape == (120, 160, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="19199"):
        data.decode_image(encoded, max_pixels=160 * 120 - 1)


@pytest.mark.parametrize("path", CROPS, ids=lambda path: path.name)
def test_evaluation_crop_is_timms_on_pillow(path):
    source, size, crop_pct, interpolation = re.fullmatch(
        r"(.*)\.eval_(\d+)_([\d.]+)_(\w+)\.png", path.name
    ).groups()
    image = data.decode_image(tf.io.read_file(str(path.with_name(source))))
    ours = data.eval_crop(image, int(size), float(crop_pct), interpolation).numpy()
    difference = np.abs(ours.astype(int) - pillow(path).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (31, 33)])
def test_evaluation_crop_takes_any_shape(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    np.testing.assert_array_equal(
        data.eval_crop(image, 32, 0.9), np.full((32, 32, 3), 77)
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"crop_pct": 0.0}, "crop_pct=0.0"),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
        ({"interpolation": "nearest"}, "interpolation='nearest'.*bicubic"),
    ],
)
def test_evaluation_crop_names_a_bad_argument(arguments, words):
    with pytest.raises(ValueError, match=words):
        data.eval_crop(np.zeros((8, 8, 3), np.uint8), 8, **arguments)


def test_evaluation_shows_each_picture_once(folder, tiny):
    seen = [
        (image.tobytes(), int(label.argmax()))
        for images, labels in data.eval_batches(folder, tiny).as_numpy_iterator()
        for image, label in zip(images, labels)
    ]
    expected = []
    for label, name in enumerate(("blue", "green", "red")):
        for path in sorted((folder / "val" / name).iterdir()):
            image = data.load_eval(tf.io.read_file(str(path)), tiny.protocol)
            expected.append((image.numpy().tobytes(), label))
    assert seen == expected
    assert len(set(seen)) == 12


def train_ids(source, recipe, steps, epoch=0):
    """Bytes that tell pictures apart, of each training batch; augmentation off."""
    plain = recipe.replace(min_area=1.0, max_aspect=1.0, flip=0.0, colour=0.0)
    plain = plain.replace(lighting=0.0, mixup=0.0)
    batches = data.train_batches(source, plain, epoch).take(steps)
    return [
        [image.tobytes() for image in images]
        for images, _ in batches.as_numpy_iterator()
    ]


@pytest.mark.parametrize("kind", ["folder", "records"])
def test_epoch_shows_different_pictures_in_full_batches(kind, folder, tiny, tmp_path):
    source = folder if kind == "folder" else data.prepare(folder, tmp_path / "records")
    steps = data.steps_per_epoch(source, tiny)
    assert steps == 36 // 8
    batches = train_ids(source, tiny, 2 * steps)
    assert {len(batch) for batch in batches} == {8}
    first = [image for batch in batches[:steps] for image in batch]
    second = [image for batch in batches[steps:] for image in batch]
    assert len(set(first)) == len(first) == 32
    assert len(set(second)) == 32
    assert first != second


@pytest.mark.parametrize("kind", ["folder", "records"])
def test_training_is_a_function_of_seed_epoch_and_position(
    kind, folder, tiny, tmp_path
):
    source = folder if kind == "folder" else data.prepare(folder, tmp_path / "records")
    recipe = tiny.replace(mixup=0.2)

    def batches(recipe, epoch, count):
        pairs = data.train_batches(source, recipe, epoch).take(count)
        return [pair for batch in pairs.as_numpy_iterator() for pair in batch]

    tf.random.set_seed(1)
    whole = batches(recipe, 0, 8)
    tf.random.set_seed(2)  # the process's own seed has no say
    late = batches(recipe, 1, 4)
    for ours, theirs in zip(whole[8:], late):
        np.testing.assert_array_equal(ours, theirs)
    other = batches(recipe.replace(seed=1), 1, 4)
    assert not any(np.array_equal(a, b) for a, b in zip(late[::2], other[::2]))


def test_training_batch_keeps_the_contract(folder, tiny):
    images, labels = next(iter(data.train_batches(folder, tiny.replace(mixup=0.0))))
    assert images.dtype == labels.dtype == tf.float32
    assert images.shape == (8, 32, 32, 3)
    assert 0 <= images.numpy().min() < images.numpy().max() <= 255
    np.testing.assert_array_equal(np.sort(labels.numpy(), 1)[:, :2], 0)
    np.testing.assert_array_equal(labels.numpy().sum(1), 1)


def test_crop_of_a_jpeg_alone_equals_the_crop_of_the_whole(tiny):
    # the fused path decodes whole blocks around the window: chroma may differ there
    still = tiny.replace(flip=0.0, colour=0.0, lighting=0.0, min_area=0.3)
    pixels = np.random.default_rng(3).integers(0, 256, (64, 96), dtype=np.uint8)
    grey = np.repeat(pixels[..., None], 3, 2)
    encoded = tf.io.encode_jpeg(grey, quality=95)
    as_png = tf.io.encode_png(tf.io.decode_jpeg(encoded, dct_method="INTEGER_ACCURATE"))
    for index in range(5):
        seed = tf.constant([0, index], tf.int64)
        np.testing.assert_allclose(
            load_train(encoded, still, seed), load_train(as_png, still, seed), atol=1.0
        )


def drawn(pixels, recipe, count):
    """The training pictures of one source picture under `count` seeds, uncropped."""
    recipe = recipe.replace(min_area=1.0, max_aspect=1.0)
    encoded = tf.io.encode_png(pixels)
    seeds = tf.stack([tf.zeros(count, tf.int64), tf.range(count, dtype=tf.int64)], 1)

    @tf.function
    def draw():
        return tf.map_fn(
            lambda seed: load_train(encoded, recipe, seed),
            seeds,
            fn_output_signature=tf.float32,
        )

    return draw().numpy()


def test_flip_is_a_mirror_and_happens_half_of_the_time(tiny):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    images = drawn(pixels, tiny.replace(colour=0.0, lighting=0.0, flip=0.5), 200)
    mirrored = (images == pixels[:, ::-1]).all((1, 2, 3))
    straight = (images == pixels).all((1, 2, 3))
    assert (mirrored ^ straight).all()
    assert 75 <= mirrored.sum() <= 125


def test_colour_keeps_grey_grey_and_reaches_both_ends(tiny):
    grey = np.full((32, 32, 3), 100, np.uint8)
    recipe = tiny.replace(flip=0.0, colour=0.4, lighting=0.0)
    values = drawn(grey, recipe, 300)[:, 0, 0]
    np.testing.assert_allclose(values, values[:, :1].repeat(3, 1), atol=1e-2)
    # brightness factors are drawn from [0.6, 1.4]
    assert 60 <= values.min() < 64
    assert 136 < values.max() <= 140


def test_lighting_moves_along_imagenets_eigenvectors(tiny):
    grey = np.full((32, 32, 3), 128, np.uint8)
    recipe = tiny.replace(flip=0.0, colour=0.0, lighting=0.1)
    shifts = drawn(grey, recipe, 2000)[:, 0, 0] - 128
    eigenvalues = np.linalg.eigvalsh(np.cov(shifts.T))[::-1]
    expected = (0.1 * np.array([55.46, 4.794, 1.148])) ** 2
    np.testing.assert_allclose(eigenvalues, expected, rtol=0.15)


def test_mixup_weight_is_beta_distributed():
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1))
    labels = np.eye(2, dtype=np.float32)
    images = np.zeros((2, 1, 1, 3), np.float32)
    draw = tf.function(lambda i: mixup(images, labels, 0.2, (0, i))[1][0, 0])
    weights = np.array([draw(i).numpy() for i in tf.range(3000)])
    assert abs(weights.mean() - 0.5) < 0.03
    assert abs(weights.var() - 1 / (4 * 1.4)) < 0.01


def test_mixup_mixes_pictures_as_it_mixes_labels():
    images = np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 3))
    mixed, labels = mixup(
        images.astype(np.float32), np.eye(4, dtype=np.float32), 1.0, (0, 3)
    )
    np.testing.assert_allclose(
        mixed[:, 0, 0, 0], labels.numpy() @ np.arange(4), rtol=1e-6
    )
    np.testing.assert_allclose(labels.numpy().sum(1), 1, rtol=1e-6)
    assert len(np.unique(labels)) > 2


def test_prepared_records_hold_the_files_and_the_manifest_their_facts(folder, tmp_path):
    source = data.prepare(folder, tmp_path / "records")
    files = data.open_source(folder)
    for name in ("train", "val"):
        ours = {(d.numpy(), int(y)) for d, y in source.split(name).ordered()}
        theirs = {(d.numpy(), int(y)) for d, y in files.split(name).ordered()}
        assert ours == theirs
        assert len(ours) == source.split(name).size
    assert source.class_names == ("blue", "green", "red")
    record = next(iter(tf.data.TFRecordDataset(source.train.files[0]))).numpy()
    features = tf.train.Example.FromString(record).features.feature
    label = features["image/class/label"].int64_list.value[0]
    assert (
        features["image/class/text"].bytes_list.value[0].decode()
        == (source.class_names[label])
    )


def test_labels_from_one_are_read_by_the_manifest(folder, tmp_path):
    data.prepare(folder, tmp_path / "records")
    manifest = tmp_path / "records" / "dataset.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**facts, "first_label": 1}))
    labels = {int(y) for _, y in data.open_source(manifest.parent).train.ordered()}
    assert labels == {-1, 0, 1}


def test_prepare_holds_out_a_share_of_each_class(tmp_path):
    write_folder(tmp_path / "all", train=10, val=1)
    source = data.prepare(tmp_path / "all" / "train", tmp_path / "records", val=0.2)
    assert (source.train.size, source.val.size) == (24, 6)
    train, val = (
        {encoded.numpy() for encoded, _ in split.ordered()}
        for split in (source.train, source.val)
    )
    assert not train & val
    counts = np.bincount([int(y) for _, y in source.val.ordered()])
    np.testing.assert_array_equal(counts, 2)


def test_interrupted_prepare_leaves_nothing(folder, tmp_path):
    def interrupting(order):
        yield from order[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.prepare(folder, tmp_path / "records", progress=interrupting)
    assert list(tmp_path.iterdir()) == []


def break_nothing(root):
    return root / "missing"


def break_class_empty(root):
    for path in (root / "train" / "red").iterdir():
        path.unlink()
    return root


def break_class_without_validation(root):
    for path in (root / "val" / "red").iterdir():
        path.unlink()
    (root / "val" / "red").rmdir()
    return root


def break_class_without_training(root):
    write_picture(root / "val" / "pink" / "0.png", (200, 100, 100), 0)
    return root


def break_file(root):
    (root / "train" / "red" / "notes.txt").write_text("not a picture")
    return root


def break_layout(root):
    return root / "train"


def break_manifest(root):
    (root / "dataset.json").write_text('{"splits": 3}')
    return root


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (break_nothing, r"missing: no such folder"),
        (break_class_empty, r"train/red: class without pictures"),
        (break_class_without_validation, r"class 'red' has no validation pictures"),
        (break_class_without_training, r"class 'pink' has no training pictures"),
        (break_file, r"red/notes.txt: not a JPEG, PNG, GIF, BMP or WebP picture"),
        (break_layout, r"train: has neither train/ nor val/.*prepare --val"),
        (break_manifest, r"dataset.json: not a manifest of ours"),
    ],
)
def test_bad_folder_is_one_clear_line(spoil, words, own_folder):
    with pytest.raises(data.DataError, match=words) as error:
        data.open_source(spoil(own_folder))
    assert "\n" not in str(error.value)


def test_hidden_files_are_no_pictures(own_folder):
    before = data.open_source(own_folder)
    (own_folder / "train" / "red" / ".DS_Store").write_bytes(b"junk")
    (own_folder / "train" / ".cache").mkdir()
    assert data.open_source(own_folder) == before


def test_fingerprint_follows_the_files(own_folder):
    before = data.open_source(own_folder).fingerprint
    assert data.open_source(own_folder).fingerprint == before
    write_picture(own_folder / "train" / "red" / "new.png", (220, 50, 40), 9)
    assert data.open_source(own_folder).fingerprint != before


def test_shortened_shard_is_named(folder, tmp_path):
    source = data.prepare(folder, tmp_path / "records")
    shard = tmp_path / "records" / "train-00000.tfrecord"
    assert source.train.files == (str(shard),)
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(data.DataError, match=r"train-00000.tfrecord.*prepare"):
        data.open_source(tmp_path / "records")


def test_damaged_picture_is_named_by_its_path(own_folder, tiny):
    victim = own_folder / "val" / "green" / "001.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    with (
        pytest.raises(data.DataError, match=r"green/001.jpg: cannot be read"),
        data.blame_pictures(own_folder),
    ):
        list(data.eval_batches(own_folder, tiny))


def test_damaged_record_is_named_by_its_number(folder, tmp_path, tiny):
    source = data.prepare(folder, tmp_path / "records")
    shard = tmp_path / "records" / "val-00000.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with (
        pytest.raises(data.DataError, match=r"val-00000.tfrecord: record \d+"),
        data.blame_pictures(source),
    ):
        list(data.eval_batches(source, tiny))


def test_batch_larger_than_the_data_is_refused(own_folder, tiny):
    with pytest.raises(data.DataError, match=r"batch_size=64.*18 training pictures"):
        data.train_batches(own_folder, tiny.replace(batch_size=64))


def test_prepare_refuses_an_existing_destination(folder, tmp_path):
    (tmp_path / "here").mkdir()
    with pytest.raises(data.DataError, match=r"here: exists; remove it"):
        data.prepare(folder, tmp_path / "here")


def test_protocol_serves_evaluation_as_well_as_a_recipe(folder, tiny):
    ours = data.eval_batches(folder, Protocol(32, 0.875, "bicubic"), batch_size=5)
    theirs = data.eval_batches(folder, tiny, batch_size=5)
    for (a, _), (b, _) in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)
