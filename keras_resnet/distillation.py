"""The public name of `train.distillation`: knowledge distillation."""

from keras_resnet.train.distillation import distill

__all__ = ["distill"]
