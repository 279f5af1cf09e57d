"""What a recipe may name of TensorFlow Addons: there it works, here it is answered."""

import importlib.util
import json

import numpy as np
import pytest
from checkpoints import GOLDENS

from keras_resnet.data.transforms.colour import distort
from keras_resnet.errors import RecipeError
from keras_resnet.legacy import addons
from keras_resnet.opening import open_model
from keras_resnet.recipe import Recipe

there = importlib.util.find_spec("tensorflow_addons") is not None
on_addons = pytest.mark.skipif(not there, reason="of the stack of `make addons`")
on_main = pytest.mark.skipif(there, reason="of the main stack")


@on_main
@pytest.mark.parametrize("name", addons.OPTIMIZERS)
def test_rule_of_addons_is_answered_in_one_line_by_what_replaced_it(name, tiny):
    with pytest.raises(RecipeError) as error:
        tiny.replace(optimizer=name)
    said = str(error.value)
    assert said.startswith(f"optimizer={name}: TensorFlow Addons ended in May 2024")
    assert said.endswith(addons.OPTIMIZERS[name])
    assert "\n" not in said


@on_main
@pytest.mark.parametrize("field", ["colour", "colours"])
def test_colours_of_addons_are_answered_by_ours(field, tiny):
    with pytest.raises(RecipeError, match=r"ended in May.*hue-saturation-bright"):
        tiny.replace(**{field: "tfa.yiq"})


@on_main
def test_command_answers_a_recipe_file_that_names_addons(folder, tmp_path, call):
    file = tmp_path / "mine.yaml"
    file.write_text("model: resnet18d\noptimizer: tfa.LAMB\n")
    result = call("train", folder, "run", "--recipe", file, cwd=tmp_path)
    assert result.returncode == 1
    assert "Addons ended in May 2024" in result.err
    assert "optimizer=lamb" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.addons
def test_file_from_the_old_stack_opens_on_both():
    model = open_model(GOLDENS / "addons" / "net.keras")
    with np.load(GOLDENS / "addons" / "net.npz") as said:
        ours = model.predict(said["images"], verbose=0)
        np.testing.assert_allclose(ours, said["probabilities"], atol=1e-5)


@pytest.mark.addons
def test_unknown_piece_of_addons_lists_the_known():
    with pytest.raises(RecipeError, match=r"optimizer='tfa.Adagrad'.*one of tfa.AdaB"):
        Recipe(optimizer="tfa.Adagrad")
    with pytest.raises(RecipeError, match=r"colours='tfa.hsv': must be one of tfa.yiq"):
        Recipe(colours="tfa.hsv")


@pytest.mark.addons
@on_addons
@pytest.mark.parametrize("name", addons.OPTIMIZERS)
def test_rule_of_addons_trains(name, tiny, folder, tmp_path):
    from keras_resnet import train

    recipe = tiny.replace(
        optimizer=name,
        base_rate=0.5,
        weight_decay=0.0 if name in ("tfa.LazyAdam", "tfa.Yogi") else 1e-4,
        decay="all",
        ema=0.0 if name == "tfa.SWA" else 0.9,
    )
    train.fit(recipe, folder, tmp_path / "run")
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[0]["rate"] > history[-1]["rate"]
    assert (tmp_path / "run" / "model_ema.keras").is_file()


@pytest.mark.addons
@on_addons
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_average_of_addons_is_the_runs_also_of_frozen_stages(
    precision, tiny, folder, tmp_path
):
    from keras_resnet import train

    recipe = tiny.replace(
        optimizer="tfa.MovingAverage",
        precision=precision,
        ema=0.99,
        decay="all",
        stage_rates=(0, 0, 1),
    )
    trained = train.fit(recipe, folder, tmp_path / "run")
    average = open_model(tmp_path / "run" / "model_ema.keras")
    for ours, theirs in zip(trained.weights, average.weights):
        frozen = ours.path.startswith(("stem", "stage1"))
        same = np.array_equal(ours.numpy(), theirs.numpy())
        assert same == (frozen or "moving" in ours.path), ours.path
        assert np.isfinite(theirs.numpy()).all()


@pytest.mark.addons
@on_addons
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optimizer": "tfa.Yogi"}, "weight_decay=0.0001: tfa.Yogi has none"),
        ({"optimizer": "tfa.NovoGrad"}, "decay='kernels': tfa.NovoGrad decays all"),
        ({"optimizer": "tfa.MovingAverage"}, "ema=0.0: is the average_decay"),
        ({"optimizer": "tfa.SWA", "ema": 0.9}, "ema=0.9: tfa.SWA averages by itself"),
        ({"optimizer": "tfa.LAMB", "accumulate": 2}, "accumulate=2"),
    ],
)
def test_what_addons_cannot_is_named_before_anything_is_written(
    fields, words, tiny, folder, tmp_path
):
    from keras_resnet import train

    with pytest.raises(RecipeError, match=words):
        train.fit(tiny.replace(**fields), folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.addons
@on_addons
@pytest.mark.parametrize("name", ["tfa.LAMB", "tfa.SGDW", "tfa.Lookahead", "tfa.SWA"])
def test_kernels_alone_decay(name, tiny):
    from keras_resnet.train.build import audit, build

    model = build(tiny.replace(optimizer=name), ("a", "b", "c"), 10).model
    for row in audit(model):
        assert row["decays"] == (len(row["shape"]) > 1), row


@pytest.mark.addons
@on_addons
def test_yiq_colours_of_addons_are_ours_to_a_level(tiny):
    recipe = tiny.replace(colour="tfa.yiq", lighting=0.0)
    assert (recipe.colour, recipe.colours) == (0.4, "tfa.yiq")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    draws = random.random((4, 7), np.float32)
    ours = distort(images, draws, recipe.replace(colours="hue-saturation-brightness"))
    theirs = distort(images, draws, recipe)
    difference = np.abs(ours.numpy().astype(int) - theirs.numpy())
    assert difference.max() <= 1
    assert (np.abs(theirs.numpy().astype(int) - images) > 20).any()
