"""RetinaNet on any net of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_resnet.transfer.encoder import Encoder, freeze, keras_hub

MOST = 100  # boxes of an image, as many as COCO's evaluation counts
PRIOR = 0.01  # the probability of a box at the start (arXiv 1708.02002 section 4.1)


def detector(
    backbone: Any,
    classes: int,
    image_size: int | tuple[int, int] = 512,
    *,
    frozen: Sequence[str] = ("stem", "stage1"),
    freeze_statistics: bool = True,
    confidence: float = 0.05,
    overlap: float = 0.5,
    most: int = MOST,
    dtype: Any = None,
    **options: Any,
) -> Any:
    """KerasHub's RetinaNet (arXiv 1708.02002) on a net of this package.

    A feature pyramid makes maps of strides 8 to 128 of the net's last three stages; two
    heads give each of nine anchors a place and a probability of every class. It is
    trained on RGB in [0, 255] and {"boxes": [N, B, 4], "labels": [N, B]}, where boxes
    are (left, top, right, bottom) in pixels and labels of -1 fill up; `predict` returns
    {"boxes", "labels", "confidence"} of such boxes after non-maximum suppression. The
    loss is the model's own, that of the paper; compile it with an optimizer alone.

    Args:
        backbone: such as `keras_resnet.backbone("resnet50d", weights="imagenet")`, of
            stride 32. It becomes a part of the detector, and is changed by the next two
            arguments.
        classes: how many, without a background.
        image_size: the side of the images in pixels, or (height, width).
        frozen: the parts of the backbone that are not trained: "stem", "stage1", ...
        freeze_statistics: whether batch normalization uses its moving statistics in
            training, as a few large images give poor ones.
        confidence: the least probability of a box that is kept (section 4.1).
        overlap: the intersection over union from which two boxes are of one object.
        most: how many boxes of an image are kept.
        dtype: the dtype policy of the pyramid and the heads; None: the backbone's.
        **options: of `keras_hub.models.RetinaNetObjectDetector`.

    Returns:
        A Detector, which is a `keras_hub.models.RetinaNetObjectDetector`.

    Raises:
        ValueError: `classes` is below 1.
        ModelError: the backbone is none of this package, its stride is not 32, or it
            has no part that is in `frozen`.
        Error: KerasHub is not installed.

    Examples:

    >>> net = keras_resnet.backbone("resnet50d", weights="imagenet")
    >>> model = keras_resnet.transfer.detector(net, classes=20)
    >>> model.compile(keras_resnet.optimizers.CoupledSGD(0.01, clipnorm=10.0))
    >>> model.fit(batches)
    >>> model.predict(images)["boxes"]
    """
    hub = keras_hub()
    from keras_resnet.transfer.retinanet import Detector, start_heads, suppression

    if classes < 1:
        raise ValueError(f"classes={classes}: must be 1 or more")
    height, width = (
        (image_size, image_size) if isinstance(image_size, int) else image_size
    )
    encoder = Encoder(backbone, ("P3", "P4", "P5"), name=f"{backbone.name}_maps")
    freeze(backbone, frozen, freeze_statistics)
    dtype = dtype or backbone.info.dtype_policy
    pyramid = hub.models.RetinaNetBackbone(
        encoder,
        min_level=3,
        max_level=7,
        use_p5=False,
        image_shape=(height, width, 3),
        dtype=dtype,
    )
    options.setdefault("prediction_decoder", suppression(confidence, overlap, most))
    model = Detector(
        pyramid, classes, bounding_box_format="xyxy", dtype=dtype, **options
    )
    start_heads(model, PRIOR)
    return model
