"""Pictures arrive exact, each once, in an order that seed and epoch determine."""

import hashlib
import io
import json
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from checkpoints import GOLDENS
from conftest import write_picture
from PIL import Image
from scipy import stats

from keras_resnet import data
from keras_resnet.data.transforms.decode import picture_size
from keras_resnet.errors import DataError
from keras_resnet.info import Protocol

PICTURES = GOLDENS / "pictures"
GOOD = sorted(path.name for path in (PICTURES / "ok").iterdir())
BAD = sorted(path.name for path in (PICTURES / "bad").iterdir())


def pillow(path):
    with Image.open(path) as image:
        if image.mode.startswith("I"):  # Pillow clips 16 bits to 8
            grey = np.asarray(image).astype(np.int64) // 257
            return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def test_the_catalogue_of_pictures_is_here():
    assert (len(GOOD), len(BAD)) == (18, 10)


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


@pytest.mark.addons
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


@pytest.mark.addons
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


@pytest.mark.addons
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("folder", marks=pytest.mark.slow),
        pytest.param("records", marks=pytest.mark.slow),
        "arrays",
    ],
)
def test_training_starts_at_any_position(kind, folder, tiny, tmp_path):
    source = {
        "folder": lambda: folder,
        "records": lambda: data.prepare(folder, tmp_path / "records"),
        "arrays": lambda: (
            np.random.default_rng(0).integers(0, 256, (36, 40, 36, 3), dtype=np.uint8),
            np.arange(36) % 3,
        ),
    }[kind]()
    source = data.open_source(source)
    recipe = tiny.replace(mixup=0.2, cutmix=1.0)
    if kind == "folder":
        recipe = recipe.replace(rand_augment=5.0, erasing=0.3)
    steps = data.steps_per_epoch(source, recipe)

    def batches(epoch, step, count, recipe=recipe):
        pairs = data.train_batches(source, recipe, epoch, step).take(count)
        return list(pairs.as_numpy_iterator())

    tf.random.set_seed(1)
    whole = batches(0, 0, 2 * steps + 1)
    tf.random.set_seed(2)  # the process's own seed has no say
    positions = [(0, steps - 1), (1, 2), (2, 0)] if kind == "folder" else [(1, 2)]
    for epoch, step in positions:
        position = epoch * steps + step
        for ours, theirs in zip(batches(epoch, step, 2), whole[position:]):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])
    other = batches(0, 0, 2, recipe.replace(seed=1))
    assert not any(np.array_equal(a[0], b[0]) for a, b in zip(whole, other))
    assert not np.array_equal(whole[0][0], whole[1][0])


@pytest.mark.slow
def test_threads_and_tuning_change_nothing(folder, tiny):
    def first(options):
        batches = data.train_batches(folder, tiny).with_options(options).take(6)
        return [array for pair in batches.as_numpy_iterator() for array in pair]

    usual = first(tf.data.Options())
    for threads in (1, 4, 16):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        options.autotune.enabled = threads == 4
        for ours, theirs in zip(first(options), usual):
            np.testing.assert_array_equal(ours, theirs)


def test_order_is_a_permutation_that_seed_and_epoch_determine(folder):
    split = data.open_source(folder).train
    orders = {
        (seed, epoch): split.order(seed, epoch).numpy()
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    for order in orders.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(36))
    assert len({order.tobytes() for order in orders.values()}) == 6
    np.testing.assert_array_equal(split.order(1, 2), orders[1, 2])


@pytest.mark.slow
def test_order_has_no_memory_of_places():
    # each number falls on each place equally often, and neighbours are no neighbours
    pictures = np.zeros((10, 1, 1, 3), np.uint8)
    split = data.open_source((pictures, np.zeros(10, int))).train
    orders = np.array([split.order(0, epoch).numpy() for epoch in range(2000)])
    for place in (0, 4, 9):
        assert stats.chisquare(np.bincount(orders[:, place])).pvalue > 0.001
    follows = (np.diff(orders, axis=1) == 1).sum()  # 9 pairs that follow, of 90
    assert stats.binomtest(int(follows), 9 * 2000, 0.1).pvalue > 0.001


