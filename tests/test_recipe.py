"""A recipe is checked numbers, both ways through JSON and YAML."""

import json

import pytest
import yaml

from keras_resnet.errors import RecipeError
from keras_resnet.recipe import FIELD_TYPES, Recipe
from keras_resnet.recipes import RECIPES
from keras_resnet.weights.released import find


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
        ({"crop_pct": 0.0}, r"crop_pct=0.0.*are taken from weights, and weights="),
        ({"crop_pct": 1.1}, r"crop_pct=1.1: must be in \[0, 1\]"),
        ({"base_rate": float("nan")}, "base_rate=nan"),
        ({"base_rate": -0.1}, r"base_rate=-0.1: must be in \[0, inf\)"),
        ({"base_rate": float("inf")}, r"base_rate=inf"),
        ({"epochs": 3, "warmup_epochs": 3}, "warmup_epochs=3.0: must be less than epo"),
        ({"boundaries": [60, 30]}, r"boundaries=\(60, 30\): must be increasing"),
        ({"boundaries": [0, 30]}, r"boundaries=\(0, 30\): must each be at least 1"),
        ({"seed": 2**32}, r"seed=4294967296: must be in \[0, 4294967295\]"),
        ({"teacher_size": 64}, "teacher_size=64: needs a teacher; give one"),
        ({"overrides": {"depths": {1}}}, r"overrides=.*: must be JSON-serializable"),
        ({"epoch": 3, "seeds": 1}, "unknown recipe field 'epoch', 'seeds'"),
        ({"temperature": 20}, "teacher='', temperature=20.0: distillation needs both"),
        ({"teacher": "runs/a"}, "teacher='runs/a', temperature=0.0: dist.*needs both"),
        ({"temperature": -1}, r"temperature=-1.0: must be in \[0, inf\)"),
        ({"ema": 1.0}, r"ema=1.0: must be in \[0, 1\)"),
        ({"accumulate": 3}, "accumulate=3: must divide batch_size=256"),
        ({"accumulate": 0}, r"accumulate=0: must be in \[1, inf\)"),
        ({"repeats": 0}, r"repeats=0: must be in \[1, inf\)"),
        (
            {"schedule": "plateau"},
            "schedule='plateau', warmup_epochs=5.0.* needs warmup",
        ),
        (
            {"schedule": "plateau", "warmup_epochs": 0, "validate_every": 2},
            "schedule='plateau', .*validate_every=2: plateau needs .*validate_every=1",
        ),
        ({"stage_rates": [1, -1]}, r"stage_rates=\(1.0, -1.0\): must each be in \[0"),
        ({"stage_rates": "ab"}, "stage_rates='ab': must be a list of numbers"),
        ({"optimizer": "adam"}, "optimizer='adam': must be one of.*sgd.*adamw.*lamb"),
        ({"loss": "mse"}, "loss='mse': must be one of.*binary-cross-entropy"),
        ({"smoothing": "some"}, "smoothing='some': must be one of.*other-classes"),
        ({"distillation": "soft"}, "distillation='soft': must be one of.*gluon"),
        ({"initializer": "ones"}, "initializer='ones': must be one of.*xavier"),
        (
            {"binary_threshold": 0.2},
            "binary_threshold=0.2, loss='cross-entropy': needs",
        ),
        ({"test_size": 0}, "test_size=0, .*are taken from weights, and weights=''"),
        ({"freeze_statistics": 1}, "freeze_statistics=1: must be bool"),
        ({"schedule": "linear"}, "schedule='linear'.*cosine.*steps"),
        ({"precision": "float8"}, "precision='float8'"),
        ({"overrides": [1]}, "overrides=\\[1\\]: must be dict"),
        ({"boundaries": 30}, "boundaries=30: must be a list of integers"),
        ({"scales": "ab"}, "scales='ab': must be a list of integers"),
        ({"scales": [256]}, r"scales=\(256,\): must be empty, or the smallest"),
        ({"scales": [128, 480]}, r"scales=\(128, 480\).*train_size=224"),
        ({"colours": "all"}, "colours='all': must be one of.*hue-saturation"),
        ({"rand_augment": 11}, r"rand_augment=11.0: must be in \[0, 10\]"),
        ({"rand_augment_ops": 0}, r"rand_augment_ops=0: must be in \[1, inf\)"),
        ({"erasing": 1.5}, r"erasing=1.5: must be in \[0, 1\]"),
        ({"monitor": "val_loss"}, "monitor='val_loss': must be one of.*val_ema_top1"),
        ({"monitor": "val_ema_top1"}, "monitor='val_ema_top1', ema=0.0: needs a mov"),
        ({"early_stopping": -1}, r"early_stopping=-1: must be in \[0, inf\)"),
        ({"eval_batch_size": -1}, r"eval_batch_size=-1: must be in \[0, inf\)"),
        ({"max_bad_examples": -1}, r"max_bad_examples=-1: must be in \[0, inf\)"),
    ],
)
def test_bad_field_is_refused_by_name(fields, words):
    with pytest.raises(RecipeError, match=words):
        Recipe.from_dict(fields)
    with pytest.raises(RecipeError, match=words):
        Recipe().replace(**fields)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, "None: must be a mapping of Recipe fields"),
        ([1], r"\[1\]: must be a mapping of Recipe fields"),
        ({1: 2, "a": 3}, "unknown recipe field 1, 'a'"),
    ],
)
def test_what_is_no_mapping_of_fields_is_refused(values, words):
    with pytest.raises(RecipeError, match=words):
        Recipe.from_dict(values)


