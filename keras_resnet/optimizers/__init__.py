"""Optimizers and learning rate schedules from published recipes that Keras lacks."""

from keras_resnet.optimizers.lamb import AdamW, Lamb
from keras_resnet.optimizers.loss_scale import LossScale, attach_loss_scale
from keras_resnet.optimizers.schedules import WarmupCosine, WarmupSteps
from keras_resnet.optimizers.sgd import CoupledSGD

__all__ = [
    "AdamW",
    "CoupledSGD",
    "Lamb",
    "LossScale",
    "WarmupCosine",
    "WarmupSteps",
    "attach_loss_scale",
]
