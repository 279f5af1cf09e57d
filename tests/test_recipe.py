"""A recipe is checked numbers, both ways through JSON and YAML."""

import json

import numpy as np
import pytest
import yaml

from keras_resnet.recipe import RECIPES, Recipe, RecipeError, loss, optimizer


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_survives_json_and_yaml(name, tmp_path):
    recipe = RECIPES[name]
    assert recipe.name == name
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    for kind, text in (
        ("json", json.dumps(recipe.to_dict())),
        ("yaml", yaml.safe_dump(recipe.to_dict())),
    ):
        path = tmp_path / f"recipe.{kind}"
        path.write_text(text)
        assert Recipe.read(path) == recipe


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"epoch": 3}, "unknown recipe field 'epoch'.*epochs"),
        ({"epochs": "3"}, "epochs='3': must be int"),
        ({"epochs": 0}, r"epochs=0: must be in \[1, inf\)"),
        ({"batch_size": True}, "batch_size=True: must be int"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0: must be in \[0, 1\)"),
        ({"crop_pct": 0.0}, r"crop_pct=0.0: must be in \(0, 1\]"),
        ({"base_rate": float("nan")}, "base_rate=nan"),
        ({"schedule": "linear"}, "schedule='linear'.*cosine.*steps"),
        ({"precision": "float8"}, "precision='float8'"),
        ({"overrides": [1]}, "overrides=\\[1\\]: must be dict"),
        ({"boundaries": 30}, "boundaries=30: must be a list of whole numbers"),
        ({"scales": "ab"}, "scales='ab': must be a list of whole numbers"),
        ({"scales": [256]}, r"scales=\(256,\): must be empty, or the least"),
        ({"scales": [128, 480]}, r"scales=\(128, 480\).*train_size=224"),
        ({"colours": "all"}, "colours='all': must be one of.*hue-saturation"),
        ({"rand_augment": 11}, r"rand_augment=11.0: must be in \[0, 10\]"),
        ({"rand_augment_ops": 0}, r"rand_augment_ops=0: must be in \[1, inf\)"),
        ({"erasing": 1.5}, r"erasing=1.5: must be in \[0, 1\]"),
        ({"max_bad_examples": -1}, r"max_bad_examples=-1: must be in \[0, inf\)"),
    ],
)
def test_bad_field_is_refused_by_name(fields, words):
    with pytest.raises(RecipeError, match=words):
        Recipe.from_dict(fields)
    with pytest.raises(RecipeError, match=words):
        Recipe().replace(**fields)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [", "just words"])
def test_file_that_is_no_recipe_is_refused(text, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        Recipe.read(path)


def test_rate_scales_with_the_batch_and_warms_up_in_epochs():
    rate = optimizer(RECIPES["efficient"], steps_per_epoch=1251).learning_rate
    schedule = optimizer(RECIPES["efficient"], 1251)._learning_rate
    assert float(rate) == 0
    assert float(schedule(5 * 1251)) == pytest.approx(0.4)
    assert float(schedule(30 * 1251)) == pytest.approx(0.04)


def test_smoothing_spreads_its_share_over_all_classes():
    smooth = loss(Recipe(label_smoothing=0.1))
    logits = np.array([[2.0, 0.0, -1.0, 0.5]], np.float32)
    log_p = logits - np.log(np.exp(logits).sum())
    target = np.array([0.925, 0.025, 0.025, 0.025])
    ours = float(smooth(np.eye(4, dtype=np.float32)[:1], logits))
    assert ours == pytest.approx(-(target * log_p).sum(), rel=1e-6)


def test_efficient_recipe_is_the_papers():
    recipe = RECIPES["efficient"]
    facts = (recipe.batch_size, recipe.warmup_epochs, recipe.decay, recipe.epochs)
    assert facts == (1024, 5.0, "kernels", 120)
    assert RECIPES["baseline"].overrides == {"zero_gamma": False}
