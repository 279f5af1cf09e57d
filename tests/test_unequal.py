"""Classes of unequal size: weights in the loss, and balanced epochs."""

import signal

import numpy as np
import pytest
from conftest import write_picture
from resume_program import RECIPE, pictures
from runs import differing, final, stop
from test_distillation import TEMPERATURE, batches, net

from keras_resnet import data, train
from keras_resnet.backend import keras
from keras_resnet.data.splits import Files
from keras_resnet.distillation import distill
from keras_resnet.errors import RecipeError
from keras_resnet.recipe import Recipe
from keras_resnet.recipes import RECIPES
from keras_resnet.train.objective import class_weights
from keras_resnet.train.trainable import Trainable

COUNTS = {"blue": 13, "green": 5, "red": 2}
WEIGHTS = np.array([0.5, 1.0, 2.0, 4.0])


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """A folder of three classes of unequal size."""
    root = tmp_path_factory.mktemp("unequal")
    for number, (name, count) in enumerate(COUNTS.items()):
        for index in range(count):
            path = root / "train" / name / f"{index}.png"
            write_picture(path, (80 * number, 40, 90), index)
        write_picture(root / "val" / name / "0.png", (80 * number, 40, 90), 99)
    return root


@pytest.fixture
def recipe(tiny):
    return tiny.replace(batch_size=5, sampling="balanced", mixup=0.0)


def numbers(folder, recipe, epochs):
    """The numbers of the images of each epoch, [epochs, images]."""
    source = data.open_source(folder)
    size = source.train.size
    # in place of the images, their numbers
    named = Files(tuple(source.train.files), tuple(range(size)))
    object.__setattr__(named, "all_labels", source.train.all_labels)
    named = data.Source("numbers", tuple(map(str, range(size))), named, None)
    batches = data.train_batches(named, recipe)
    steps = size // recipe.batch_size
    drawn = [y.numpy().argmax(1) for _, y in batches.take(epochs * steps)]
    return np.reshape(drawn, (epochs, -1)), source.train.all_labels()


def test_balanced_weights_are_those_of_scikit_learn(unequal):
    weights = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    source = data.open_source(unequal)
    truth = np.repeat([0, 1, 2], [*COUNTS.values()])
    ours = class_weights(Recipe(class_weights="balanced"), source)
    np.testing.assert_allclose(ours, weights("balanced", classes=np.arange(3), y=truth))
    named = class_weights(Recipe(class_weights={"red": 3}), source)
    assert named.tolist() == [1, 1, 3]
    assert class_weights(Recipe(), source) is None


def test_records_know_their_classes(unequal, tmp_path):
    data.prepare(unequal, tmp_path / "shards")
    kept, shards = (
        np.bincount(data.open_source(root).train.all_labels())
        for root in (unequal, tmp_path / "shards")
    )
    assert kept.tolist() == shards.tolist() == [*COUNTS.values()]


def test_mixed_image_has_the_mix_of_the_weighted_losses(float64):
    """By hand: a loss for each class, smoothed and distilled, times its share."""
    student, teacher = net(), net(depths=(2, 1), seed=1)
    model = distill(student, teacher, TEMPERATURE)
    model.class_weights = WEIGHTS
    smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model.compile("sgd", smooth)
    log = keras.ops.log_softmax
    for x, y in batches(2):
        z = student(x, training=False)
        found = model.compute_loss(x, y, z, training=True)
        answers = np.asarray(keras.ops.softmax(teacher(x) / TEMPERATURE))
        cooled, own = (np.asarray(log(it)) for it in (z / TEMPERATURE, z))
        by_hand = 0.0
        for image in range(len(x)):
            of_teacher = -(answers[image] * cooled[image]).sum() * TEMPERATURE**2
            for label in range(4):
                target = 0.9 * np.eye(4)[label] + 0.1 / 4
                of_label = -(target * own[image]).sum()
                share = y[image, label] * WEIGHTS[label]
                by_hand += share * (of_label + of_teacher) / len(x)
        assert float(found) == pytest.approx(by_hand, rel=1e-10)
        alone = model.compute_loss(x, y, z, training=False)
        plain = smooth(y, z)
        assert float(alone) == pytest.approx(float(plain), rel=1e-12)


