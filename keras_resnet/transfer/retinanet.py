"""Detector, KerasHub's RetinaNet with the paper's loss and a description of itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras_hub
import numpy as np

from keras_resnet.backend import keras, ops
from keras_resnet.info import ModelInfo
from keras_resnet.model import ScalesLoss
from keras_resnet.optimizers import attach_loss_scale

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss (arXiv 1708.02002 section 4)
SPREAD = 0.01  # the standard deviation of the last layers' first kernels (4.1)


@keras.saving.register_keras_serializable(package="keras_resnet")
class Detector(ScalesLoss, keras_hub.models.RetinaNetObjectDetector):
    """A RetinaNet on a net of this package; made by `detector`.

    It is trained with the loss of arXiv 1708.02002, which is KerasHub's except for
    alpha and the sum over classes and coordinates, where KerasHub takes the mean. Each
    box takes its nearest anchor, however little they overlap.
    """

    computes_its_loss = True  # which `Trainable` asks for

    def __init__(self, *args: Any, info: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # or a box that no anchor overlaps by a half, such as a small one between two,
        # would train nothing; not an argument, as KerasHub's encoder does not save it
        self.label_encoder.box_matcher.force_match_for_each_col = True
        self.info = ModelInfo.from_json(info) if isinstance(info, dict) else info

    def get_config(self) -> dict[str, Any]:
        info = None if self.info is None else dataclasses.asdict(self.info)
        return {**super().get_config(), "info": info}

    def compile(
        self, optimizer: Any = "adam", auto_scale_loss: bool = True, **kwargs: Any
    ) -> None:
        """As that of keras.Model; the loss is the model's own."""
        if auto_scale_loss:
            optimizer = attach_loss_scale(optimizer, self)
        keras.Model.compile(self, optimizer, auto_scale_loss=False, **kwargs)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The focal loss of all anchors plus the smooth L1 loss of those with a box.

        Both are sums, divided by the number of anchors with a box in the batch.

        Args:
            x: images, [N, H, W, 3].
            y: {"boxes": [N, B, 4], "labels": [N, B]} as in `detector`.
            y_pred: the model's outputs.
            sample_weight: not used.
            training: not used.
        """
        deltas = ops.cast(y_pred["bbox_regression"], "float32")
        logits = ops.cast(y_pred["cls_logits"], "float32")
        # one more row that is no box, as KerasHub's forced matching counts on one
        boxes, labels = self.label_encoder(
            images=x,
            gt_boxes=ops.pad(ops.cast(y["boxes"], "float32"), [[0, 0], [0, 1], [0, 0]]),
            gt_classes=ops.pad(
                ops.cast(y["labels"], "float32"), [[0, 0], [0, 1]], constant_values=-1.0
            ),
        )
        has_box = ops.cast(labels > -1, "float32")
        is_counted = ops.cast(labels != -2, "float32")  # between the two thresholds
        truth = ops.one_hot(ops.cast(labels, "int32"), self.num_classes)
        focal = keras.losses.binary_focal_crossentropy(
            truth[..., None],
            logits[..., None],
            apply_class_balancing=True,
            alpha=ALPHA,
            gamma=GAMMA,
            from_logits=True,
        )
        # of an anchor without a box the target may be infinite
        away = ops.abs(deltas - ops.where(has_box[..., None] > 0, boxes, 0.0))
        smooth = ops.where(away < 1, ops.square(away) / 2, away - 0.5)
        total = ops.sum(focal * is_counted[..., None])
        total = total + ops.sum(smooth * has_box[..., None])
        loss = total / ops.maximum(ops.sum(has_box), 1.0)
        for penalty in self.losses:
            loss = loss + ops.cast(penalty, "float32")
        return loss

    def decode_predictions(self, predictions: Any, data: Any) -> Any:
        # half precision cannot tell neighbouring pixels of a large image apart
        wide = {name: ops.cast(it, "float32") for name, it in predictions.items()}
        images = data[0] if isinstance(data, list | tuple) else data
        if images.shape[0] is not None:
            return super().decode_predictions(wide, images)
        # KerasHub's suppression needs a known number of images
        blank = ops.zeros((1, *images.shape[1:]))  # of which only the size matters

        def decode(one: dict[str, Any]) -> dict[str, Any]:
            single = {name: it[None] for name, it in one.items()}
            found = super(Detector, self).decode_predictions(single, blank)
            return {name: it[0] for name, it in found.items()}

        return ops.map(decode, wide)


def suppression(confidence: float, overlap: float, most: int) -> Any:
    """The layer that keeps the best of overlapping boxes.

    Args:
        confidence: the least probability of a box that is kept.
        overlap: the intersection over union from which two boxes are of one object.
        most: how many boxes of an image are kept.
    """
    return keras_hub.layers.NonMaxSuppression(
        "xyxy", True, overlap, confidence, max_detections=most
    )


def start_heads(model: Any, prior: float) -> None:
    """Gives the heads first weights with which the classes start improbable.

    KerasHub gives the prior to the boxes and none to the classes, and draws kernels of
    a standard deviation of 0.05, with which the first probabilities are near 0 or 1. In
    arXiv 1708.02002 section 4.1 it is 0.01 in all layers. Here it is so in the last
    ones, and that of arXiv 1502.01852 in the others, which keep the scale of what they
    get: in a short training that is faster.

    Args:
        model: a Detector with fresh heads.
        prior: the probability of each class at the start.
    """
    heads = (
        (model.box_head, 0.0),
        (model.classification_head, float(np.log(1 / prior - 1))),
    )
    for head, value in heads:
        for layer in head._flatten_layers(include_self=False):
            if isinstance(layer, keras.layers.Conv2D):
                kernel = ops.convert_to_numpy(layer.kernel)
                is_last = layer is head.prediction_layer
                spread = SPREAD if is_last else np.sqrt(2 / kernel[..., 0].size)
                layer.kernel.assign(kernel * (spread / kernel.std()))
        bias = head.prediction_layer.bias
        bias.assign(np.full(bias.shape, -value))
