"""Pictures: from files to batches, and the one evaluation crop that serving uses too.

Everywhere outside the model a picture is RGB in [0, 255], and a label is one-hot from
the batch on.
"""

from keras_resnet.data.bad import blame_pictures, find_bad, first_sentence, without_bad
from keras_resnet.data.crop import eval_crop, load_eval, resize_short, ten_crop
from keras_resnet.data.decode import decode_image
from keras_resnet.data.devices import leave_gpus
from keras_resnet.data.mix import cutmix, mixup
from keras_resnet.data.pipeline import eval_batches, steps_per_epoch, train_batches
from keras_resnet.data.prepare import prepare
from keras_resnet.data.preview import preview
from keras_resnet.data.source import Source, open_source
from keras_resnet.data.split import DataError, Split
from keras_resnet.data.validate import validate

__all__ = [
    "DataError",
    "Source",
    "Split",
    "blame_pictures",
    "cutmix",
    "decode_image",
    "eval_batches",
    "eval_crop",
    "find_bad",
    "first_sentence",
    "load_eval",
    "mixup",
    "open_source",
    "prepare",
    "preview",
    "resize_short",
    "steps_per_epoch",
    "ten_crop",
    "train_batches",
    "validate",
    "without_bad",
]

leave_gpus()  # before TensorFlow's first operation
