"""The served graph answers as evaluation does, and no row harms another."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import hostile_pictures as hostile
import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2

import keras_resnet
from keras_resnet import data, demo, export
from keras_resnet.data.transforms.decode import sniff
from keras_resnet.errors import SavedModelError
from keras_resnet.export import npz, signatures
from keras_resnet.export.folding import fold_batch_norm
from keras_resnet.export.savedmodel import SavedModel
from keras_resnet.info import Protocol
from keras_resnet.opening import open_model

PICTURES = Path(__file__).parent / "goldens" / "pictures"
DIGITS = Path(__file__).parents[1] / "models" / "resnet18d-digits"
SERVED = ("jpeg", "png")
ODD = hostile.odd_jpegs() | hostile.odd_pngs()
BAD = hostile.foreign() | {
    path.name: path.read_bytes() for path in sorted((PICTURES / "bad").iterdir())
}


@pytest.fixture(scope="module")
def net():
    """An untrained net of three classes that looks at 64 pixels."""
    tiny = {"width": 8, "depths": (1, 1, 1, 1), "zero_gamma": False}
    model = keras_resnet.create("resnet18d", classes=3, **tiny)
    for variable in model.weights:
        if variable.path.endswith("moving_mean"):  # biases of zeros are left out
            variable.assign(np.linspace(-0.1, 0.1, variable.shape[0]))
    facts = {"class_names": ("blue", "grün", "red")}
    facts["protocol"] = Protocol(64, 0.875, "bicubic")
    model.info = dataclasses.replace(model.info, **facts)
    return model


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    return export.save(net, tmp_path_factory.mktemp("served") / "colours")


@pytest.fixture(scope="module")
def served(folder):
    with SavedModel(folder) as model:
        yield model


def ask(served, files):
    return served.run("serving_bytes", image_bytes=np.array(list(files), object))


def predicted(net, files):
    images = [data.load_eval(file, net.info.protocol).numpy() for file in files]
    return net.predict_on_batch(np.stack(images))


@pytest.mark.addons
def test_signatures_are_the_published_ones(served):
    assert served.signatures["serving_default"] == {
        "inputs": {"images": ("float32", (None, 64, 64, 3))},
        "outputs": {"probabilities": ("float32", (None, 3))},
    }
    assert served.signatures["serving_bytes"] == {
        "inputs": {"image_bytes": ("string", (None,))},
        "outputs": {
            "ok": ("bool", (None,)),
            "probabilities": ("float32", (None, 3)),
            "top_classes": ("string", (None, 3)),
            "top_probabilities": ("float32", (None, 3)),
        },
    }


@pytest.mark.addons
@pytest.mark.parametrize("count", [1, 3, 64])
def test_pixels_answer_as_predict_does(count, served, net):
    images = np.random.default_rng(count).uniform(0, 255, (count, 64, 64, 3))
    images = images.astype(np.float32)
    ours = served.run("serving_default", images=images)["probabilities"]
    np.testing.assert_allclose(ours, net.predict(images, verbose=0), atol=1e-5)


@pytest.mark.addons
def test_bytes_of_mixed_sizes_answer_as_prediction_does(served, net):
    files = [*ODD.values(), hostile.turned(6), hostile.turned(3)]
    answers = ask(served, files)
    expected = predicted(net, files)
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
    assert answers["ok"].all()
    order = np.argsort(-answers["probabilities"], axis=1, kind="stable")
    names = np.array([b"blue", "grün".encode(), b"red"], object)
    np.testing.assert_array_equal(answers["top_classes"], names[order])
    np.testing.assert_array_equal(
        answers["top_probabilities"],
        np.take_along_axis(answers["probabilities"], order, 1),
    )


def test_odd_pictures_of_files_are_answered_or_refused_by_their_format(served, net):
    files = {p.name: p.read_bytes() for p in sorted((PICTURES / "ok").iterdir())}
    answers = ask(served, files.values())
    kinds = [sniff(file[:12]) for file in files.values()]
    assert {*kinds} == {"jpeg", "png", "gif", "bmp", "webp"}
    served_ones = np.isin(kinds, SERVED)
    np.testing.assert_array_equal(answers["ok"], served_ones)
    expected = predicted(net, files.values())[served_ones]
    ours = answers["probabilities"][served_ones]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.addons
def test_bad_row_is_zeros_and_harms_no_other(served, net):
    good = [ODD["rgb"], hostile.encoded(hostile.scene(90, 61))]
    bad = [b"", b"\xff\xd8\xff", *BAD.values(), hostile.bomb_png(20_000)]
    bad += [hostile.lying_jpeg(13_000), hostile.lying_jpeg(65_000)]
    answers = ask(served, [good[0], *bad, good[1]])
    assert answers["ok"].tolist() == [True, *[False] * len(bad), True]
    # of as many rows: kernels may round a batch of another size otherwise
    among_good = ask(served, [good[0], *good[:1] * len(bad), good[1]])
    alone = ask(served, good)
    for key, value in answers.items():
        np.testing.assert_array_equal(value[[0, -1]], among_good[key][[0, -1]], key)
        if value.dtype == np.float32:
            np.testing.assert_allclose(value[[0, -1]], alone[key], atol=1e-6)
        else:
            np.testing.assert_array_equal(value[[0, -1]], alone[key], key)
    refused = slice(1, -1)
    assert not answers["probabilities"][refused].any()
    assert not answers["top_probabilities"][refused].any()
    assert {*answers["top_classes"][refused].ravel()} == {b""}


def test_jpeg_is_refused_wherever_it_is_cut(served):
    whole = hostile.encoded(hostile.scene())
    cut = hostile.cuts(whole)
    answers = ask(served, [*cut.values(), whole])
    assert answers["ok"].tolist() == [False] * len(cut) + [True]


@pytest.mark.parametrize("count", [0, 5])
def test_batch_without_a_good_row_is_answered(count, served):
    answers = ask(served, [b"no picture"] * count)
    assert {key: value.shape for key, value in answers.items()} == {
        "ok": (count,),
        "probabilities": (count, 3),
        "top_classes": (count, 3),
        "top_probabilities": (count, 3),
    }
    assert not answers["ok"].any()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"images": np.zeros((1, 64, 64, 4), np.float32)}, "64,64,4"),
        ({"images": np.zeros((1, 32, 32, 3), np.float32)}, "32,32,3"),
        ({"images": np.zeros((64, 64, 3), np.float32)}, "64,64,3"),
        ({"images": np.zeros((1, 64, 64, 3))}, "float64"),
    ],
)
def test_wrong_shape_or_dtype_is_refused_and_the_next_is_answered(
    inputs, words, served
):
    with pytest.raises(SavedModelError) as refused:
        served.run("serving_default", **inputs)
    assert words in str(refused.value).replace(" ", "")
    answer = ask(served, [ODD["rgb"]])["probabilities"]
    np.testing.assert_allclose(answer.sum(), 1, rtol=1e-5)


def test_row_that_is_not_finite_harms_no_other(served):
    images = np.full((3, 64, 64, 3), 90, np.float32)
    images[1, 5, 5, 0] = np.nan
    answers = served.run("serving_default", images=images)["probabilities"]
    assert np.isfinite(answers[[0, 2]]).all()
    # equal rows of a batch may be rounded otherwise, by where threads divide it
    np.testing.assert_allclose(answers[0], answers[2], atol=1e-6)


def test_hundred_mebibytes_are_one_bad_row(served):
    answers = ask(served, [b"\xff\xd8\xff" + bytes(100 * 2**20), ODD["rgb"]])
    assert answers["ok"].tolist() == [False, True]


# what two SavedModels answer with oneDNN or without, and the first one's graph
ANSWERS = """
import json, sys
import numpy as np
import tensorflow as tf
from keras_resnet.export.savedmodel import SavedModel

