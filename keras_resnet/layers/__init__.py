"""The pieces of a ResNet-D as Keras layers, for use in anybody's model.

Every layer takes and gives NHWC tensors, has an explicit `build` (weights load before a
first call), is registered under "keras_resnet" and computes under any dtype policy.
"""

from keras_resnet.layers.attention import EfficientChannelAttention, SqueezeExcite
from keras_resnet.layers.blocks import BasicBlock, BottleneckBlock
from keras_resnet.layers.convolution import ConvNorm
from keras_resnet.layers.normalization import BatchNormalization
from keras_resnet.layers.pooling import BlurPool
from keras_resnet.layers.shortcuts import (
    AvgPoolShortcut,
    ProjectionShortcut,
    ZeroPadShortcut,
)
from keras_resnet.layers.stems import ConvStem, DeepStem

__all__ = [
    "AvgPoolShortcut",
    "BasicBlock",
    "BatchNormalization",
    "BlurPool",
    "BottleneckBlock",
    "ConvNorm",
    "ConvStem",
    "DeepStem",
    "EfficientChannelAttention",
    "ProjectionShortcut",
    "SqueezeExcite",
    "ZeroPadShortcut",
]
