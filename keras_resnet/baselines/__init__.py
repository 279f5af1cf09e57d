"""The nets that ResNet is compared with, as far as Keras lacks them.

AlexNet and GoogLeNet. VGG, DenseNet, Inception-V3 and MobileNet are in
`keras.applications`. Checkpoints of torchvision load into all of them by
`keras_resnet.load_weights(model, file, dialect="torchvision")`.
"""

from keras_resnet.baselines.alexnet import AlexNet
from keras_resnet.baselines.googlenet import GoogLeNet, InceptionBlock

__all__ = ["AlexNet", "GoogLeNet", "InceptionBlock"]
