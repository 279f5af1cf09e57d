"""Heads of KerasHub on our nets learn, are saved, and start as they should."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from annotated import SIDE, scenes

import keras_resnet
from keras_resnet import transfer
from keras_resnet.errors import DataError, Error, ModelError
from keras_resnet.optimizers import AdamW, WarmupCosine
from keras_resnet.transfer.segmentation import STRIDES

pytest.importorskip("keras_hub")
# KerasHub's own: its compile is custom, and its optimizer is made when it loads
pytestmark = [
    pytest.mark.filterwarnings("ignore:.compile... was not called:UserWarning"),
    pytest.mark.filterwarnings("ignore:Skipping variable loading:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*shuffle=True:UserWarning"),
]


def backbone(**options):
    keras.utils.set_random_seed(0)
    return keras_resnet.backbone("resnet18d", weights=None, width=16, **options)


def per_image(boxes):
    names = [name for name in ("boxes", "labels", "confidence") if name in boxes]
    return [
        {name: boxes[name][number] for name in names}
        for number in range(len(boxes["boxes"]))
    ]


@pytest.fixture(scope="module")
def detector():
    return transfer.detector(backbone(), 3, SIDE)


def test_classes_start_improbable_and_boxes_at_their_anchors(detector):
    classes = np.array(detector.classification_head.prediction_layer.bias.numpy())
    np.testing.assert_allclose(classes, -math.log(99), rtol=1e-6)
    assert not detector.box_head.prediction_layer.bias.numpy().any()
    images, _, _ = scenes(2)
    net = transfer.detector(backbone(), 3, SIDE)
    outputs = net(images, training=True)  # by the batch's statistics, as untrained
    probabilities = 1 / (1 + np.exp(-np.array(outputs["cls_logits"])))
    assert 0.005 < probabilities.mean() < 0.05
    assert np.std(outputs["bbox_regression"]) < 2


@pytest.mark.slow
def test_detection_freezes_what_it_says(detector):
    net = detector.backbone.image_encoder.net
    paths = {weight.path for weight in net.trainable_weights}
    assert not any(path.startswith(("stem", "stage1_")) for path in paths)
    assert any(path.startswith("stage2_") for path in paths)
    images, boxes, _ = scenes(2)
    before = [w.numpy() for w in net.non_trainable_weights]
    detector.compile(AdamW(1e-4))
    history = detector.fit(images, boxes, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"]).all()
    for old, new in zip(before, net.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


@pytest.mark.slow
def test_images_without_boxes_train_too(detector):
    images, boxes, _ = scenes(2)
    nothing = {"boxes": 0 * boxes["boxes"], "labels": np.full((2, 2), -1)}
    detector.compile(AdamW(1e-4))
    before = [weight.numpy() for weight in detector.trainable_weights]
    loss = detector.fit(images, nothing, verbose=0, shuffle=False).history["loss"]
    assert np.isfinite(loss).all()
    assert loss[0] > 0
    after = [weight.numpy() for weight in detector.trainable_weights]
    assert all(np.isfinite(weight).all() for weight in after)
    assert any(np.any(one != two) for one, two in zip(before, after))


@pytest.mark.slow
def test_detector_is_saved_whole(detector, tmp_path):
    images, _, _ = scenes(2)
    detector.save(tmp_path / "detector.keras")
    again = keras.models.load_model(tmp_path / "detector.keras")
    one, two = (model.predict(images, verbose=0) for model in (detector, again))
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])
    assert one["boxes"].shape == (2, 100, 4)


@pytest.mark.parametrize(
    "stride",
    [pytest.param(it, marks=pytest.mark.slow if it < 32 else ()) for it in STRIDES],
)
def test_logits_have_the_size_of_the_images(stride, tmp_path):
    net = backbone()
    model = transfer.segmenter(net, 4, stride)
    assert model.output_shape == (None, None, None, 4)
    drawn = np.random.default_rng(0)
    for sides in ((64, 64), (97, 131), (33, 65)):
        images = drawn.integers(0, 256, (2, *sides, 3)).astype("float32")
        logits = model(images).numpy()
        assert logits.shape == (2, *sides, 4)
        assert logits.dtype == np.float32
    model.save(tmp_path / "segmenter.keras")
    again = keras.models.load_model(tmp_path / "segmenter.keras")
    np.testing.assert_array_equal(logits, again(images).numpy())


def test_layers_are_named_alike_whatever_was_built_before():
    # TensorFlow orders a graph, and so its sums, by names
    names = [
        [layer.name for layer in transfer.segmenter(backbone(), 4)._flatten_layers()]
        for _ in range(2)
    ]
    assert names[0] == names[1]


def test_segmenter_ignores_a_class(tmp_path):
    model = transfer.segmenter(backbone(), 3, 16)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=255
    )
    model.compile(AdamW(1e-3), loss)
    images = np.random.default_rng(0).uniform(0, 255, (2, 40, 40, 3))
    masks = np.full((2, 40, 40), 255)
    assert model.evaluate(images, masks, verbose=0) == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda net: transfer.detector(net, 0), "classes=0: must be 1 or more"),
        (lambda net: transfer.segmenter(net, 1), "classes=1: must be 2 or more"),
        (lambda net: transfer.segmenter(net, 3, 4), "output_stride=4: must be one of"),
        (
            lambda net: transfer.detector(net, 3, frozen=["stage9"]),
            "frozen='stage9': resnet18d has no such part, only .*stage1",
        ),
        (
            lambda net: transfer.segmenter(keras.Sequential(name="own"), 3),
            "backbone='own': must be a net of this package",
        ),
        (
            lambda net: transfer.detector(backbone(output_stride=16), 3),
            "backbone='resnet18d': has no map P5",
        ),
    ],
)
def test_arguments_are_checked(make, says):
    with pytest.raises((ValueError, ModelError), match=says):
        make(backbone())


def test_missing_keras_hub_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(Error, match=r"pip install keras-resnet-d\[transfer\]"):
        transfer.segmenter(backbone(), 3)


def random_boxes(drawn, count):
    corners = drawn.uniform(0, 90, (count, 2))
    boxes = np.concatenate([corners, corners + drawn.uniform(4, 60, (count, 2))], 1)
    return {"boxes": boxes, "labels": drawn.integers(0, 3, count)}


def test_average_precision_is_that_of_loaded_results(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    drawn = np.random.default_rng(0)
    truth = [random_boxes(drawn, n) for n in (3, 0, 5, 1, 0, 8)]
    found = []
    for image in truth:
        near = image["boxes"] + drawn.normal(0, 4, image["boxes"].shape)
        more = random_boxes(drawn, 3)
        found.append(
            {
                "boxes": np.concatenate([near, more["boxes"]]),
                "labels": np.concatenate([image["labels"], more["labels"]]),
                "confidence": drawn.uniform(0, 1, len(near) + 3),
            }
        )
    found[4] = {"boxes": np.zeros((0, 4)), "labels": [], "confidence": []}
    result = transfer.average_precision(truth, found, ["a", "b", "c"])

    def rows(images, scored):
        return [
            {
                "image_id": number,
                "category_id": int(label),
                "bbox": [*box[:2], *(box[2:] - box[:2])],
            }
            | ({"score": image["confidence"][place]} if scored else {})
            for number, image in enumerate(images)
            for place, (box, label) in enumerate(zip(image["boxes"], image["labels"]))
        ]

    annotations = [
        {**row, "id": place, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
        for place, row in enumerate(rows(truth, False), start=1)
    ]
    reference = {
        "info": {},
        "images": [{"id": number} for number in range(6)],
        "categories": [{"id": number} for number in range(3)],
        "annotations": annotations,
    }
    (tmp_path / "truth.json").write_text(json.dumps(reference))
    (tmp_path / "found.json").write_text(json.dumps(rows(found, True)))
    loaded = coco.COCO(str(tmp_path / "truth.json"))
    answers = loaded.loadRes(str(tmp_path / "found.json"))
    evaluation = COCOeval(loaded, answers, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
    for name, value in zip(names, evaluation.stats):
        assert result[name] == (None if value < 0 else value)
    assert 0.1 < result["map"] < 0.9
    assert np.mean([*result["per_class"].values()]) == pytest.approx(result["map"])


def test_average_precision_checks_its_images():
    nothing = {"boxes": [], "labels": []}
    one = {"boxes": [[0, 0, 9, 9]], "labels": [3]}
    with pytest.raises(DataError, match="found: has 2 images, but truth has 1"):
        transfer.average_precision([nothing], [nothing] * 2, ["a"])
    with pytest.raises(
        DataError, match="truth: image 0 has the label 3; must be 0 to 0"
    ):
        transfer.average_precision([one], [nothing], ["a"])
    assert transfer.average_precision([nothing], [nothing], ["a"])["map"] is None


@pytest.mark.slow
def test_detector_learns_the_boxes_of_eight_images_by_heart():
    images, boxes, _ = scenes(8)
    # no two of these boxes overlap
    options = {"frozen": (), "freeze_statistics": False, "overlap": 0.2}
    model = transfer.detector(backbone(), 3, SIDE, **options)
    model.compile(AdamW(WarmupCosine(1e-3, 20, 500), global_clipnorm=10.0))
    model.fit(images, boxes, batch_size=8, epochs=500, verbose=0, shuffle=False)
    found = per_image(model.predict(images, verbose=0))
    result = transfer.average_precision(per_image(boxes), found, ["r", "g", "b"])
    assert result["map"] == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("stride", STRIDES)
def test_segmenter_learns_four_images_by_heart(stride):
    images, _, masks = scenes(4)
    model = transfer.segmenter(backbone(), 4, stride)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(AdamW(2e-3), loss)
    model.fit(images, masks, epochs=250, batch_size=4, verbose=0, shuffle=False)
    overlap = keras.metrics.MeanIoU(4, sparse_y_pred=False)
    overlap.update_state(masks, model.predict(images, verbose=0))
    assert overlap.result() > 0.98


PROGRAM = """
import json, sys
import keras, numpy as np
sys.path.insert(0, {folder!r})
from annotated import SIDE, scenes
from test_transfer import backbone
from keras_resnet import transfer
from keras_resnet.optimizers import CoupledSGD
images, boxes, masks = scenes(2)
net = backbone()
net.load_weights({weights!r})
model = transfer.detector(net, 3, SIDE)
draw = np.random.default_rng(0)  # the backends draw differently
model.set_weights([
    weight if weight.ndim == 1 or place < {count}
    else draw.normal(0, 0.01, weight.shape)
    for place, weight in enumerate(model.get_weights())
])
model.compile(CoupledSGD(1e-4, momentum=0.9))
history = model.fit(images, boxes, epochs=5, verbose=0, shuffle=False).history
print(json.dumps(history["loss"]))
"""


@pytest.mark.slow
def test_both_backends_take_the_same_steps(tmp_path):
    net = backbone()
    net.save_weights(tmp_path / "net.weights.h5")
    program = PROGRAM.format(
        folder=str(Path(__file__).parent),
        weights=str(tmp_path / "net.weights.h5"),
        count=len(net.weights),
    )
    losses = []
    for name in ("tensorflow", "jax"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env={**os.environ, "KERAS_BACKEND": name, "JAX_PLATFORMS": "cpu"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        losses.append(json.loads(done.stdout.splitlines()[-1]))
    np.testing.assert_allclose(losses[0], losses[1], rtol=5e-4)
