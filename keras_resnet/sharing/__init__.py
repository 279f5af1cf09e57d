"""Sharing trained nets on the Hugging Face hub, and the cards of models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
