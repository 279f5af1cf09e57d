"""What a file says of its net is checked before it is used, whatever reads it."""

import dataclasses
import json
import os
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
import weight_files

import keras_resnet
from keras_resnet import WeightsError
from keras_resnet.info import ModelInfo, check, parse
from keras_resnet.opening import net_fields, open_model, read_model_info
from keras_resnet.recipe import Recipe
from keras_resnet.train.build import resolve
from keras_resnet.weights import convert, load_weights, read_info

GOOD = json.loads(
    json.dumps(
        dataclasses.asdict(
            ModelInfo("resnet18d", keras_resnet.VARIANTS["resnet18d"], classes=3)
        )
    )
)
FOREIGN = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 1}}
LIES = [
    ({"classifier_activation": FOREIGN}, "classifier_activation={'class_name"),
    ({"classifier_activation": "Lambda"}, "classifier_activation='Lambda'"),
    ({"dtype_policy": FOREIGN}, "dtype_policy="),
    ({"variant": "../net"}, "variant="),
    ({"variant": 3}, "variant=3"),
    ({"classes": 2**31}, "classes=2147483648"),
    ({"classes": "3"}, "classes='3'"),
    ({"classes": True}, "classes=True"),
    ({"class_names": "abc"}, "class_names='abc'"),
    ({"class_names": ["a", "b", 3]}, "class_names="),
    ({"class_names": ["a", "b"]}, "class_names="),
    ({"include_top": 1}, "include_top=1"),
    ({"include_preprocessing": None}, "include_preprocessing=None"),
    ({"pooling": ["avg"]}, "pooling="),
    ({"input_shape": [224, 224]}, "input_shape="),
    ({"input_shape": [2**40, None, 3]}, "input_shape="),
    ({"protocol": {"size": 10**9}}, "size=1000000000"),
    ({"protocol": {"size": "224"}}, "size='224'"),
    ({"protocol": {"crop_pct": 0.0}}, "crop_pct=0.0"),
    ({"protocol": {"crop_pct": float("nan")}}, "crop_pct=nan"),
    ({"protocol": {"interpolation": "area"}}, "interpolation='area'"),
    ({"protocol": {"steps": 1}}, "unknown fields: 'steps'"),
    ({"protocol": None}, "protocol=None"),
    ({"config": {**GOOD["config"], "mean": "grey"}}, "mean='grey'"),
    ({"config": {**GOOD["config"], "std": [0, 1, 1]}}, "std="),
    ({"config": {**GOOD["config"], "zero_gamma": "yes"}}, "zero_gamma='yes'"),
    ({"config": {**GOOD["config"], "extra": 1}}, "extra"),
    ({"config": {**GOOD["config"], "mean": [0] * 2000, "std": [1] * 2000}}, "2000 v"),
    ({"config": {}}, "depths"),
    ({"config": 3}, "must have variant and config"),
    ({"extra": 1}, "unknown fields: 'extra'"),
]


def test_what_this_release_and_earlier_ones_write_is_taken():
    check(GOOD)
    check({"variant": "resnet18d", "config": GOOD["config"]})
    names = {"class_names": ["tench, Tinca tinca"] * 20_000, "classes": 20_000}
    assert parse(json.dumps(GOOD | names)) == GOOD | names
    check(GOOD | names)
    check(GOOD | {"input_shape": [None, 64, 3], "classifier_activation": "sigmoid"})


@pytest.mark.parametrize(("lie", "words"), LIES)
def test_a_field_of_wrong_type_or_range_is_named(lie, words):
    with pytest.raises(ValueError, match=words.replace("[", r"\[")):
        ModelInfo.from_json(GOOD | lie)


def in_keras(path, text, info=True):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        inner = text if not info else f'{{"config": {{"info": {text}}}}}'
        file.writestr("config.json", inner)
        file.writestr("model.weights.h5", "x")


def in_safetensors(path, text):
    header = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header["__metadata__"] = {"keras_resnet": text}
    data = np.ones(1, "<f4").tobytes()
    path.write_bytes(weight_files.safetensors(json.dumps(header), data))


def in_hdf5(path, text):
    with h5py.File(path, "w") as file:
        file["vars/0"] = np.ones(1, np.float32)
        file.attrs["keras_resnet"] = text


WRITERS = {"keras": in_keras, "safetensors": in_safetensors, "weights.h5": in_hdf5}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD | {"classifier_activation": FOREIGN}),
        json.dumps(GOOD | {"protocol": {"size": "many"}}),
        "[1, 2]",
        "3",
        "{",
        "[" * 100_000,
    ],
    ids=lambda text: text[:5],
)
def test_every_reader_of_a_file_refuses_what_its_description_must_not_say(
    kind, text, tmp_path
):
    path = tmp_path / f"lying.{kind}"
    WRITERS[kind](path, text)
    recipe = Recipe(model="resnet18d", weights=str(path), test_size=0)
    uses = [
        read_info,
        read_model_info
        if kind == "keras"
        else lambda p: read_model_info(f"resnet18d:{p}"),
        open_model if kind == "keras" else lambda p: open_model(f"resnet18d:{p}"),
        net_fields,
        lambda _: resolve(recipe),
        lambda p: keras_resnet.create("resnet18d", weights=p, width=8),
        lambda p: convert(p, tmp_path / "x.npz", keras_resnet.VARIANTS["resnet18d"]),
    ]
    for use in uses:
        with pytest.raises(WeightsError, match=r"lying\..*does not describe a model"):
            use(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD | {"class_names": ["x"] * 2**21, "classes": 2**21}),
        "[" + "{},[]," * 2**21 + "1]",
        " " * 2**25,
    ],
    ids=["names", "empty", "blank"],
)
def test_a_small_file_that_unfolds_into_much_is_refused_before_memory_is_taken(
    text, tmp_path
):
    path = tmp_path / "bomb.keras"
    in_keras(path, text)
    assert path.stat().st_size < 2**16
    tracemalloc.start()
    with pytest.raises(WeightsError, match=r"bomb\.keras: .*(too large|not a comp)"):
        open_model(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**26


def test_a_file_without_a_description_has_none(tmp_path):
    for kind in WRITERS:
        path = tmp_path / f"damaged.{kind}"
        path.write_bytes(b"PK\x03\x04 not really")
        assert read_info(path) is None
    in_keras(tmp_path / "foreign.keras", "{}", info=False)
    assert read_info(tmp_path / "foreign.keras") is None
    os.link(tmp_path / "foreign.keras", tmp_path / "foreign.pth")
    assert read_info(tmp_path / "foreign.pth") is None


@pytest.mark.addons
def test_a_variant_with_a_file_of_ours_has_the_classes_and_overrides_of_the_file(
    tmp_path,
):
    model = keras_resnet.create("resnet18d", width=8, classes=3)
    model.info = model.info.replace(class_names=("a", "b", "c"))
    for kind in ("safetensors", "weights.h5"):
        path = tmp_path / f"three.{kind}"
        keras_resnet.save_weights(model, path)
        again = open_model(f"resnet18d:{path}")
        assert again.info == model.info
        assert read_model_info(f"resnet18d:{path}") == model.info
        assert load_weights(again, path).initial == ()
    text = json.dumps(GOOD | {"classes": 400_000})
    in_safetensors(tmp_path / "vast.safetensors", text)
    with pytest.raises(WeightsError, match=r"does not describe.*classes=400000"):
        open_model(f"resnet18d:{tmp_path / 'vast.safetensors'}")