@pytest.mark.slow
@pytest.mark.addons
def test_training_batch_keeps_the_contract(folder, tiny):
    for recipe, kind in [
        (tiny, tf.float32),
        (tiny.replace(mixup=0.0), tf.uint8),
        (tiny.replace(mixup=0.0, cutmix=1.0), tf.uint8),
        (tiny.replace(mixup=0.2, cutmix=1.0), tf.float32),
        (tiny.replace(mixup=0.0, scales=(32, 48)), tf.uint8),
        (tiny.replace(mixup=0.0, train_antialias=True), tf.uint8),
        (tiny.replace(colours="brightness-contrast-saturation"), tf.float32),
    ]:
        images, labels = next(iter(data.train_batches(folder, recipe)))
        assert (images.dtype, labels.dtype) == (kind, tf.float32)
        assert images.shape == (8, 32, 32, 3)
        assert labels.shape == (8, 3)
        assert 0 <= images.numpy().min() < images.numpy().max() <= 255
        np.testing.assert_allclose(labels.numpy().sum(1), 1, rtol=1e-6)
        if not recipe.mixup and not recipe.cutmix:
            np.testing.assert_array_equal(np.sort(labels.numpy(), 1)[:, :2], 0)


def test_labels_are_read_as_the_manifest_says(folder, tmp_path):
    data.prepare(folder, tmp_path / "records")
    manifest = tmp_path / "records" / "dataset.json"
    facts = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**facts, "first_label": 1}))
    split = data.open_source(manifest.parent).train
    with pytest.raises(tf.errors.InvalidArgumentError, match="label out of range"):
        list(split.ordered())  # class 0 would be -1
    good = split.ordered().ignore_errors()
    assert {int(label) for _, label in good} == {0, 1}


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
        (break_class_empty, r"train/red: class has no pictures"),
        (break_class_without_validation, r"class 'red' has no validation pictures"),
        (break_class_without_training, r"class 'pink' has no training pictures"),
        (break_file, r"red/notes.txt: not a JPEG, PNG, GIF, BMP or WebP picture"),
        (break_layout, r"train: has neither train/ nor val/.*prepare --val"),
        (break_manifest, r"dataset.json: not a manifest of this package"),
    ],
)
def test_bad_folder_is_one_clear_line(spoil, words, own_folder):
    with pytest.raises(DataError, match=words) as error:
        data.open_source(spoil(own_folder))
    assert "\n" not in str(error.value)


def test_hidden_files_are_no_pictures(own_folder):
    before = data.open_source(own_folder).train.files
    (own_folder / "train" / "red" / ".DS_Store").write_bytes(b"junk")
    (own_folder / "train" / ".cache").mkdir()
    assert data.open_source(own_folder).train.files == before


def test_fingerprint_follows_the_files(own_folder):
    before = data.open_source(own_folder).fingerprint
    assert data.open_source(own_folder).fingerprint == before
    write_picture(own_folder / "train" / "red" / "new.png", (220, 50, 40), 9)
    assert data.open_source(own_folder).fingerprint != before


def test_fingerprint_is_that_of_all_versions_and_computed_once(tmp_path, monkeypatch):
    names = {"b": ["2.jpg", "10.jpg", "A.jpg", "ünï.jpg"], "a": ["x.jpg", "1.jpg"]}
    for split in ("train", "val"):
        for name, files in names.items():
            (tmp_path / split / name).mkdir(parents=True)
            for file in files:
                (tmp_path / split / name / file).write_bytes(b"\xff\xd8\xff")
    ordered = ["1.jpg", "x.jpg", "10.jpg", "2.jpg", "A.jpg", "ünï.jpg"]
    each = [ordered, [0, 0, 1, 1, 1, 1]]
    identity = json.dumps([["a", "b"], {"train": each, "val": each}])
    expected = hashlib.sha256(identity.encode()).hexdigest()[:16]
    assert expected == "3a9969b5ad101d20"  # recorded in every run of such a folder
    source = data.open_source(tmp_path)
    assert source.fingerprint == expected
    monkeypatch.setattr(type(source.train), "identity", None)  # is not asked again
    assert source.fingerprint == expected
    assert data.without_bad(source)[0].fingerprint == expected


