"""A picklable predictor for the engines that map a function over batches."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_resnet.errors import DataError
from keras_resnet.evaluate import Features, class_names
from keras_resnet.evaluate.prediction import likeliest, outputs
from keras_resnet.evaluate.views import padded, predict_probabilities
from keras_resnet.export import open_any

BATCH = 32  # pictures


class Predictor:
    """Classifies batches of image files; for Ray Data, Spark, Beam and the like.

    It is small when pickled, and each process opens the model once.

    Args:
        model: what `keras-resnet predict` takes: a run directory, a .keras file,
            "variant:weights", or what `export` wrote; or an open model.
        top: how many classes to return; fewer if the model has fewer.
        features: return the input of the classifier instead of classes.
        batch_size: images that the model computes at once.

    Raises:
        ValueError: `top` or `batch_size` is below 1.
        ModelError, WeightsError: at the first call: the model cannot be opened, or has
            no features.

    Examples:

    >>> predict = keras_resnet.Predictor("runs/photos", top=1)
    >>> predict({"bytes": [open("cat.jpg", "rb").read()]})["top_classes"]
    array([['cat']], dtype=object)
    """

    def __init__(
        self,
        model: Any,
        top: int = 5,
        features: bool = False,
        batch_size: int = BATCH,
    ) -> None:
        if top < 1 or batch_size < 1:
            raise ValueError(f"top={top}, batch_size={batch_size}: must be 1 or more")
        is_name = isinstance(model, str | os.PathLike)
        self.model = os.fspath(model) if is_name else model
        self.top, self.features, self.batch_size = top, features, batch_size

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        """Classifies a batch.

        Args:
            batch: {"bytes": image files}, or {"path": their paths}. Other columns are
                returned as they are, and so is "path".

        Returns:
            {"ok": bool [N], "problem": the reason or "" [N], "top_classes": names
            [N, top], "top_probabilities": float32 [N, top]}, the likeliest class first;
            for a bad picture "" and 0. With `features`, {"ok", "problem", "features":
            float32 [N, D]}, of a bad picture 0.

        Raises:
            DataError: the batch has neither "bytes" nor "path".
        """
        if not {"bytes", "path"} & batch.keys():
            raise DataError(
                f"batch: has the columns {', '.join(map(str, batch))}; must have "
                '"bytes" or "path"'
            )
        column = "bytes" if "bytes" in batch else "path"
        pictures = [bytes(it) if column == "bytes" else str(it) for it in batch[column]]
        model = self._open()
        compute = _embed if self.features else predict_probabilities
        rows: list[np.ndarray | str] = []
        for start in range(0, len(pictures), self.batch_size):
            part = pictures[start : start + self.batch_size]
            rows += outputs(model, part, self.batch_size, compute)
        others = {name: batch[name] for name in batch if name != "bytes"}
        problems = [row if isinstance(row, str) else "" for row in rows]
        return {
            **{name: np.asarray(values) for name, values in others.items()},
            "ok": np.array([not problem for problem in problems], bool),
            "problem": np.array(problems, object),
            **(self._vectors if self.features else self._classes)(model, rows),
        }

    def _open(self) -> Any:
        return _opened(self.model) if isinstance(self.model, str) else self.model

    def _classes(self, model: Any, rows: list[Any]) -> dict[str, np.ndarray]:
        names = class_names(model)
        shape = len(rows), min(self.top, len(names))
        classes = np.full(shape, "", object)
        probabilities = np.zeros(shape, np.float32)
        for place, row in enumerate(rows):
            if not isinstance(row, str):
                order = likeliest(row, self.top)
                classes[place] = [names[i] for i in order]
                probabilities[place] = row[order]
        return {"top_classes": classes, "top_probabilities": probabilities}

    def _vectors(self, model: Any, rows: list[Any]) -> dict[str, np.ndarray]:
        size = _features(model).size
        blank = np.zeros(size, np.float32)
        vectors = [blank if isinstance(row, str) else row for row in rows]
        return {"features": np.array(vectors, np.float32).reshape(-1, size)}


_opened = functools.lru_cache(maxsize=1)(open_any)
_features = functools.lru_cache(maxsize=1)(Features)


def _embed(model: Any, images: np.ndarray, batch_size: int) -> np.ndarray:
    # in batches of one size, as predict_probabilities does
    return _features(model)(padded(images, batch_size))[: len(images)]
