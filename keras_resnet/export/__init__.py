"""A model -> what servers and other runtimes run."""

import lazy_loader

# a server needs none of the TensorFlow that `save` does
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
