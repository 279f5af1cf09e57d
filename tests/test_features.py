"""Embeddings are what the classifier gets, whatever the batches."""

import json

import numpy as np
import pytest

import keras_resnet
from keras_resnet import Features, evaluate
from keras_resnet.errors import DataError, Error, ModelError


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)


def test_classifier_gets_the_features(trained, images):
    features = Features(trained[0], batch_size=3)
    vectors = features(images)
    assert vectors.dtype == np.float32
    assert vectors.shape == (7, features.size)
    head = trained[1].get_layer("head")
    logits = vectors @ np.array(head.kernel) + np.array(head.bias)
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(odds, trained[1].predict(images, verbose=0), atol=1e-5)
    # of 3 and of 7 at once
    np.testing.assert_allclose(vectors, Features(trained[1])(images), atol=1e-5)


def test_vectors_of_length_one(trained, images):
    plain, unit = Features(trained[1])(images), Features(trained[1], True)(images)
    norms = np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, plain / norms, rtol=1e-6)
    assert np.isfinite(Features(trained[1], True)(0 * images)).all()


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_net_without_a_classifier_has_features(pooling, images):
    net = keras_resnet.create(
        "resnet18d", weights=None, include_top=False, pooling=pooling, width=8
    )
    features = Features(net)
    vectors = features(images)
    assert vectors.shape == (7, features.size)
    expected = net.predict(images, verbose=0)
    if pooling is None:
        expected = expected.mean((1, 2))
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_embedded_is_named(trained, exported, images):
    with pytest.raises(ModelError, match="has no features; use a run directory"):
        Features(keras_resnet.export.open_engine(exported))
    with pytest.raises(ValueError, match="batch_size=0: must be 1 or more"):
        Features(trained[1], batch_size=0)
    with pytest.raises(
        DataError, match=r"images: \(32, 32, 3\); must be \[N, H, W, 3\]"
    ):
        Features(trained[1])(images[0])
    assert Features(trained[1])(images[:0]).shape == (0, 8 * 2)


def test_split_is_embedded_in_its_order(trained, folder):
    features = Features(trained[1], batch_size=5)
    rows = evaluate.embed(features, folder, "val")
    expected = sorted(map(str, (folder / "val").rglob("*.*")))
    assert rows.paths == expected
    assert rows.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    images = [
        evaluate.load_picture(path, trained[1].info.protocol) for path in expected
    ]
    np.testing.assert_allclose(rows.vectors, features(np.stack(images)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_command_writes_vectors(kind, trained, folder, tmp_path, call):
    arguments = "embed", trained[0], folder, "--out", f"rows.{kind}", "--json"
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.err
    assert json.loads(done.out) == {"path": f"rows.{kind}", "images": 12, "size": 16}
    expected = evaluate.embed(Features(trained[1]), folder, "val")
    if kind == "npz":
        with np.load(tmp_path / "rows.npz") as found:
            rows = dict(found)
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = parquet.read_table(tmp_path / "rows.parquet").to_pydict()
    assert list(rows["path"]) == expected.paths
    assert list(rows["label"]) == expected.labels.tolist()
    np.testing.assert_allclose(rows["vector"], expected.vectors, atol=1e-5)


def test_other_suffix_is_refused_before_anything(trained, folder, tmp_path, call):
    done = call("embed", trained[0], folder, "--out", "rows.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "must end in .npz or .parquet" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_probe_tells_colours_apart(trained, folder, tmp_path, call):
    pytest.importorskip("sklearn")
    done = call("evaluate", trained[0], folder, "--probe", "--json", cwd=tmp_path)
    result = json.loads(done.out)
    assert result["examples"] == 12
    assert result["neighbours"] == 20
    assert result["knn"] > 0.9
    assert result["linear"] > 0.9
    done = call("evaluate", trained[0], folder, "--probe", "--size", 64, cwd=tmp_path)
    assert done.returncode == 2


def test_probe_measures_by_other_classes(trained):
    from sklearn.neighbors import KNeighborsClassifier

    drawn = np.random.default_rng(0)
    arrays = {
        split: (drawn.integers(0, 256, (n, 40, 40, 3), np.uint8), np.arange(n) % 5)
        for split, n in (("train", 30), ("val", 15))
    }
    features = Features(trained[1], normalize=True)
    result = evaluate.probe(features, arrays, neighbours=3)
    train, val = (evaluate.embed(features, arrays, it) for it in ("train", "val"))
    near = KNeighborsClassifier(3, metric="cosine").fit(train.vectors, train.labels)
    assert result["knn"] == near.score(val.vectors, val.labels)


def test_probe_needs_scikit_learn(trained, folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    with pytest.raises(Error, match=r"scikit-learn; pip install keras-resnet-d\[trans"):
        evaluate.probe(Features(trained[1]), folder)
