"""Training: recipe and data -> a run directory."""

from keras_resnet.runs.process import Interrupted
from keras_resnet.train.build import precision_policy
from keras_resnet.train.training import fit, is_finished

__all__ = ["Interrupted", "fit", "is_finished", "precision_policy"]
