"""A soup is the mean that a loop by hand gives, with statistics of its own."""

import functools
import json

import numpy as np
import pytest

import keras_resnet
from keras_resnet import data, evaluate
from keras_resnet.backend import keras
from keras_resnet.errors import DataError, ModelError
from keras_resnet.evaluate.soups import estimate_statistics
from keras_resnet.info import Protocol
from keras_resnet.layers import BatchNormalization
from keras_resnet.model import rebuild
from keras_resnet.opening import open_model

STATISTICS = ("moving_mean", "moving_variance")


def weights(model):
    return {it.path: np.float64(it.numpy()) for it in model.weights}


def give(model, values):
    for variable in model.weights:
        variable.assign(values[variable.path])
    return model


def disturbed(run, path, seed, scale, kept="nothing"):
    """Writes the model of a run with noise on its weights, except those `kept`."""
    model, drawn = open_model(run), np.random.default_rng(seed)
    for variable in model.weights:
        if kept not in variable.path:
            noise = scale * drawn.normal(size=variable.shape)
            is_variance = variable.path.endswith("variance")
            variable.assign_add(np.abs(noise) if is_variance else noise)
    model.save(path)
    return path


def mean_by_hand(models, images):
    """The mean of open models, with the statistics of these images."""
    every = [weights(model) for model in models]
    mean = give(rebuild(models[0], classifier_activation="softmax"), {
        path: np.mean([it[path] for it in every], axis=0) for path in every[0]
    })  # fmt: skip
    estimate_statistics(mean, [images])
    return mean


@pytest.fixture(scope="module")
def arrays(folder):
    """The pictures of the folder, whose JPEG is not decoded again and again."""
    source = data.open_source(folder)

    def pair(split):
        images, labels = zip(*split.ordered().as_numpy_iterator())
        return np.stack([data.decode_image(it) for it in images]), np.array(labels)

    pairs = {name: pair(split) for name, split in source.splits.items()}
    return {**pairs, "class_names": source.class_names}


@pytest.fixture(scope="module")
def crops(arrays, trained):
    """The training images, cropped as in evaluation."""
    protocol = trained[1].info.protocol
    return np.stack([data.load_eval(it, protocol) for it in arrays["train"][0]])


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """Of noise, good, and good; in this order."""
    place = tmp_path_factory.mktemp("models")
    noise = disturbed(trained[0], place / "noise.keras", 0, 20.0)
    return [noise, trained[0], disturbed(trained[0], place / "near.keras", 1, 0.01)]


def test_statistics_are_those_of_a_pass_by_hand():
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 1, use_bias=False, name="a")(inputs)
    x = BatchNormalization(name="ours")(x)
    x = keras.layers.Dropout(0.5, name="drop")(keras.layers.ReLU()(x))
    x = keras.layers.BatchNormalization(epsilon=1e-5, name="theirs")(x)
    x = keras.layers.Conv2D(5, 1, use_bias=False, name="b")(x)
    x = BatchNormalization(trainable=False, name="frozen")(x)
    net = keras.Model(inputs, BatchNormalization(name="last")(x))
    drawn = np.random.default_rng(0)
    for weight in net.weights:
        weight.assign(drawn.uniform(0.5, 1.5, weight.shape))
    given = weights(net)
    batches = [drawn.normal(2, 3, (4, 5, 6, 3)).astype("f4") for _ in range(3)]

    def by_batch(x, name, unbiased):
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        n = x.size / x.shape[-1]
        found.setdefault(name, []).append((mean, variance * n / (n - unbiased)))
        return normalized(x, name, mean, variance)

    def normalized(x, name, mean, variance):
        scaled = given[f"{name}/gamma"] / np.sqrt(variance + 1e-5)
        return (x - mean) * scaled + given[f"{name}/beta"]

    found = {}
    for batch in np.float64(batches):
        x = by_batch(batch @ given["a/kernel"][0, 0], "ours", 1)
        x = by_batch(np.maximum(x, 0), "theirs", 0) @ given["b/kernel"][0, 0]
        moving = (given[f"frozen/{it}"] for it in STATISTICS)
        by_batch(normalized(x, "frozen", *moving), "last", 1)

    estimate_statistics(net, batches)
    now = weights(net)
    for name, values in found.items():
        for statistic, expected in zip(STATISTICS, np.mean(values, axis=0)):
            path = f"{name}/{statistic}"
            np.testing.assert_allclose(now.pop(path), expected, rtol=2e-5, atol=2e-5)
    for path, value in now.items():  # frozen statistics among them
        np.testing.assert_array_equal(value, given[path], path)
    assert (net.get_layer("ours").momentum, net.get_layer("drop").rate) == (0.9, 0.5)
    assert net.get_layer("theirs").trainable
    assert not net.get_layer("frozen").trainable


def test_no_batches_change_nothing():
    net = keras.Sequential([keras.Input((2, 2, 3)), BatchNormalization()])
    with pytest.raises(DataError, match="batches: there are none"):
        estimate_statistics(net, iter([]))
    assert net.layers[0].momentum == 0.9
    np.testing.assert_array_equal(net.layers[0].moving_variance, 1)


def test_uniform_soup_is_the_mean_in_float64(models, arrays, crops):
    soup, result = evaluate.soup(models, arrays, "uniform")
    opened = [open_model(it) for it in models]
    expected = weights(mean_by_hand(opened, crops))
    for path, value in weights(soup).items():
        if path.endswith(STATISTICS):
            np.testing.assert_allclose(value, expected[path], 1e-4, 1e-5, path)
        else:
            np.testing.assert_allclose(value, expected[path], 1.2e-7, err_msg=path)
    assert soup.info == opened[0].info
    assert soup.get_config() == opened[0].get_config()
    assert [it["used"] for it in result["models"]] == [True] * 3
    assert result["top1"] == evaluate.run(soup, arrays)["top1"]
    assert result["examples"] == 12


