"""Pictures: from files to batches, and the one evaluation crop that serving uses too.

Everywhere outside the model a picture is RGB in [0, 255], and a label is one-hot from
the batch on.
"""

from keras_resnet.data.crop import eval_crop, load_eval
from keras_resnet.data.decode import decode_image
from keras_resnet.data.pipeline import (
    blame_pictures,
    eval_batches,
    first_sentence,
    steps_per_epoch,
    train_batches,
)
from keras_resnet.data.prepare import prepare, write_records
from keras_resnet.data.source import DataError, Source, Split, open_source

__all__ = [
    "DataError",
    "Source",
    "Split",
    "blame_pictures",
    "decode_image",
    "eval_batches",
    "eval_crop",
    "first_sentence",
    "load_eval",
    "open_source",
    "prepare",
    "steps_per_epoch",
    "train_batches",
    "write_records",
]
