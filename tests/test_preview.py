"""`preview` shows what training and evaluation are fed."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from keras_resnet import cli, data
from keras_resnet.data.grids import _caption


def test_preview_is_a_picture_of_both_splits(folder, tiny, tmp_path):
    shown = data.preview(folder, tiny.replace(mixup=0.2), tmp_path / "seen.png")
    assert shown == {"train": 24, "val": 12}
    with Image.open(tmp_path / "seen.png") as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image.convert("RGB")))) > 100


@pytest.mark.slow
def test_preview_takes_fewer_pictures_than_a_batch(folder, tiny, tmp_path):
    source = data.open_source(folder)
    shown = data.preview(source, tiny.replace(batch_size=1000), tmp_path / "seen.png")
    assert shown == {"train": 24, "val": 12}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ([0, 1, 0], "b"),
        ([0.25, 0, 0.75], "75% c + 25% a"),
        ([0.998, 0.002, 0], "a"),
        ([0.5, 0.5, 0], "50% a + 50% b"),
    ],
)
def test_preview_says_of_which_classes_a_picture_is(label, words):
    assert _caption(np.array(label), ("a", "b", "c")) == words


@pytest.mark.slow
def test_preview_command_takes_the_fields_of_a_recipe(folder, tmp_path):
    png = tmp_path / "seen.png"
    command = ["preview", str(folder), "--recipe", "demo", "--output", str(png)]
    result = CliRunner().invoke(
        cli.group, [*command, "--cutmix", "1.0", "--scales", "[32, 40]", "--json"]
    )
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown == {"path": str(png), "train": 24, "val": 12}
    assert png.stat().st_size > 10_000