graph, metadata = tf.Graph(), tf.compat.v1.RunMetadata()
with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
    meta = tf.compat.v1.saved_model.load(session, ["serve"], sys.argv[1])
    signature = meta.signature_def["serving_default"]
    session.run(
        signature.outputs["probabilities"].name,
        {signature.inputs["images"].name: np.zeros((1, 64, 64, 3), np.float32)},
        options=tf.compat.v1.RunOptions(output_partition_graphs=True),
        run_metadata=metadata,
    )
nodes = [node for part in metadata.partition_graphs for node in part.node]
fused = [[op.decode() for op in node.attr["fused_ops"].list.s] for node in nodes]
with SavedModel(sys.argv[1]) as model:
    none = np.zeros((0, 64, 64, 3), np.float32)
    empty = [
        model.run("serving_default", images=none),
        model.run("serving_bytes", image_bytes=np.array([], object)),
    ]
with SavedModel(sys.argv[2]) as model:
    grouped = model.run("serving_default", images=np.load(sys.argv[3]))
print(json.dumps({
    "nodes": [[node.op, ops] for node, ops in zip(nodes, fused)],
    "empty": [answer["probabilities"].shape for answer in empty],
    "grouped": grouped["probabilities"].tolist(),
}))
"""


@pytest.fixture(scope="module")
def grouped():
    """A net of grouped convolutions."""
    options = {"width": 32, "depths": (1,), "zero_gamma": False}
    model = keras_resnet.create("resnext50d_32x4d", classes=3, **options)
    model.info = model.info.replace(protocol=Protocol(64, 0.875, "bicubic"))
    return model


@pytest.fixture(scope="module")
def grouped_export(grouped, tmp_path_factory):
    path = tmp_path_factory.mktemp("grouped") / "1"
    signatures.write_saved_model(fold_batch_norm(grouped), path)
    return path


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3))
    return pixels.astype(np.float32)


@pytest.fixture(scope="module")
def answers(folder, grouped_export, images, tmp_path_factory):
    """What ANSWERS prints without oneDNN, and with it."""
    scratch = tmp_path_factory.mktemp("answers")
    np.save(scratch / "images.npy", images)
    words = [sys.executable, "-c", ANSWERS, folder, grouped_export]
    answers = []
    for onednn in ("0", "1"):
        done = subprocess.run(
            [*words, scratch / "images.npy"],
            env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-500:]
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    return answers


@pytest.mark.parametrize("onednn", [0, 1])
def test_empty_batch_is_an_empty_answer(onednn, answers):
    assert answers[onednn]["empty"] == [[0, 3], [0, 3]]


@pytest.mark.parametrize("onednn", [0, 1])
def test_convolutions_run_with_bias_and_relu_and_by_onednn_the_sum_in_one(
    onednn, answers
):
    nodes = answers[onednn]["nodes"]
    convolutions = [(op, fused) for op, fused in nodes if "Conv2D" in op]
    assert all("FusedConv2D" in op for op, _ in convolutions)
    # a stem of 3, two in each of 4 blocks, and 3 shortcuts
    assert len(convolutions) == 3 + 2 * 4 + 3
    assert all("BiasAdd" in fused for _, fused in convolutions)
    # the stem, and each block's first; each block's last with the sum before it
    kinds = [fused for _, fused in convolutions]
    assert kinds.count(["BiasAdd", "Relu"]) == 3 + 4
    in_one = 4 if onednn else 0  # Eigen's kernels have no sum
    assert kinds.count(["BiasAdd", "Add", "Relu"]) == in_one
    assert [op for op, _ in nodes].count("Relu") == 4 - in_one
    assert not [op for op, _ in nodes if "FusedBatchNorm" in op]


def test_grouped_convolutions_need_no_compiler(
    answers, grouped, grouped_export, images
):
    saved = saved_model_pb2.SavedModel.FromString(
        (grouped_export / "saved_model.pb").read_bytes()
    )
    functions = saved.meta_graphs[0].graph_def.library.function
    assert functions
    assert not any(it.attr["_XlaMustCompile"].b for it in functions)
    expected = grouped.predict(images, verbose=0)
    for answer in answers:
        np.testing.assert_allclose(answer["grouped"], expected, atol=1e-5)


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_it(folder, tmp_path):
    cli = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    where = ["--dir", folder, "--tag_set", "serve"]
    np.save(tmp_path / "images.npy", np.full((2, 64, 64, 3), 90, np.float32))
    done = subprocess.run(
        [
            *(*cli, "run", *where, "--signature_def", "serving_default", "--inputs"),
            *(f"images={tmp_path / 'images.npy'}", "--outdir", tmp_path),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-500:]
    answers = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_allclose(answers.sum(1), [1, 1], rtol=1e-5)
    done = subprocess.run(
        [*cli, "show", *where, "--signature_def", "serving_bytes"],
        capture_output=True,
        text=True,
    )
    assert "inputs['image_bytes'] tensor_info" in done.stdout
    assert "outputs['ok'] tensor_info" in done.stdout


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(the released net, its export, the 360 held-out digits as PNG files)."""
    model = open_model(DIGITS)
    place = tmp_path_factory.mktemp("digits")
    signatures.write_saved_model(fold_batch_norm(model), place / "1")
    demo.write_digits(place / "records")
    source = data.open_source(place / "records")
    files = [file.numpy() for file, _ in source.split("val").ordered()]
    return model, place / "1", source, files