@pytest.mark.slow
def test_greedy_soup_is_that_of_a_loop_by_hand(models, arrays, crops):
    soup, result = evaluate.soup(models, arrays)
    opened = [open_model(it) for it in models]

    @functools.cache
    def top1(model):
        return evaluate.run(model, arrays)["top1"]

    ranked = sorted(opened, key=top1, reverse=True)
    used, best = ranked[:1], ranked[0]
    for model in ranked[1:]:
        mean = mean_by_hand([*used, model], crops)
        if top1(mean) >= top1(best):
            used, best = [*used, model], mean
    assert [it["used"] for it in result["models"]] == [it in used for it in opened]
    assert [it["used"] for it in result["models"]] == [False, True, True]
    assert [it["top1"] for it in result["models"]] == [*map(top1, opened)]
    assert result["top1"] == top1(best)
    expected = weights(best)
    for path, value in weights(soup).items():
        np.testing.assert_allclose(value, expected[path], 1e-4, 1e-5, path)


@pytest.mark.slow
def test_greedy_soup_of_one_is_that_model(models, arrays):
    soup, result = evaluate.soup(models[:2], arrays)
    assert [it["used"] for it in result["models"]] == [False, True]
    expected = weights(open_model(models[1]))
    for path, value in weights(soup).items():
        np.testing.assert_array_equal(value, expected[path], path)


@pytest.mark.slow
def test_statistics_that_are_equal_in_all_models_stay(trained, arrays, tmp_path):
    near = disturbed(trained[0], tmp_path / "near.keras", 2, 0.01, kept="stem")
    soup, _ = evaluate.soup([trained[0], near], arrays, "uniform")
    before, after = weights(trained[1]), weights(soup)
    moving = [path for path in after if path.endswith(STATISTICS)]
    same = [path for path in moving if np.array_equal(before[path], after[path])]
    assert same == [path for path in moving if "stem" in path]
    assert 0 < len(same) < len(moving)


def other(path, **changes):
    """Writes a net that is the trained one's but for these changes."""
    fields = {"width": 8, "depths": (1, 1), "classes": 3, "drop_path": 0.1}
    info = {"class_names": ("blue", "green", "red"), "protocol": Protocol(32)}
    info |= {name: changes.pop(name) for name in info.keys() & changes}
    net = keras_resnet.create("resnet18d", **fields | changes)
    net.info = net.info.replace(**info)
    net.save(path)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depths": (1, 2)}, r"has config.depths=\(1, 2\), and .*tiny \(1, 1\)"),
        ({"class_names": ("blue", "red", "green")}, r"has class_names\[1\]='red', and"),
        ({"classes": 4, "class_names": None}, "has classes=4, and .*tiny 3"),
        ({"protocol": Protocol(224)}, "has protocol.size=224, and .*tiny 32"),
    ],
)
def test_models_that_differ_are_named_with_the_field(
    changes, words, trained, folder, tmp_path, call
):
    file = other(tmp_path / "other.keras", **changes)
    with pytest.raises(ModelError, match=f"^{file}: {words}"):
        evaluate.soup([trained[0], file], folder)
    done = call("soup", trained[0], file, folder, "--out", "it.keras", cwd=tmp_path)
    assert (done.returncode, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert [*tmp_path.iterdir()] == [file]


def test_what_no_soup_is_made_of_is_named(trained, folder):
    with pytest.raises(ModelError, match="kind='thick': must be one of greedy, unif"):
        evaluate.soup([trained[0]] * 2, folder, "thick")
    with pytest.raises(ModelError, match=r"models=.*tiny.*: a soup needs two or more"):
        evaluate.soup([trained[0]], folder)
    with pytest.raises(ModelError, match="nowhere: neither a run directory"):
        evaluate.soup([trained[0], "nowhere"], folder)


@pytest.mark.slow
def test_command_writes_a_model_for_other_commands(models, folder, tmp_path, call):
    asked = ("--out", "a.keras", "--json")
    done = call("soup", *models[:2], folder, *asked, cwd=tmp_path)
    assert done.returncode == 0, done.err
    result = json.loads(done.out)
    assert (result["kind"], result["path"]) == ("greedy", "a.keras")
    assert [it["model"] for it in result["models"]] == [*map(str, models[:2])]
    assert [it["used"] for it in result["models"]] == [False, True]
    measured = call("evaluate", "a.keras", folder, "--json", cwd=tmp_path)
    assert json.loads(measured.out)["top1"] == result["top1"]
    asked = ("--out", "b.keras", "--kind", "uniform")
    assert "uniform soup" in call("soup", *models[1:], folder, *asked, cwd=tmp_path).out
    assert sorted(it.name for it in tmp_path.iterdir()) == ["a.keras", "b.keras"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "photos", "--out", "it.keras"], "RUN...: give two or more"),
        (["a", "b", "photos", "--out", "it.h5"], "must end in .keras"),
        (["a", "b", "photos", "--out", "no/it.keras"], "in a folder that exists"),
        (["a", "b", "photos"], "Missing option '--out'"),
    ],
)
def test_wrong_arguments_are_named(arguments, words, call, tmp_path):
    done = call("soup", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.err
    assert [*tmp_path.iterdir()] == []