def test_binary_loss_is_weighted_too():
    model = Trainable(net())
    model.class_weights = WEIGHTS
    model.compile("sgd", "binary_crossentropy")
    z = np.array([[0.3, -1.0, 2.0, 0.1]], np.float32)
    y = np.array([[0.25, 0.0, 0.0, 0.75]], np.float32)
    p = 1 / (1 + np.exp(-z.astype(np.float64)))
    each = [-np.log(np.where(np.eye(4)[k], p, 1 - p)).mean() for k in range(4)]
    found = model.compute_loss(None, y, 1 / (1 + np.exp(-z)), training=True)
    assert float(found) == pytest.approx((y[0] * WEIGHTS * each).sum(), rel=1e-5)


def test_balanced_epochs_have_as_many_images_of_each_class(unequal, recipe):
    drawn, classes = numbers(unequal, recipe, 30)
    for epoch in drawn:
        counts = np.bincount(classes[epoch])
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == 20
        images, times = np.unique(epoch, return_counts=True)
        assert (times[classes[images] == 0] == 1).all()  # there are enough of them
        assert {*images[classes[images] == 2]} == {18, 19}  # and few of these
    assert np.ptp(np.bincount(classes[drawn.ravel()])) <= 1
    assert len(np.unique(drawn)) == 20  # over the epochs, every image
    assert len({tuple(epoch) for epoch in drawn}) == 30


@pytest.mark.slow
def test_balanced_training_starts_at_any_position(unequal, recipe):
    whole = [y.numpy() for _, y in data.train_batches(unequal, recipe).take(12)]
    for place in (1, 4, 7):
        rest = data.train_batches(unequal, recipe, place // 4, place % 4)
        for (_, ours), theirs in zip(rest.take(5), whole[place:]):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_weights_sampling_and_mixing_resume_to_the_same_bits(tmp_path):
    recipe = RECIPE.replace(
        class_weights="balanced", sampling="balanced", label_smoothing=0.1
    )
    images = pictures()
    images["train"] = images["train"][0], np.repeat([0, 1, 2], [20, 9, 3])
    train.fit(recipe, images, tmp_path / "whole")
    stop(images, tmp_path / "cut", ("batch end", 1, 2), signal.SIGTERM, recipe)
    train.fit(recipe, images, tmp_path / "cut")
    assert differing(final(tmp_path / "whole"), final(tmp_path / "cut")) == []
    plain = recipe.replace(class_weights="")
    train.fit(plain, images, tmp_path / "plain")
    assert differing(final(tmp_path / "whole"), final(tmp_path / "plain"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"class_weights": "equal"}, "class_weights='equal': must be one of"),
        ({"class_weights": {"a": 0}}, "the weight of 'a' must be a number above 0"),
        ({"class_weights": {"a": "2"}}, "the weight of 'a' must be a number above 0"),
        ({"class_weights": 3}, "class_weights=3: must be dict"),
        ({"sampling": "fair"}, "sampling='fair': must be one of"),
        (
            {
                "class_weights": "balanced",
                "loss": "binary-cross-entropy",
                "binary_threshold": 0.2,
            },
            "labels above a threshold have no weights",
        ),
    ],
)
def test_bad_fields_are_refused(fields, words):
    with pytest.raises(RecipeError, match=words):
        Recipe(**fields)


@pytest.mark.parametrize(
    "fields", [{"class_weights": "balanced"}, {"sampling": "balanced"}]
)
def test_boxes_have_no_balance(fields):
    with pytest.raises(RecipeError, match="for classification alone"):
        RECIPES["transfer"].replace(**fields)


def test_weight_of_no_class_is_refused(unequal, tmp_path, tiny):
    recipe = tiny.replace(class_weights={"purple": 2.0}, batch_size=5)
    with pytest.raises(RecipeError, match="has no class 'purple'; its classes are"):
        train.fit(recipe, unequal, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_class_without_images_cannot_be_balanced(tmp_path):
    images = {**pictures(), "class_names": ["a", "b", "c", "d"]}
    with pytest.raises(RecipeError, match="class 'd' of arrays has no training images"):
        train.fit(RECIPE.replace(class_weights="balanced"), images, tmp_path / "run")
    assert not (tmp_path / "run").exists()