@pytest.mark.slow
def test_digits_are_answered_as_evaluate_answers_picture_for_picture(digits):
    model, exported, source, files = digits
    protocol = model.info.protocol
    pictures = source.split("val").ordered()
    images = pictures.map(lambda file, _: data.load_eval(file, protocol)).batch(360)
    expected = model.predict(images, verbose=0)
    with SavedModel(exported) as served:
        answers = ask(served, files)
    assert answers["ok"].all()
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
    guesses = answers["probabilities"].argmax(1)
    np.testing.assert_array_equal(guesses, expected.argmax(1))
    confusion = np.zeros((10, 10), int)
    labels = [label.numpy() for _, label in pictures]
    np.add.at(confusion, (labels, guesses), 1)
    # evaluation's own figures, as another test of the released model asserts
    evaluated = json.loads((DIGITS / "metrics.json").read_text())
    assert len(files) == evaluated["examples"] == 360
    assert confusion.tolist() == evaluated["confusion"]


@pytest.mark.slow
def test_export_loads_where_neither_keras_nor_a_layer_is(digits, tmp_path):
    _, exported, _, files = digits
    files = np.array(files[:20], object)
    npz.write_npz(tmp_path / "in.npz", {"image_bytes": files})
    program = (
        "import sys; from keras_resnet.export import savedmodel\n"
        "savedmodel.main(sys.argv[1:])\n"
        "unwanted = {'keras', 'tensorflow', 'keras_resnet.layers'}\n"
        "assert not unwanted & {*sys.modules}"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", program, exported, "serving_bytes"),
            *(tmp_path / "in.npz", tmp_path / "out.npz"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-500:]
    with SavedModel(exported) as served:
        expected = ask(served, files)["probabilities"]
    answers = npz.read_npz(tmp_path / "out.npz")["probabilities"]
    np.testing.assert_allclose(answers, expected, atol=1e-6)
