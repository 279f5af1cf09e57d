"""Knowledge distillation; see `keras_resnet.train.distillation`."""

from keras_resnet.train.distillation import distill

__all__ = ["distill"]