def test_overrides_are_the_recipes_own_and_as_a_file_gives_them_back():
    overrides = {"depths": (1, 2, 1, 1)}
    recipe = Recipe(overrides=overrides)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    overrides["width"] = 8
    assert recipe.overrides == {"depths": [1, 2, 1, 1]}


def test_numbers_of_yaml_may_be_without_a_point(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("weight_decay: 1e-4\nbase_rate: 5E-3\nseed: 3\nname: 1e-4x\n")
    expected = Recipe(weight_decay=1e-4, base_rate=5e-3, seed=3, name="1e-4x")
    assert Recipe.read(path) == expected


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [", "just words"])
def test_file_that_is_no_recipe_is_refused(text, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        Recipe.read(path)


def said(name, fields):
    return {field: getattr(RECIPES[name], field) for field in fields.split()}


def test_recipes_are_the_published_ones():
    assert list(RECIPES) == [
        "baseline",
        "efficient",
        "bag-of-tricks",
        "bag-of-tricks-distilled",
        "bag-of-tricks-mobilenet",
        "bag-of-tricks-inception-v3",
        "gluon",
        "resnet-2015",
        "rsb-a1",
        "rsb-a2",
        "rsb-a3",
        "ra4",
        *(f"resnet-rs-{depth}" for depth in (50, 101, 152, 200, 270, 350, 420)),
        "fine-tune",
        "transfer",
        "demo",
        "smoke",
    ]
    fields = "batch_size base_rate epochs warmup_epochs schedule boundaries decay"
    assert list(said("baseline", fields).values()) == [
        256, 0.1, 120, 0.0, "steps", (30, 60, 90), "all",
    ]  # fmt: skip
    assert list(said("efficient", fields).values()) == [
        1024, 0.1, 120, 5.0, "steps", (30, 60, 90), "kernels",
    ]  # fmt: skip
    assert list(said("bag-of-tricks", fields).values()) == [
        1024, 0.1, 200, 5.0, "cosine", (), "kernels",
    ]  # fmt: skip
    # tables 3 to 5: the baseline is of 3.8 GMACs, the efficient row of table 6 of 4.3
    assert RECIPES["baseline"].model == "resnet50a"
    assert RECIPES["efficient"].model == RECIPES["bag-of-tricks"].model == "resnet50d"
    assert RECIPES["baseline"].overrides["zero_gamma"] is False
    assert "zero_gamma" not in RECIPES["efficient"].overrides
    assert all(
        recipe.nesterov for recipe in RECIPES.values() if recipe.name[:6] != "resnet"
    )
    tricks = [name for name in RECIPES if name.startswith("bag-of-tricks")]
    for name in (*tricks, "gluon"):
        assert said(name, "mixup label_smoothing momentum weight_decay") == {
            "mixup": 0.2,
            "label_smoothing": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
        }
    assert said("bag-of-tricks-distilled", "teacher temperature distillation") == {
        "teacher": "resnet152d:imagenet",
        "temperature": 20.0,
        "distillation": "paper",
    }
    differing = [
        field
        for field in FIELD_TYPES
        if getattr(RECIPES["gluon"], field) != getattr(RECIPES["bag-of-tricks"], field)
    ]
    assert differing == [
        "name", "initializer", "colours", "interpolation", "smoothing", "distillation",
    ]  # fmt: skip
    assert RECIPES["gluon"].distillation == "gluon"  # its script's weights, with one
    assert said("resnet-2015", "schedule scales nesterov model decay") == {
        "schedule": "plateau",
        "scales": (256, 480),
        "nesterov": False,
        "model": "resnet50a",
        "decay": "all",
    }


@pytest.mark.parametrize(
    ("depth", "size", "dropout", "drop_path"),
    [
        (50, 160, 0.25, 0.0),
        (101, 192, 0.25, 0.0),
        (152, 256, 0.25, 0.0),
        (200, 256, 0.25, 0.1),
        (270, 256, 0.25, 0.1),
        (350, 320, 0.4, 0.1),
        (420, 320, 0.4, 0.1),
    ],
)
def test_resnet_rs_is_as_its_authors_configured_it(depth, size, dropout, drop_path):
    recipe = RECIPES[f"resnet-rs-{depth}"]
    assert recipe.model == f"resnetrs{depth}"
    assert recipe.overrides == {"dropout": dropout, "drop_path": drop_path}
    assert recipe.train_size == recipe.test_size == size
    assert (recipe.epochs, recipe.batch_size, recipe.weight_decay) == (350, 4096, 4e-5)
    averaged = (recipe.schedule, recipe.ema, recipe.label_smoothing)
    assert averaged == ("cosine", 0.9999, 0.1)
    assert recipe.base_rate * recipe.batch_size / 256 == 1.6


def test_ra4_has_the_mean_of_its_tags():
    recipe = RECIPES["ra4"]
    tag = find("resnet50d", "ra4_e3600_r224_in1k")
    assert tuple(recipe.overrides["mean"]) == tag.mean
    assert tuple(recipe.overrides["std"]) == tag.std
    assert (recipe.train_size, recipe.epochs) == (tag.train_size, 3600)
    rule = (recipe.optimizer, recipe.betas, recipe.weight_decay)
    assert rule == ("adamw", (0.6, 0.995), 0.06)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        # epochs, train size, decay, smoothing, mixup, magnitude, drop path, repeats
        ("rsb-a1", (600, 224, 0.01, 0.1, 0.2, 7.0, 0.05, 3)),
        ("rsb-a2", (300, 224, 0.02, 0.0, 0.1, 7.0, 0.05, 3)),
        ("rsb-a3", (100, 160, 0.02, 0.0, 0.1, 6.0, 0.0, 1)),
    ],
)
def test_resnet_strikes_back_is_as_in_its_table(name, numbers):
    recipe = RECIPES[name]
    assert numbers == (
        recipe.epochs,
        recipe.train_size,
        recipe.weight_decay,
        recipe.label_smoothing,
        recipe.mixup,
        recipe.rand_augment,
        recipe.overrides.get("drop_path", 0.0),
        recipe.repeats,
    )
    assert (recipe.batch_size, recipe.optimizer, recipe.cutmix) == (2048, "lamb", 1.0)
    assert (recipe.loss, recipe.rand_augment_std) == ("binary-cross-entropy", 0.5)
    assert (recipe.test_size, recipe.crop_pct) == (224, 0.95)


def test_published_runs_decode_in_full_and_ones_own_smaller():
    on = [name for name, recipe in RECIPES.items() if recipe.scaled_decode]
    assert on == ["fine-tune", "transfer", "smoke"]
    assert Recipe().scaled_decode


def test_saved_recipe_without_scaled_decode_is_of_a_version_that_had_it_not(tmp_path):
    values = Recipe().to_dict()
    del values["scaled_decode"]
    saved, written = tmp_path / "recipe.json", tmp_path / "recipe.yaml"
    saved.write_text(json.dumps(values))
    written.write_text("train_size: 160")
    assert Recipe.read(saved) == Recipe(scaled_decode=False)
    assert Recipe.read(written) == Recipe(train_size=160)
    saved.write_text(json.dumps(Recipe().to_dict()))
    assert Recipe.read(saved) == Recipe()
