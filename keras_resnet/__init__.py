"""ResNet-D for Keras 3: every variant, exact, from pictures to a served model.

`create("resnet50d")` or `ResNet50D()` builds a net, `backbone` one without classifier,
`list_models()` names them all. The layers are in `keras_resnet.layers`.
"""

import importlib

from keras_resnet import start  # noqa: F401 before anything imports TensorFlow

# isort: split
from keras_resnet import layers
from keras_resnet.config import VARIANTS, ResNetConfig, list_models
from keras_resnet.model import ModelInfo, Protocol
from keras_resnet.variants import CONSTRUCTORS, backbone, create
from keras_resnet.weights import LoadReport, WeightsError, load_weights, save_weights

__version__ = "0.1.0"

# ResNet50D, SEResNet152D, ...: one function a variant
globals().update(CONSTRUCTORS)

# these import TensorFlow, which building a net on another backend does not need
_LAZY = (
    "data",
    "distillation",
    "evaluate",
    "export",
    "optimizers",
    "recipe",
    "train",
)


def __getattr__(name):
    if name in _LAZY:
        return importlib.import_module(f"keras_resnet.{name}")
    if name == "RECIPES":
        return importlib.import_module("keras_resnet.recipes").RECIPES
    raise AttributeError(f"module 'keras_resnet' has no attribute {name!r}")


__all__ = [
    "LoadReport",
    "ModelInfo",
    "Protocol",
    "ResNetConfig",
    "VARIANTS",
    "WeightsError",
    "backbone",
    "create",
    "layers",
    "list_models",
    "load_weights",
    "save_weights",
    *CONSTRUCTORS,
]


def __dir__():
    return sorted({*globals(), *_LAZY, "RECIPES"})
