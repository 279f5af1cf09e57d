"""Training: a recipe and data give a run directory."""

import lazy_loader

# losses, optimizers and distillation work without the TensorFlow that `fit` needs
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
