"""Detection and segmentation on the nets of this package, with KerasHub's heads."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
