"""tools/transfer.py: exact boxes and masks, of digits that no training has seen."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import transfer

pytest.importorskip("skimage")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "COUNTS", {"train": 12, "val": 8})
        root = tmp_path_factory.mktemp("scenes")
        transfer.compose(root)
        return root


@pytest.mark.parametrize("split", transfer.SPLITS)
def test_boxes_are_the_extents_of_the_masks(root, split):
    said = json.loads((root / "detect" / f"{split}.json").read_text())
    digits = 0
    for entry in said["images"]:
        name = entry["file_name"]
        both = [
            Image.open(root / folder / name)
            for folder in (f"detect/{split}", f"segment/{split}/images")
        ]
        assert np.array_equal(*both)
        assert both[0].size == (entry["width"], entry["height"])
        mask = np.array(Image.open(root / "segment" / split / "masks" / name))
        for it in said["annotations"]:
            if it["image_id"] != entry["id"]:
                continue
            left, top, width, height = it["bbox"]
            inside = mask[top : top + height, left : left + width]
            assert set(np.unique(inside)) <= {0, it["category_id"]}
            is_digit = inside > 0
            assert is_digit.sum() == it["area"]
            for edge in (is_digit[0], is_digit[-1], is_digit[:, 0], is_digit[:, -1]):
                assert edge.any()
            inside[:] = 0
            digits += 1
        assert not mask.any()  # every pixel of a digit is in a box
    assert digits == len(said["annotations"]) > 10


def test_no_training_sees_a_test_digit_or_a_test_photograph():
    indices = transfer.held_out()
    assert len(np.union1d(*indices.values())) == 1797
    assert not np.intersect1d(*indices.values()).size
    assert not {*transfer.PHOTOGRAPHS["train"]} & {*transfer.PHOTOGRAPHS["val"]}
    draw = np.random.default_rng(0)
    for split in transfer.SPLITS:
        made = [transfer._scene(split, draw) for _ in range(10)]
        assert {it for scene in made for it in scene.sources} <= {*indices[split]}


def test_pictures_are_those_of_their_seed():
    one, again, other = (transfer.digits(seed) for seed in (1, 1, 2))
    for split in transfer.SPLITS:
        np.testing.assert_array_equal(one[split][0], again[split][0])
    assert not np.array_equal(one["train"][0], other["train"][0])
    np.testing.assert_array_equal(one["val"][0], other["val"][0])
