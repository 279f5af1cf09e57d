"""ResNet-D for Keras 3: every variant, exact, from pictures to a served model.

`create("resnet50d")` or `ResNet50D()` builds a net, `backbone` one without classifier,
`list_models()` names them all. The layers are in `keras_resnet.layers`.

The names are in `__init__.pyi`, and each is imported when it is used first (PEP 562):
Keras and TensorFlow take seconds to import, and many commands need neither.
"""

import importlib
import sys

import lazy_loader
from wrapt import when_imported

from keras_resnet.config import VARIANTS, constructor_name

__version__ = "0.2.0"

_import, _, _names = lazy_loader.attach_stub(__name__, __file__)
# ResNet50D, SEResNet152D, ...: one function for each variant
_constructors = {constructor_name(variant) for variant in VARIANTS}

__all__ = sorted({*_names, *_constructors})


def __getattr__(name):
    if name in _constructors:
        value = getattr(importlib.import_module("keras_resnet.variants"), name)
    else:
        value = _import(name)
    if "keras" in sys.modules:
        _register(None)
    return value


def __dir__():
    return __all__


@when_imported("keras")
def _register(keras):
    """Makes our layers known to Keras, so that its `load_model` opens our files."""
    # while `backend` imports Keras, nothing of ours can be imported
    if keras is None or "keras_resnet.backend" not in sys.modules:
        importlib.import_module("keras_resnet.model")
