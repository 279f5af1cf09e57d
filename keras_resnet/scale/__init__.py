"""Prediction and training on many machines, with engines that others keep."""

import lazy_loader

# Ray is needed by `ray_train` alone
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
