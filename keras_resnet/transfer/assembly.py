"""Builds the detector or segmenter that a ModelInfo describes."""

from __future__ import annotations

from typing import Any

from keras_resnet.info import ModelInfo
from keras_resnet.model import ResNet, assemble
from keras_resnet.transfer.detection import detector
from keras_resnet.transfer.segmentation import segmenter


def assemble_transfer(info: ModelInfo, net: ResNet | None = None) -> Any:
    """The model of the task in `info`, with fresh heads.

    Args:
        info: of the model; its `config` and `dtype_policy` are the net's.
        net: the net below the heads; None: a fresh one.

    Raises:
        ModelError: the net does not fit the task.
        Error: KerasHub is not installed.
    """
    net = assemble(net_info(info)) if net is None else net
    if info.task == "detect":
        size = info.protocol.size
        model = detector(net, info.classes, size, frozen=(), freeze_statistics=False)
    else:
        model = segmenter(net, info.classes, info.config.output_stride)
    model.info = info
    return model


def net_info(info: ModelInfo) -> ModelInfo:
    """The description of the net below the heads of a model."""
    return ModelInfo(
        variant=info.variant,
        config=info.config,
        include_top=False,
        classifier_activation=None,
        dtype_policy=info.dtype_policy,
    )
