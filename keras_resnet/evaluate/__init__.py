"""Evaluation of a model on a data set, and predictions for single images."""

from keras_resnet.evaluate.calibration import (
    calibrate,
    find_temperature,
    write_calibrated,
)
from keras_resnet.evaluate.evaluation import run
from keras_resnet.evaluate.features import (
    Embedded,
    Features,
    embed,
    probe,
    write_vectors,
)
from keras_resnet.evaluate.figures import picture_grid
from keras_resnet.evaluate.finding import (
    answer_grid,
    as_rows,
    confident,
    find_each,
    write_marked,
)
from keras_resnet.evaluate.prediction import (
    class_names,
    load_picture,
    predict,
    predict_each,
)
from keras_resnet.evaluate.soups import estimate_statistics, soup

__all__ = [
    "Embedded",
    "Features",
    "answer_grid",
    "as_rows",
    "calibrate",
    "class_names",
    "confident",
    "embed",
    "estimate_statistics",
    "find_each",
    "find_temperature",
    "load_picture",
    "picture_grid",
    "predict",
    "predict_each",
    "probe",
    "run",
    "soup",
    "write_calibrated",
    "write_marked",
    "write_vectors",
]
