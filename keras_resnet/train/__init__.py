"""Training: recipe and data -> a run directory."""

import lazy_loader

# a loss, an optimizer or a distillation needs none of the TensorFlow that `fit` does
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
