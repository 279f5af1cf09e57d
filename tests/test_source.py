"""Sources other than folders: arrays, and tensorflow-datasets."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from keras_resnet import data, evaluate, train
from keras_resnet.data import folders
from keras_resnet.errors import DataError


def arrays(count=12, classes=3):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 40, 36, 3), dtype=np.uint8)
    return images, np.arange(count) % classes


def test_arrays_are_read_as_they_are(tiny):
    train, val = arrays(), arrays(6)
    source = data.open_source({"train": train, "val": val})
    assert source.class_names == ("0", "1", "2")
    for pair, split in ((train, source.train), (val, source.val)):
        for (image, label), *expected in zip(split.ordered(), *pair):
            np.testing.assert_array_equal(image, expected[0])
            assert label == expected[1]
    seen = [
        (image.tobytes(), int(label.argmax()))
        for images, labels in data.eval_batches(source, tiny).as_numpy_iterator()
        for image, label in zip(images, labels)
    ]
    protocol = tiny.protocol
    assert seen == [
        (data.load_eval(tf.constant(image), protocol).numpy().tobytes(), label)
        for image, label in zip(*val)
    ]


def test_labels_may_stand_in_a_column_as_keras_datasets_have_them():
    images, labels = arrays()
    column = data.open_source({"train": (images, labels[:, None])})
    assert (
        column.fingerprint == data.open_source({"train": (images, labels)}).fingerprint
    )


def test_one_pair_is_what_is_evaluated_and_what_is_trained_on():
    source = data.open_source(arrays())
    assert source.train is source.val
    assert source.train.size == 12


@pytest.mark.slow
def test_arrays_train_a_model(tiny, tmp_path):
    recipe = tiny.replace(batch_size=4, epochs=1, warmup_epochs=0.0)
    with pytest.raises(DataError, match=r"would be the same; pass \{.train"):
        train.fit(recipe, arrays(), tmp_path / "run")
    model = train.fit(recipe, {"train": arrays(), "val": arrays(6)}, tmp_path / "run")
    assert model.info.class_names == ("0", "1", "2")
    assert evaluate.run(model, arrays(6))["examples"] == 6


@pytest.mark.parametrize("slow", [False, True])
def test_files_are_looked_at_in_order_on_threads_where_they_are_slow(slow, monkeypatch):
    threads = set()

    def add(file, size):
        threads.add(threading.get_ident())
        return file + size

    monkeypatch.setattr(folders, "_FAST", -1.0 if slow else 1e9)
    files, sizes = range(40_000), range(0, 400_000, 10)
    results = list(folders.map_files(add, files, sizes))
    assert results == [11 * file for file in files]
    assert threads - {threading.get_ident()} if slow else len(threads) == 1
    assert list(folders.map_files(add, [], [])) == []


def test_fingerprint_of_arrays_follows_pixels_labels_and_names():
    images, labels = arrays()
    changed = images.copy()
    changed[3, 2, 1, 0] ^= 1
    sources = [
        {"train": (images, labels)},
        {"train": (changed, labels)},
        {"train": (images, labels[::-1])},
        {"val": (images, labels)},
        {"train": (images, labels), "class_names": ["a", "b", "c"]},
    ]
    prints = [data.open_source(source).fingerprint for source in sources]
    assert len(set(prints)) == 5
    assert data.open_source({"train": arrays()}).fingerprint == prints[0]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"train": (arrays()[0] / 255, arrays()[1])}, r"float64 \[12, 40.*uint8"),
        ({"train": (arrays()[0][..., :1], arrays()[1])}, r"\[12, 40, 36, 1\]; must be"),
        ({"train": (arrays()[0], arrays()[1][:5])}, r"labels: int64 \[5\].*\[12\]"),
        ({"train": (arrays()[0], np.eye(12))}, r"labels: float64 \[12, 12\]"),
        ({"train": (arrays()[0], arrays()[1] - 1)}, r"label below 0"),
        ({"train": arrays()[0]}, r"train: must be a pair \(images, labels\)"),
        ({"test": arrays()}, r"arrays: keys \['test'\]; must be 'train', 'val' or"),
        ({"train": arrays(), "class_names": ["a"]}, r"1 names, but the largest label"),
        ({}, r"must be 'train', 'val' or both"),
    ],
)
def test_bad_arrays_are_one_clear_line(source, words):
    with pytest.raises(DataError, match=words) as error:
        data.open_source(source)
    assert "\n" not in str(error.value)


@pytest.fixture
def colours_dataset(tmp_path, monkeypatch):
    """A data set of tensorflow-datasets, made here: 8 + 4 pictures of 2 classes."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Colours(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=["dark", "light"])
            features = {"image": tfds.features.Image(), "label": label}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {"train": self._examples(8), "test": self._examples(4)}

        def _generate_examples(self):
            raise AssertionError  # the splits are given

        def _examples(self, count):
            for i in range(count):
                pixels = np.full((20, 24, 3), 200 * (i % 2) + i, np.uint8)
                yield i, {"image": pixels, "label": i % 2}

    # what the variable TFDS_DATA_DIR sets when the package is imported
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    Colours(data_dir=tmp_path).download_and_prepare()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorflow-datasets' own
def test_tfds_is_read_from_its_own_records(colours_dataset, tiny, tmp_path):
    source = data.open_source("tfds:colours")
    assert source.class_names == ("dark", "light")
    assert (source.train.size, source.val.size) == (8, 4)
    for split in (source.train, source.val):
        for encoded, label in split.ordered():
            assert data.decode_image(encoded).numpy()[0, 0, 0] // 200 == label
    written = data.prepare(source, tmp_path / "records")
    assert (written.train.size, written.val.size) == (8, 4)
    assert written.class_names == source.class_names
    images, _ = next(iter(data.train_batches(source, tiny)))
    assert images.shape == (8, 32, 32, 3)


def test_tfds_that_is_missing_is_named(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(DataError, match=r"tfds:no_such_set: .*no_such_set"):
        data.open_source("tfds:no_such_set")


def test_tfds_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"pip install keras-resnet-d\[tfds\]"):
        data.open_source("tfds:mnist")
