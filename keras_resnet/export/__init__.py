"""Exports models to formats that servers and other runtimes run."""

import lazy_loader

# lazy, because `save` imports TensorFlow, which a server does not need
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
