"""A model and data -> its measures, each picture once; and predictions."""

from keras_resnet.evaluate.evaluation import (
    class_names,
    load_picture,
    picture_grid,
    predict,
    predict_each,
    run,
)

__all__ = [
    "class_names",
    "load_picture",
    "picture_grid",
    "predict",
    "predict_each",
    "run",
]
