"""Checkpoints load whole or not at all, both ways, and bring their protocol along."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from checkpoints import GOLDENS, checkpoint
from conftest import narrow, variants
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.numpy import load_file, save_file

import keras_resnet
from keras_resnet import VARIANTS, WeightsError, load_weights, save_weights
from keras_resnet.backend import keras
from keras_resnet.complexity import variable_shapes
from keras_resnet.export import fold_batch_norm
from keras_resnet.opening import net_fields, open_model, read_model_info
from keras_resnet.recipe import Recipe
from keras_resnet.train.build import resolve
from keras_resnet.weights import DIALECTS, cache_folder, convert, locate, read_info
from keras_resnet.weights.translate import from_native, to_native


def net(variant="resnet18d", **arguments):
    return keras_resnet.create(variant, **{"width": 8, "classes": 5, **arguments})


def randomised(model, seed=0):
    generator = np.random.default_rng(seed)
    model.set_weights(
        [
            generator.uniform(0.5, 1.5, weight.shape).astype(np.float32)
            for weight in model.get_weights()
        ]
    )
    return model


def values(model):
    return {variable.path: variable.numpy() for variable in model.weights}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


@pytest.mark.parametrize("variant", variants())
def test_shapes_by_arithmetic_are_those_of_the_model(variant):
    config = VARIANTS[variant].replace(width=narrow(variant), depths=(2, 1, 1, 1))
    info = keras_resnet.ModelInfo(variant, config, classes=3)
    model = keras_resnet.model.assemble(info)
    built = {variable.path: tuple(variable.shape) for variable in model.weights}
    assert list(variable_shapes(info.config, 3).items()) == list(built.items())


@pytest.mark.addons
@pytest.mark.parametrize("dialect", ["timm", "gluon"])
@pytest.mark.parametrize("variant", variants(8))
def test_every_variant_goes_out_and_comes_back_bit_for_bit(variant, dialect):
    config = VARIANTS[variant]
    generator = np.random.default_rng(0)
    ours = {
        path: generator.random(shape, np.float32)
        for path, shape in variable_shapes(config.replace(depths=(2, 1, 1, 1))).items()
    }
    config = config.replace(depths=(2, 1, 1, 1))
    theirs = from_native(ours, config, dialect)
    assert len(theirs) == len(ours)
    again = to_native(theirs, config, variable_shapes(config))
    assert again.report.dialect == dialect
    assert_same(again.values, ours)


@pytest.mark.addons
@pytest.mark.parametrize(
    "variant",
    [
        "resnet18b",
        pytest.param("ecaresnet50d", marks=pytest.mark.slow),
        pytest.param("resnext50d_32x4d", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", ["weights.h5", "keras"])
def test_files_that_keras_writes_are_read_without_keras(kind, variant, tmp_path):
    arguments = {"width": 16, "drop_path": 0.1, "dropout": 0.1}
    model = randomised(net(variant, **arguments))
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / f"x.{kind}"
    (model.save_weights if kind == "weights.h5" else model.save)(path)
    again = net(variant, **arguments)
    report = load_weights(again, path)
    assert report.dialect == "keras_resnet"
    beside = ("optimizer", "seed_generator", "metrics")
    assert all(any(kind in name for kind in beside) for name in report.ignored)
    assert_same(values(again), values(model))
    other = net(variant, **{**arguments, "classes": 3})
    with pytest.raises(WeightsError, match="strict=False"):
        load_weights(other, path)
    assert load_weights(other, path, strict=False).initial == (
        "head/kernel",
        "head/bias",
    )


@pytest.mark.addons
@pytest.mark.parametrize("kind", ["safetensors", "npz", "weights.h5"])
def test_own_file_round_trip_is_bit_exact(kind, tmp_path):
    model = randomised(net("seresnet50d"))
    save_weights(model, tmp_path / f"mine.{kind}")
    assert [path.name for path in tmp_path.iterdir()] == [f"mine.{kind}"]
    again = net("seresnet50d")
    report = load_weights(again, tmp_path / f"mine.{kind}")
    assert report.dialect == "keras_resnet"
    assert_same(values(again), values(model))


@pytest.mark.parametrize("kind", ["safetensors", "npz", "weights.h5"])
def test_files_of_a_net_in_bfloat16_are_read_bit_for_bit(kind, policy, tmp_path):
    policy("bfloat16")
    model = randomised(net())
    save_weights(model, tmp_path / f"mine.{kind}")
    again = net()
    load_weights(again, tmp_path / f"mine.{kind}")
    assert {str(value.dtype) for value in values(again).values()} >= {"bfloat16"}
    assert_same(values(again), values(model))


def test_channel_whose_variance_is_zero_is_written_and_read(tmp_path):
    model = randomised(net())
    norm = model.get_layer("stem").conv1.norm
    norm.moving_variance.assign([0.0, 1.0, 1.0, 1.0])
    for kind in ("safetensors", "npz", "weights.h5"):
        save_weights(model, tmp_path / f"mine.{kind}")
        again = net()
        load_weights(again, tmp_path / f"mine.{kind}")
        assert_same(values(again), values(model))


def test_folded_net_is_refused_where_a_dialect_has_no_names_for_it(tmp_path):
    folded = fold_batch_norm(randomised(net()))
    path = tmp_path / "folded.safetensors"
    for dialect in DIALECTS:
        if dialect != "keras_resnet":
            with pytest.raises(WeightsError, match=r"folded.*save the net before"):
                save_weights(folded, path, dialect=dialect)
            assert not path.exists()
    save_weights(folded, path)
    again = net(fused_batch_norm=None)
    load_weights(again, path)
    assert_same(values(again), values(folded))


@pytest.mark.parametrize("to", ["keras_resnet", "timm"])
def test_conversion_keeps_what_the_source_says_beside_its_tensors(to, tmp_path):
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    model = randomised(net(**half))
    protocol = keras_resnet.Protocol(32, 0.95, "bilinear")
    names = ("a", "b", "c", "d", "e")
    model.info = model.info.replace(protocol=protocol, class_names=names)
    save_weights(model, tmp_path / "mine.weights.h5")
    config = VARIANTS["resnet18d"].replace(width=8)
    convert(tmp_path / "mine.weights.h5", tmp_path / "it.safetensors", config, to=to)
    assert read_info(tmp_path / "it.safetensors") == read_info(
        tmp_path / "mine.weights.h5"
    )
    again = net(weights=tmp_path / "it.safetensors")
    assert again.info == model.info
    assert_same(values(again), values(model))


def test_net_trained_here_goes_to_timm_under_its_names(tmp_path):
    model = randomised(keras_resnet.create("resnet18d"))
    save_weights(model, tmp_path / "timm.safetensors", dialect="timm")
    written = load_file(tmp_path / "timm.safetensors")
    manifest = json.loads((GOLDENS / "timm" / "resnet18d.manifest.json").read_text())
    assert {name: list(value.shape) for name, value in written.items()} == {
        name: shape for name, shape, _ in manifest
    }
    again = keras_resnet.create("resnet18d", weights=tmp_path / "timm.safetensors")
    assert_same(values(again), values(model))


def schemes():
    return [
        (dialect, number)
        for dialect, them in DIALECTS.items()
        for number in range(len(them))
        if dialect not in ("torchvision", "keras_resnet")
    ]


@pytest.mark.addons
@pytest.mark.parametrize(("dialect", "number"), schemes())
def test_every_scheme_is_recognised_by_its_names(dialect, number):
    config = VARIANTS["resnet101d"]
    scheme = DIALECTS[dialect][number]
    model_shapes = variable_shapes(config, classes=7)
    theirs = {}
    for path, shape in model_shapes.items():
        if name := scheme.name(path, config):
            theirs[name] = scheme.from_native(np.ones(shape, np.float32))
    headless = scheme.head is None
    translated = to_native(theirs, config, model_shapes, strict=not headless)
    assert translated.report.dialect == dialect
    assert set(translated.report.initial) == (
        {"head/kernel", "head/bias"} if headless else set()
    )
    assert len(translated.values) == len(theirs)


def test_scopes_and_wrappers_around_names_are_seen_through():
    truth = checkpoint("slim/resnet50_v1d")
    for wrapped in (
        {f"Fast-RCNN/{name}": value for name, value in truth.items()},
        {f"{name}:0": value for name, value in truth.items()},
        {**truth, "global_step": np.array(7)},
        {  # the classifier as a convolution, outside of the net's scope
            name.replace("resnet50_v1d/logits", "logits"): value[None, None]
            if name.endswith("logits/weights")
            else value
            for name, value in truth.items()
        },
    ):
        config = VARIANTS["resnet50d"]
        translated = to_native(wrapped, config, variable_shapes(config))
        assert translated.report.dialect == "slim"
        assert len(translated.values) == 277
    truth = checkpoint("timm/resnet18d")
    wrapped = {f"module.{name}": value for name, value in truth.items()}
    wrapped["module.bn1.num_batches_tracked"] = np.array(3)
    config = VARIANTS["resnet18d"]
    translated = to_native(wrapped, config, variable_shapes(config))
    assert translated.report.ignored == ("module.bn1.num_batches_tracked",)
    np.testing.assert_array_equal(translated.values["head/bias"], truth["fc.bias"])


@pytest.mark.parametrize(
    ("source", "dialect", "target", "named"),
    [
        ("resnet18d", "timm", "resnet18vd", "it fits resnet18d"),
        ("resnet18vd", "paddle", "resnet18d", "it fits resnet18vd"),
        ("resnet34vd", "paddle", "resnet34d", "it fits resnet34vd"),
        ("resnet200vd", "paddle", "resnet200d", "it fits resnet200vd"),
        ("resnet50d", "timm", "resnet50b", "it fits resnet50d"),
        ("resnet50b", "timm", "resnet50d", "it fits resnet50a or resnet50b"),
        ("seresnet50d", "timm", "resnet50d", "it fits seresnet50d"),
        ("resnet101d", "slim", "resnet50d", "it fits resnet101c or resnet101d"),
    ],
)
def test_wrong_variant_is_told_the_right_one(source, dialect, target, named):
    config = VARIANTS[source]
    ours = {
        path: np.ones(shape, np.float32)
        for path, shape in variable_shapes(config).items()
    }
    theirs = from_native(ours, config, dialect)
    target_config = VARIANTS[target]
    with pytest.raises(WeightsError, match=named):
        to_native(theirs, target_config, variable_shapes(target_config))


def test_every_missing_unexpected_and_misshaped_tensor_is_listed():
    truth = checkpoint("timm/resnet18d")
    del truth["layer1.0.bn1.weight"]
    truth["layer1.0.bn9.weight"] = np.ones(64, np.float32)
    truth["conv1.3.weight"] = np.ones((32, 31, 3, 3), np.float32)
    model = keras_resnet.create("resnet18d")
    before = values(model)
    with pytest.raises(WeightsError) as error:
        load_weights(model, truth)
    message = str(error.value)
    assert "missing: layer1.0.bn1.weight" in message
    assert "unexpected: layer1.0.bn9.weight" in message
    assert "conv1.3.weight (3, 3, 31, 32), not (3, 3, 32, 32)" in message
    assert_same(values(model), before)


def test_tensor_with_nan_is_refused_by_name():
    truth = checkpoint("timm/resnet18d")
    truth["layer3.1.conv1.weight"][0, 0, 0, 0] = np.nan
    with pytest.raises(WeightsError, match=r"layer3\.1\.conv1\.weight.*NaN"):
        load_weights(keras_resnet.create("resnet18d"), truth)


def test_other_classes_load_all_but_the_head_and_say_so():
    truth = checkpoint("timm/resnet18d")
    model = keras_resnet.create("resnet18d", classes=7)
    head = model.get_layer("head").get_weights()
    with pytest.raises(WeightsError, match="strict=False leaves the head as it is"):
        load_weights(model, truth)
    report = load_weights(model, truth, strict=False)
    assert report.initial == ("head/kernel", "head/bias")
    assert "left at initial values: head/kernel, head/bias" in str(report)
    for ours, theirs in zip(model.get_layer("head").get_weights(), head):
        np.testing.assert_array_equal(ours, theirs)
    stem = model.get_layer("stem").conv1.conv.kernel.numpy()
    np.testing.assert_array_equal(stem, truth["conv1.0.weight"].transpose(2, 3, 1, 0))
    del truth["layer4.1.conv2.weight"]  # but nothing else may be missing
    with pytest.raises(WeightsError, match=r"missing: layer4\.1\.conv2\.weight"):
        load_weights(model, truth, strict=False)


def test_net_without_classifier_has_no_use_for_the_files():
    model = keras_resnet.backbone("resnet18d")
    report = load_weights(model, checkpoint("timm/resnet18d"))
    assert report.ignored == ("fc.weight", "fc.bias")
    assert len(report.loaded) == len(model.weights)


@pytest.mark.parametrize(
    "kind", ["safetensors", pytest.param("weights.h5", marks=pytest.mark.slow)]
)
def test_file_of_ours_brings_protocol_classes_and_normalization(kind, tmp_path):
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    model = randomised(net(**half))
    protocol = keras_resnet.Protocol(32, 0.95, "bilinear")
    names = ("a", "b", "c", "d", "e")
    model.info = model.info.replace(protocol=protocol, class_names=names)
    path = tmp_path / f"mine.{kind}"
    save_weights(model, path)
    again = net(weights=path)
    assert again.info == model.info
    image = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        again.predict(image, verbose=0), model.predict(image, verbose=0)
    )
    again.save(tmp_path / "mine.keras")
    assert open_model(tmp_path / "mine.keras").info == model.info
    assert net(weights=tmp_path / "mine.keras").info == model.info
    with pytest.raises(WeightsError, match=r"these weights want mean=\(0\.5, 0\.5"):
        load_weights(net(), path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in of the Hugging Face hub's cache, and an empty cache of ours."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def publish(repository, tensors, settings=None, revision="main"):
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        commit = hashlib.sha1(revision.encode()).hexdigest()
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True, exist_ok=True)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / revision).write_text(commit)
        save_file(tensors, snapshot / "model.safetensors")
        if settings:
            (snapshot / "config.json").write_text(json.dumps(settings))

    return publish


def test_released_tag_is_fetched_converted_once_and_brings_its_protocol(hub, tmp_path):
    truth = checkpoint("timm/resnet18d")
    hub("timm/resnet18d.ra4_e3600_r224_in1k", truth)
    model = keras_resnet.create("resnet18d", weights="ra4_e3600_r224_in1k")
    assert model.info.config.mean == model.info.config.std == (0.5, 0.5, 0.5)
    assert model.info.protocol == keras_resnet.Protocol(288, 1.0, "bicubic")
    rescaling = model.get_layer("preprocessing")
    np.testing.assert_allclose(rescaling.scale, 2 / 255)
    np.testing.assert_allclose(rescaling.offset, -1)
    np.testing.assert_array_equal(model.get_layer("head").bias, truth["fc.bias"])
    stem = model.get_layer("stem").conv1.conv.kernel.numpy()
    np.testing.assert_array_equal(stem, truth["conv1.0.weight"].transpose(2, 3, 1, 0))
    assert [path.name for path in cache_folder().iterdir()] == [
        "resnet18d.ra4_e3600_r224_in1k.safetensors"
    ]
    shutil.rmtree(tmp_path / "hub")  # the converted file alone serves from now on
    again = keras_resnet.ResNet18D(weights="imagenet")
    assert_same(values(again), values(model))
    features = keras_resnet.backbone("resnet18d", weights="imagenet")
    assert features.info.protocol == model.info.protocol


def test_repository_of_the_hub_brings_the_protocol_of_its_settings(hub):
    settings = {
        "architecture": "resnet18d",
        "pretrained_cfg": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "crop_pct": 0.9,
            "test_crop_pct": 1.0,
            "interpolation": "bilinear",
            "input_size": [3, 160, 160],
        },
    }
    hub("somebody/fine-tuned", checkpoint("timm/resnet18d"), settings)
    model = keras_resnet.create("resnet18d", weights="hf://somebody/fine-tuned")
    assert model.info.protocol == keras_resnet.Protocol(160, 1.0, "bilinear")
    assert model.info.config.mean == (0.1, 0.2, 0.3)
    assert model.info.config.std == (0.4, 0.5, 0.6)


def test_hub_out_of_reach_is_asked_once(monkeypatch, tmp_path):
    asked = []

    def download(repository, name, revision):
        asked.append((repository, name))
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(WeightsError, match=r"cannot be fetched \(no connection\)"):
        locate("ra2_in1k", "resnet101d")
    assert asked == [("timm/resnet101d.ra2_in1k", "model.safetensors")]


def test_repository_is_taken_at_a_revision_and_fetched_again_when_told_to(hub):
    truth = checkpoint("timm/resnet18d")
    biases = {
        revision: np.full_like(truth["fc.bias"], number)
        for number, revision in enumerate(("main", "v2", "later"), start=1)
    }
    for revision in ("main", "v2"):
        tensors = {**truth, "fc.bias": biases[revision]}
        hub("somebody/fine-tuned", tensors, revision=revision)
    model = keras_resnet.create("resnet18d")

    def loaded(source, **options):
        load_weights(model, source, **options)
        return model.get_layer("head").bias.numpy()

    name = "hf://somebody/fine-tuned"
    np.testing.assert_array_equal(loaded(f"{name}@v2"), biases["v2"])
    np.testing.assert_array_equal(loaded(name), biases["main"])
    hub("somebody/fine-tuned", {**truth, "fc.bias": biases["later"]})
    np.testing.assert_array_equal(loaded(name), biases["main"])
    np.testing.assert_array_equal(loaded(name, refresh=True), biases["later"])
    np.testing.assert_array_equal(loaded(name), biases["later"])
    np.testing.assert_array_equal(loaded(f"{name}@v2"), biases["v2"])
    with pytest.raises(WeightsError, match="fine-tuned@v3: cannot be fetched"):
        loaded(f"{name}@v3")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"input_size": [3, 224, "224"]}, "size='224'"),
        ({"input_size": 224}, "input_size=224: must be 3"),
        ({"crop_pct": 7}, "crop_pct=7"),
        ({"interpolation": {"class_name": "Lambda"}}, "interpolation="),
        ({"mean": [[0.5], 0.5, 0.5]}, "mean="),
        ({"std": "grey"}, "std='grey'"),
        ([], "pretrained_cfg: must be an object"),
    ],
)
def test_settings_of_a_repository_are_checked(settings, words, hub, tmp_path):
    tensors = {"fc.bias": np.ones(3, np.float32)}
    hub("somebody/else", tensors, {"pretrained_cfg": settings})
    with pytest.raises(
        WeightsError, match=rf"somebody/else: its config\.json.*{words}"
    ):
        locate("hf://somebody/else", "resnet18d")
    assert not cache_folder().exists()


def test_a_tag_is_a_tag_though_a_folder_has_its_name(hub, tmp_path, monkeypatch):
    hub("timm/resnet18d.ra4_e3600_r224_in1k", checkpoint("timm/resnet18d"))
    monkeypatch.chdir(tmp_path)
    for tag in ("imagenet", "ra4_e3600_r224_in1k"):
        (tmp_path / tag).mkdir()
        (tmp_path / tag / "model.keras").write_bytes(b"PK\x03\x04 not really")
        assert Path(locate(tag, "resnet18d")).parent == cache_folder()
        assert net_fields(tag) == {}
        recipe = Recipe(model="resnet18d", weights=tag, test_size=0)
        assert resolve(recipe).test_size == 288
        info = read_model_info(f"resnet18d:{tag}")
        assert (info.classes, info.class_names) == (1000, None)
    assert locate("./imagenet", "resnet18d") == "./imagenet/model.keras"


def test_offline_with_an_empty_cache_is_one_clear_line(hub):
    with pytest.raises(WeightsError, match="with the file from elsewhere") as error:
        keras_resnet.create("resnet18d", weights="ra2_in1k")
    message = str(error.value)
    assert "hf://timm/resnet18d.ra2_in1k" in message
    assert "\n" not in message


def test_unknown_tag_lists_the_variants_own(hub):
    with pytest.raises(WeightsError, match=r"resnet18d has imagenet,.*ra2_in1k"):
        keras_resnet.create("resnet18d", weights="ra3_in1k")
    with pytest.raises(WeightsError, match="no such file"):
        keras_resnet.create("resnet18d", weights="nowhere/x.safetensors")


def test_damaged_download_is_not_kept(hub, tmp_path):
    truth = checkpoint("timm/resnet18d")
    del truth["fc.bias"]
    hub("timm/resnet18d.ra2_in1k", truth)
    with pytest.raises(WeightsError, match=r"missing: fc\.bias"):
        keras_resnet.create("resnet18d", weights="ra2_in1k")
    assert not list(tmp_path.glob("keras/**/*.safetensors"))


def test_download_that_breaks_off_is_not_kept(hub, monkeypatch):
    def breaks_off(name, address, cache_dir, cache_subdir):
        Path(cache_dir, cache_subdir, name).write_bytes(b"half")
        raise OSError("broken off")

    monkeypatch.setattr(keras.utils, "get_file", breaks_off)
    with pytest.raises(WeightsError, match=r"ResNet50_vd.*cannot be fetched \(broken"):
        locate("paddle_in1k", "resnet50d")
    assert list(cache_folder().rglob("*.*")) == []


def test_foreign_keras_file_is_refused(tmp_path):
    other = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    other.save_weights(tmp_path / "other.weights.h5")
    model = net()
    before = values(model)
    with pytest.raises(WeightsError, match="does not fit the net"):
        load_weights(model, tmp_path / "other.weights.h5")
    assert_same(values(model), before)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, p: load_weights(m, {}, dialect="jax"), "dialect='jax'.*timm"),
        (lambda m, p: load_weights(m, 3), "weights=3: must be"),
        (lambda m, p: save_weights(m, p / "x.safetensors", "jax"), "dialect='jax'"),
        (lambda m, p: save_weights(m, p / "x.pth"), "x.pth: must end in .safetensors"),
        (
            lambda m, p: save_weights(m, p / "x.weights.h5", "timm"),
            "choose .safetensors",
        ),
    ],
)
def test_bad_arguments_are_named(call, words, tmp_path):
    with pytest.raises((TypeError, ValueError), match=words):
        call(net(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_dialect_without_a_name_for_attention_says_so(tmp_path):
    with pytest.raises(
        WeightsError, match="slim has no name for stage1_block0/attention"
    ):
        save_weights(net("seresnet50d"), tmp_path / "x.npz", dialect="slim")


def test_command_converts_there_and_back(tmp_path):
    command = Path(sys.executable).with_name("keras-resnet")
    truth = checkpoint("timm/resnet18d")
    save_file(truth, tmp_path / "timm.safetensors")

    def run(*arguments):
        return subprocess.run(
            [command, "convert", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    there = run("timm.safetensors", "ours.npz", "--model", "resnet18d")
    assert there.returncode == 0, there.stderr
    assert f"timm: {len(truth)} tensors loaded" in there.stdout
    back = run(
        *("ours.npz", "again.safetensors", "--model", "resnet18d", "--to", "timm"),
        *("--from", "keras_resnet", "--json"),
    )
    assert back.returncode == 0, back.stderr
    assert json.loads(back.stdout)["dialect"] == "keras_resnet"
    assert_same(load_file(tmp_path / "again.safetensors"), truth)
    wrong = run("timm.safetensors", "x.npz", "--model", "resnet34d")
    assert wrong.returncode == 1
    assert "it fits resnet18d" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.network
def test_the_hub_itself_has_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    model = keras_resnet.create("resnet18d", weights="ra2_in1k")
    assert model.info.protocol == keras_resnet.Protocol(288, 0.95, "bicubic")
    stem = model.get_layer("stem").conv1.conv.kernel.numpy()
    assert 0 < np.abs(stem).mean() < 1
