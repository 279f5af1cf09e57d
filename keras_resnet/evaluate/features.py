"""Embeddings of images: what a net computes before its classifier."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.backend import keras
from keras_resnet.data import blame_pictures, eval_batches, open_source
from keras_resnet.data.sources import SourceLike
from keras_resnet.errors import DataError, Error, ModelError
from keras_resnet.evaluate.views import padded
from keras_resnet.files import atomic_write
from keras_resnet.opening import open_model

Progress = Callable[[Iterable], Iterable]


class Features:
    """Embeds images: pooled features, which a linear classifier would get.

    Args:
        model: what `open_model` takes, or an open model of this package or of a run.
        normalize: whether to divide each vector by its L2 norm.
        batch_size: images that the model computes at once.

    Attributes:
        model: the net, which ends before its classifier.
        size: the length of a vector.

    Raises:
        ValueError: `batch_size` is below 1.
        ModelError: the model has no features, as an exported one.
        WeightsError: its weights cannot be found or read.

    Examples:

    >>> features = keras_resnet.Features("resnet50d:imagenet", normalize=True)
    >>> one, two = features(images)
    >>> similarity = one @ two
    """

    def __init__(
        self, model: Any, normalize: bool = False, batch_size: int = 32
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be 1 or more")
        if isinstance(model, str | os.PathLike):
            model = open_model(model)
        if not isinstance(model, keras.Model):
            raise ModelError(
                f"model={getattr(model, 'name', model)!r}: has no features; use a run "
                "directory, a .keras file or a model; an exported model gives "
                "probabilities alone"
            )
        model.info.check_classifies(model.name)
        self.info, self.normalize, self.batch_size = model.info, normalize, batch_size
        top = model.info.include_top
        vectors = model.get_layer("head").input if top else model.outputs[0]
        if len(vectors.shape) == 4:
            vectors = keras.layers.GlobalAveragePooling2D(dtype="float32")(vectors)
        self.model = keras.Model(model.inputs, vectors, name=f"{model.name}_features")
        self.size = int(self.model.output_shape[-1])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Embeds images.

        Args:
            images: RGB in [0, 255], [N, H, W, 3], of any real dtype.

        Returns:
            float32 [N, size].

        Raises:
            DataError: the images have another shape.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3:
            raise DataError(f"images: {images.shape}; must be [N, H, W, 3]")
        rows = [np.zeros((0, self.size), np.float32)]
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            # of one size, so that the net is compiled once
            inputs = padded(part, min(self.batch_size, len(images)))
            outputs = self.model.predict_on_batch(inputs)
            rows.append(np.asarray(outputs, np.float32)[: len(part)])
        vectors = np.concatenate(rows)
        return _unit(vectors) if self.normalize else vectors


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of L2 norm 1; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """The embeddings of a split, in its order.

    Attributes:
        paths: where each image is.
        labels: int64 [N].
        vectors: float32 [N, size].
    """

    paths: list[str]
    labels: np.ndarray
    vectors: np.ndarray


def embed(
    features: Features, data: SourceLike, split: str, progress: Progress = iter
) -> Embedded:
    """Embeds all images of a split by the evaluation protocol of the model.

    Args:
        features: what embeds them.
        data: what `open_source` takes; its classes need not be those of the model.
        split: "train" or "val".
        progress: wraps the iteration over the batches.

    Raises:
        DataError: the data cannot be used.
    """
    source = open_source(data)
    source.check_one_label("embed")
    batches = eval_batches(source, features.info.protocol, split, features.batch_size)
    labels, vectors = [np.zeros(0, np.int64)], [features(np.zeros((0, 1, 1, 3)))]
    with blame_pictures(source, (split,)):
        for images, targets in progress(batches):
            labels.append(targets.numpy().argmax(1))
            vectors.append(features(images.numpy()))
    examples = source.split(split)
    paths = [examples.where(number) for number in range(examples.size)]
    return Embedded(paths, np.concatenate(labels), np.concatenate(vectors))


def write_vectors(file: str | os.PathLike[str], rows: Embedded) -> None:
    """Writes embeddings as .npz or .parquet, with `path`, `label` and `vector`.

    Raises:
        ValueError: the file has another suffix.
        Error: pyarrow, which writes Parquet, is missing.
    """
    path = Path(file)
    if path.suffix == ".npz":
        with atomic_write(path) as partial, open(partial, "wb") as stream:
            np.savez(
                stream,
                path=np.array(rows.paths, str),
                label=rows.labels,
                vector=rows.vectors,
            )
        return
    if path.suffix != ".parquet":
        raise ValueError(f"file={str(file)!r}: must end in .npz or .parquet")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise Error(
            f"file={str(file)!r}: needs pyarrow; pip install keras-resnet-d[ray]"
        ) from error
    vectors = pyarrow.array(list(rows.vectors), pyarrow.list_(pyarrow.float32()))
    columns = {"path": rows.paths, "label": rows.labels, "vector": vectors}
    with atomic_write(path) as partial:
        parquet.write_table(pyarrow.table(columns), partial)


def probe(
    features: Features,
    data: SourceLike,
    neighbours: int = 20,
    progress: Progress = iter,
) -> dict[str, Any]:
    """How well the classes of a data set can be told from embeddings, without training.

    Both classifiers of scikit-learn see L2-normalized embeddings of "train" and are
    measured on "val".

    Args:
        features: what embeds the images.
        data: what `open_source` takes, with both splits.
        neighbours: of the k-nearest-neighbour classifier, by cosine similarity; fewer
            if there are fewer training images.
        progress: wraps the iteration over the batches of each split.

    Returns:
        {"knn": top-1 of the k nearest neighbours, "linear": top-1 of a logistic
        regression, both in [0, 1], "neighbours": k, "examples": how many}.

    Raises:
        Error: scikit-learn is missing.
        DataError: the data cannot be used, or has one class alone.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise Error(
            "probe: needs scikit-learn; pip install keras-resnet-d[transfer]"
        ) from error
    source = open_source(data)
    train, val = (embed(features, source, it, progress) for it in ("train", "val"))
    if len(np.unique(train.labels)) < 2:
        raise DataError(f"{source.path}: a probe needs two classes or more")

    near = KNeighborsClassifier(min(neighbours, len(train.labels)), metric="cosine")
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    scores = {}
    for name, classifier in (("knn", near), ("linear", linear)):
        classifier.fit(_unit(train.vectors), train.labels)
        scores[name] = float(classifier.score(_unit(val.vectors), val.labels))
    return {**scores, "neighbours": near.n_neighbors, "examples": len(val.labels)}
