"""Training of a recipe on data, into a run directory."""

import lazy_loader

# losses, optimizers and distillation do not need TensorFlow, which `fit` imports
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