@pytest.fixture
def many(tmp_path):
    """A folder of 4,000 links to one file, and its manifest as `validate` writes it."""
    root, splits = tmp_path / "pictures", {}
    first = tmp_path / "first.jpg"
    first.write_bytes(b"\xff\xd8\xff" + bytes(30))
    for split, count in (("train", 900), ("val", 100)):
        files = []
        for label in range(4):
            (root / split / f"class{label}").mkdir(parents=True)
            for number in range(count):
                file = f"{split}/class{label}/n01440764_{number:08d}.JPEG"
                (root / file).hardlink_to(first)
                entry = {"file": file, "label": label, "bytes": 33, "sha256": "0" * 64}
                facts = {"mode": "RGB", "height": 333, "width": 500, "exif": None}
                files.append({**entry, "format": "jpeg", **facts})
        splits[split] = {"records": 4 * count, "bad": [], "files": files}
    names = [f"class{label}" for label in range(4)]
    manifest = {"validated": True, "class_names": names, "splits": splits}
    return root, json.dumps(manifest).replace('}, {"file"', '},\n{"file"')


@pytest.mark.parametrize(("kind", "most"), [("folder", 600), ("manifest", 600)])
def test_opening_takes_some_hundred_bytes_a_file(kind, most, many):
    root, manifest = many
    if kind == "manifest":
        (root / "dataset.json").write_text(manifest)
    data.open_source(root)  # what is imported and cached once
    tracemalloc.start()
    source = data.open_source(root)
    assert source.fingerprint == "3736f96db45d57e7"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.train.size + source.val.size == 4000
    assert peak / 4000 < most
    if kind == "manifest":  # and in whatever form it is written
        for indent in (None, 1):
            text = json.dumps(json.loads(manifest), indent=indent)
            (root / "dataset.json").write_text(text)
            again = data.open_source(root)
            assert again.train.files == source.train.files
            assert again.val.labels == source.val.labels


def test_shortened_shard_is_named(folder, tmp_path):
    source = data.prepare(folder, tmp_path / "records")
    shard = tmp_path / "records" / "train-00000-of-00001.tfrecord"
    assert source.train.shards == (str(shard),)
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-00000-of-00001.tfrecord.*prepare"):
        data.open_source(tmp_path / "records")


def test_damaged_picture_is_named_by_its_path(own_folder, tiny):
    victim = own_folder / "val" / "green" / "001.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    with (
        pytest.raises(DataError, match=r"green/001.jpg: cannot be read"),
        data.blame_pictures(own_folder),
    ):
        list(data.eval_batches(own_folder, tiny))


def test_damaged_record_is_named_by_its_number(folder, tmp_path, tiny):
    source = data.prepare(folder, tmp_path / "records")
    shard = tmp_path / "records" / "val-00000-of-00001.tfrecord"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with (
        pytest.raises(DataError, match=r"val-00000-of-00001.tfrecord: record \d+"),
        data.blame_pictures(source),
    ):
        list(data.eval_batches(source, tiny))


def test_batch_larger_than_the_data_is_refused(own_folder, tiny):
    with pytest.raises(DataError, match=r"batch_size=64.*18 training pictures"):
        data.train_batches(own_folder, tiny.replace(batch_size=64))


def test_protocol_serves_evaluation_as_well_as_a_recipe(folder, tiny):
    ours = data.eval_batches(folder, Protocol(32, 0.875, "bicubic"), batch_size=5)
    theirs = data.eval_batches(folder, tiny, batch_size=5)
    for (a, _), (b, _) in zip(ours, theirs):
        np.testing.assert_array_equal(a, b)
