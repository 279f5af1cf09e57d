"""Knowledge distillation, under the name that users know: see `train.distillation`."""

from keras_resnet.train.distillation import distill

__all__ = ["distill"]
