"""Small data sets of colored rectangles with exact boxes and masks."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("red", "green", "blue")
SIDE = 128


def scenes(count, seed=0):
    """Images with rectangles of three colors on noise: (images, boxes, masks)."""
    drawn = np.random.default_rng(seed)
    images = drawn.integers(90, 166, (count, SIDE, SIDE, 3)).astype("float32")
    boxes = np.zeros((count, 2, 4), "float32")
    labels = np.full((count, 2), -1)
    masks = np.zeros((count, SIDE, SIDE), "int32")
    for number in range(count):
        for place in range(2 if number % 3 else 1):
            side = int(drawn.integers(28, 56))
            left = int(drawn.integers(2, 62 - side)) + 64 * place
            top = int(drawn.integers(2, SIDE - side - 2))
            label = int(drawn.integers(3))
            area = np.s_[number, top : top + side, left : left + side]
            images[area] = np.eye(3)[label] * 255
            masks[area] = label + 1
            boxes[number, place] = left, top, left + side, top + side
            labels[number, place] = label
    return images, {"boxes": boxes, "labels": labels}, masks


def write_boxes(root: Path, train: int = 8, val: int = 4) -> Path:
    """A folder in COCO's format."""
    for seed, (split, count) in enumerate({"train": train, "val": val}.items()):
        images, target, _ = scenes(count, seed)
        (root / split).mkdir(parents=True)
        rows = []
        for number in range(count):
            Image.fromarray(np.uint8(images[number])).save(
                root / split / f"{number}.png"
            )
            pairs = zip(target["boxes"][number].tolist(), target["labels"][number])
            for (left, top, right, bottom), label in pairs:
                if label >= 0:
                    box = [left, top, right - left, bottom - top]
                    rows.append(
                        {
                            "id": len(rows) + 1,
                            "image_id": number,
                            "category_id": int(label) + 1,
                            "bbox": box,
                        }
                    )
        content = {
            "images": [
                {"id": number, "file_name": f"{number}.png"} for number in range(count)
            ],
            "annotations": rows,
            "categories": [
                {"id": number, "name": name} for number, name in enumerate(NAMES, 1)
            ],
        }
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def write_masks(root: Path, train: int = 8, val: int = 4) -> Path:
    """A folder of images and masks, 0 for the background."""
    for seed, (split, count) in enumerate({"train": train, "val": val}.items()):
        images, _, masks = scenes(count, seed)
        for kind, arrays in (("images", images), ("masks", masks)):
            folder = root / split / kind
            folder.mkdir(parents=True)
            for number, array in enumerate(arrays):
                Image.fromarray(np.uint8(array)).save(folder / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(["none", *NAMES]))
    return root
