"""Data sets with boxes and with masks: layouts, pixels, counts, and broken files."""

import copy
import json
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnet.data.annotated import entries, listing, pixels
from keras_resnet.data.annotated.opening import open_annotated
from keras_resnet.data.folders import map_files
from keras_resnet.errors import DataError

SIZE = (40, 30)  # width, height
IMAGES = [
    {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
    {"id": 3, "file_name": "b.jpg", "width": 40, "height": 30},
    {"id": 9, "file_name": "c.jpg"},
]
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 2, "name": "cat"}]
ANNOTATIONS = [
    {"id": 1, "image_id": 9, "category_id": 18, "bbox": [1.5, 2.25, 10, 20]},
    {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1},
    {"id": 3, "image_id": 7, "category_id": 2, "bbox": [3, 4, 5, 6], "iscrowd": 0},
    {"id": 4, "image_id": 9, "category_id": 2, "bbox": [30, 20, 10, 10]},
]
COCO = {"images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES}
NOTHING = dict.fromkeys(
    ["clipped", "left out: empty", "left out: outside", "left out: unknown class"], 0
)


def write_image(file, size=SIZE, mode="RGB", **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, **options).save(file)


def write_text(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def write_coco(root, content=COCO, file="train.json", folder="train"):
    write_text(root / file, json.dumps(content))
    for image in IMAGES:
        write_image(root / folder / image["file_name"])
    return root


def voc_object(name="dog", box=(1, 1, 40, 30), extra=""):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box)
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


def voc_file(*objects, size="<size><width>40</width><height>30</height></size>"):
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def write_voc(root, files, split="train"):
    """Writes {stem: XML} in the layout of VOC's own folders."""
    for stem, text in files.items():
        write_image(root / "JPEGImages" / f"{stem}.jpg")
        write_text(root / "Annotations" / f"{stem}.xml", text)
    write_text(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(files) + "\n")
    return root


def write_mask(file, numbers):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(numbers, np.uint8))
    image.putpalette([200, 10, 30, 90, 255, 7] * 128)
    image.save(file)


def write_masks(root, splits=("train",), classes="sky\nroad\ntree\n"):
    random = np.random.default_rng(0)
    for split in splits:
        for name in "ab":
            write_image(root / split / "images" / f"{name}.jpg")
            write_mask(
                root / split / "masks" / f"{name}.png",
                random.choice([0, 1, 2, 255], SIZE[::-1]),
            )
    write_text(root / "classes.txt", classes)
    return root


def grey_png(numbers, depth):
    """A grey PNG of few bits, which Pillow reads but does not write."""
    bits = np.unpackbits(np.asarray(numbers, np.uint8)[..., None], axis=-1)
    rows = np.packbits(bits[..., -depth:].reshape(len(numbers), -1), axis=-1)
    packed = b"".join(b"\0" + row.tobytes() for row in rows)
    height, width = np.shape(numbers)

    def chunk(name, content):
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(packed)),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize(
    ("file", "folder"),
    [
        ("train.json", "train"),
        ("train.json", "images/train"),
        ("train.json", "images"),
        ("train.json", "."),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train.json", "train"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_coco_is_found_in_each_layout(file, folder, tmp_path):
    root = write_coco(tmp_path, file=file, folder=folder)
    source = open_annotated(root, "detect")
    names = [os.path.relpath(name, root / folder) for name in source.train.files]
    assert names == ["a.jpg", "b.jpg", "c.jpg"]
    assert source.val is None
    assert (source.path, source.task) == (str(root), "detect")


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
@pytest.mark.parametrize("file", ["{}.json", "{}/_annotations.coco.json"])
def test_coco_validation_has_three_names(name, file, tmp_path):
    write_coco(tmp_path, file=file.format(name), folder=name)
    write_coco(tmp_path)
    source = open_annotated(str(tmp_path), "detect")
    assert source.val.size == source.train.size == 3
    assert list(source.counts) == ["train", "val"]


def test_coco_boxes_are_corners_and_labels_follow_the_category_ids(tmp_path):
    source = open_annotated(write_coco(tmp_path), "detect")
    split = source.train
    assert source.class_names == ("cat", "dog")
    assert split.ids == (7, 3, 9)
    np.testing.assert_array_equal(split.offsets, [0, 2, 2, 4])
    np.testing.assert_array_equal(
        split.boxes,
        [[0, 0, 40, 30], [3, 4, 8, 10], [1.5, 2.25, 11.5, 22.25], [30, 20, 40, 30]],
    )
    np.testing.assert_array_equal(split.labels, [0, 0, 1, 0])
    np.testing.assert_array_equal(split.crowd, [True, False, False, False])
    kinds = [split.offsets, split.boxes, split.labels, split.crowd]
    assert [kind.dtype for kind in kinds] == ["int64", "float32", "int64", "bool"]
    counts = {"pictures": 3, "boxes": 4, "without boxes": 1, "crowd": 1, **NOTHING}
    assert source.counts == {"train": counts}
    assert source.notes == ()


def test_voc_boxes_count_pixels_from_one_to_the_last(tmp_path):
    files = {
        "b": voc_file(
            voc_object("dog", (1, 1, 40, 30)),
            voc_object("cat", (5, 6, 5, 6), "<difficult>1</difficult>"),
        ),
        "a": voc_file(size=""),
    }
    source = open_annotated(write_voc(tmp_path, files), "detect")
    split = source.train
    assert source.class_names == ("cat", "dog")
    assert [os.path.basename(file) for file in split.files] == ["b.jpg", "a.jpg"]
    assert split.ids == (1, 2)
    np.testing.assert_array_equal(split.boxes, [[0, 0, 40, 30], [4, 5, 5, 6]])
    np.testing.assert_array_equal(split.labels, [1, 0])
    np.testing.assert_array_equal(split.crowd, [False, True])
    assert source.counts["train"]["without boxes"] == 1


def test_voc_is_found_beside_the_pictures_with_classes_of_both_splits(tmp_path):
    for split, name in (("train", "dog"), ("valid", "cat")):
        write_image(tmp_path / split / "x.png")
        write_text(tmp_path / split / "x.xml", voc_file(voc_object(name)))
        write_text(tmp_path / split / "README.txt", "")
    source = open_annotated(tmp_path, "detect")
    assert source.class_names == ("cat", "dog")
    assert [source.train.labels.tolist(), source.val.labels.tolist()] == [[1], [0]]


def test_classes_txt_gives_the_order_and_other_classes_are_left_out(tmp_path):
    objects = [voc_object(name) for name in ("cat", "cow", "dog")]
    root = write_voc(tmp_path, {"x": voc_file(*objects)})
    write_text(root / "classes.txt", "\ufeffdog\r\ncat\n\n")
    source = open_annotated(root, "detect")
    assert source.class_names == ("dog", "cat")
    assert source.train.labels.tolist() == [1, 0]
    assert source.counts["train"]["left out: unknown class"] == 1
    (note,) = source.notes
    assert "x.xml: object 2 (cow) of picture x.jpg: left out, as its class" in note


def test_segmentation_layouts(tmp_path):
    source = open_annotated(write_masks(tmp_path, ("train", "val")), "segment")
    assert source.class_names == ("sky", "road", "tree")
    assert source.counts == {"train": {"pictures": 2}, "val": {"pictures": 2}}
    assert source.task == "segment"
    voc = tmp_path / "voc"
    write_image(voc / "JPEGImages" / "x.jpg")
    write_mask(voc / "SegmentationClass" / "x.png", np.full(SIZE[::-1], 20))
    write_text(voc / "ImageSets" / "Segmentation" / "val.txt", "x\n")
    source = open_annotated(voc, "segment")
    assert source.train is None
    assert len(source.class_names) == source.val.classes == 21
    assert source.class_names[0] == "background"
    assert source.class_names[20] == "tvmonitor"
    assert (source.val.truth(0) == 20).all()


BOXES = {  # COCO's box: (the kind, the clipped corners)
    (-5, 10, 10, 10): ("clipped", [0, 10, 5, 20]),
    (35, 25, 100, 1e29): ("clipped", [35, 25, 40, 30]),
    (30.005, 20, 10, 10): (None, [30.005, 20, 40, 30]),  # rounded by COCO
    (0, 0, 0, 5): ("left out: empty", None),
    (10, 10, 5, -5): ("left out: empty", None),
    (10, 10, 1e-9, 5): ("left out: empty", None),
    (40, 0, 5, 5): ("left out: outside", None),
    (-9, 0, 9, 5): ("left out: outside", None),
    (0, 1e29, 5, 5): ("left out: empty", None),  # 5 is less than float64 resolves
}


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("sized", [True, False])
def test_boxes_are_clipped_or_left_out(box, sized, tmp_path):
    kind, corners = BOXES[box]
    content = copy.deepcopy(COCO)
    content["annotations"] = [{**ANNOTATIONS[0], "id": 55, "bbox": box}]
    if not sized:
        content["images"] = [
            {"id": image["id"], "file_name": image["file_name"]} for image in IMAGES
        ]
    source = open_annotated(write_coco(tmp_path, content), "detect")
    boxes = source.train.truth(2)["boxes"]
    np.testing.assert_allclose(boxes, np.reshape(corners or [], (-1, 4)), rtol=1e-6)
    expected = {**NOTHING, **({kind: 1} if kind else {})}
    counts = source.counts["train"]
    assert {name: counts[name] for name in NOTHING} == expected
    assert counts["without boxes"] == 3 - len(boxes)
    assert len(source.notes) == sum(expected.values())
    for note in source.notes:
        assert "annotation 55 of category 18 in image 9 ('c.jpg'): " in note
        assert ("clipped" if kind == "clipped" else "left out") in note


def test_notes_name_five_annotations_of_each_kind_and_counts_all(tmp_path):
    boxes = [[-1, 0, 5, 5]] * 7 + [[50, 0, 5, 5]] * 8
    annotations = [
        {"id": n, "image_id": 7, "category_id": 18, "bbox": box}
        for n, box in enumerate(boxes)
    ]
    root = write_coco(tmp_path, {**COCO, "annotations": annotations})
    source = open_annotated(root, "detect")
    assert source.counts["train"]["clipped"] == 7
    assert source.counts["train"]["left out: outside"] == 8
    named = [int(note.split("annotation ")[1].split()[0]) for note in source.notes]
    assert named == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]


def test_pictures_without_any_box_are_a_split(tmp_path):
    root = write_coco(tmp_path, {**COCO, "annotations": []})
    split = open_annotated(root, "detect").train
    assert (split.size, split.most, split.boxes.shape) == (3, 1, (0, 4))
    for _, target in split.ordered():
        np.testing.assert_array_equal(target["boxes"], [[0, 0, 0, 0]])
        np.testing.assert_array_equal(target["labels"], [-1])
    assert split.truth(1)["crowd"].shape == (0,)


def test_reader_fills_up_and_leaves_out_crowds(tmp_path):
    split = open_annotated(write_coco(tmp_path), "detect").train
    assert split.most == 2
    shapes = {"boxes": [2, 4], "labels": [2]}
    spec = split.ordered().element_spec[1]
    assert {key: value.shape.as_list() for key, value in spec.items()} == shapes
    files, targets = zip(*split.ordered().as_numpy_iterator())
    for file, content in zip(split.files, files):
        with open(file, "rb") as stream:
            assert stream.read() == content
    np.testing.assert_array_equal(
        [target["boxes"] for target in targets],
        [
            [[3, 4, 8, 10], [0, 0, 0, 0]],
            [[0, 0, 0, 0], [0, 0, 0, 0]],
            [[1.5, 2.25, 11.5, 22.25], [30, 20, 40, 30]],
        ],
    )
    labels = [target["labels"].tolist() for target in targets]
    assert labels == [[0, -1], [-1, -1], [1, 0]]


@pytest.mark.parametrize("numbers", [[2, 0], [1], [0, 0, 2], []])
def test_take_keeps_each_picture_with_its_boxes(numbers, tmp_path):
    split = open_annotated(write_coco(tmp_path), "detect").train
    taken = split.take(np.array(numbers, int))
    assert (taken.size, taken.most) == (len(numbers), split.most)
    assert taken.offsets[-1] == len(taken.boxes)
    for place, number in enumerate(numbers):
        assert taken.where(place) == split.where(number)
        assert taken.ids[place] == split.ids[number]
        for key, value in split.truth(number).items():
            np.testing.assert_array_equal(taken.truth(place)[key], value)


def test_truth_has_the_crowds(tmp_path):
    truth = open_annotated(write_coco(tmp_path), "detect").train.truth(0)
    assert truth["boxes"].dtype == np.float64
    np.testing.assert_array_equal(truth["boxes"], [[0, 0, 40, 30], [3, 4, 8, 10]])
    np.testing.assert_array_equal(truth["labels"], [0, 0])
    np.testing.assert_array_equal(truth["crowd"], [True, False])


def test_fingerprint_follows_boxes_and_masks_but_not_the_folder(tmp_path):
    def fingerprint(root, task="detect"):
        return open_annotated(root, task).fingerprint

    first = fingerprint(write_coco(tmp_path / "1"))
    assert first == fingerprint(write_coco(tmp_path / "2", folder="images"))
    moved = copy.deepcopy(COCO)
    moved["annotations"][0]["bbox"][0] += 1
    assert first != fingerprint(write_coco(tmp_path / "3", moved))
    root = write_masks(tmp_path / "4")
    before = fingerprint(root, "segment")
    assert before == fingerprint(write_masks(tmp_path / "5"), "segment")
    write_mask(root / "train" / "masks" / "a.png", np.zeros(SIZE[::-1]))
    assert before != fingerprint(root, "segment")


@pytest.mark.parametrize(
    "kind", ["palette", "grey", "one bit", "two bits", "four bits"]
)
def test_masks_give_numbers_not_colours(kind, tmp_path):
    root = write_masks(tmp_path)
    most = {"one bit": 2, "two bits": 3}.get(kind, 3)
    numbers = np.random.default_rng(1).integers(0, most, SIZE[::-1]).astype(np.uint8)
    file = root / "train" / "masks" / "a.png"
    if kind == "palette":
        write_mask(file, numbers)
    elif kind == "grey":
        Image.fromarray(numbers).save(file)
    else:
        depth = {"one bit": 1, "two bits": 2, "four bits": 4}[kind]
        file.write_bytes(grey_png(numbers, depth))
    split = open_annotated(root, "segment").train
    np.testing.assert_array_equal(split.truth(0), numbers)
    _, mask = next(iter(split.ordered()))
    assert mask.dtype == tf.uint8
    np.testing.assert_array_equal(mask[..., 0], numbers)
    assert split.ordered().element_spec[1].shape.as_list() == [None, None, 1]
    taken = split.take(np.array([1, 0]))
    assert taken.where(1) == split.where(0)
    np.testing.assert_array_equal(taken.truth(1), numbers)


def test_unlabelled_pixels_stay_255(tmp_path):
    split = open_annotated(write_masks(tmp_path), "segment").train
    assert set(np.unique(split.truth(0))) == {0, 1, 2, 255}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda file: write_mask(file, np.full(SIZE[::-1], 7)),
            r"a pixel of 7, but.* 3",
        ),
        (lambda file: file.write_bytes(file.read_bytes()[:-40]), "cannot be decoded"),
        (lambda file: write_image(file), "cannot be decoded .*RGB"),
        (lambda file: file.unlink(), "cannot be decoded .*No such file"),
    ],
)
def test_a_bad_mask_is_named_when_it_is_read(spoil, words, tmp_path):
    root = write_masks(tmp_path)
    split = open_annotated(root, "segment").train
    spoil(root / "train" / "masks" / "b.png")
    with pytest.raises(ValueError, match=rf"b\.png: .*{words}") as error:
        split.truth(1)
    assert "\n" not in str(error.value)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"b\.png: .*{words}"):
        list(split.ordered())


@pytest.mark.parametrize("chunk", [2, 256])
def test_files_are_opened_once(chunk, tmp_path, monkeypatch):
    opened = []
    root = write_coco(tmp_path)

    def count(function, *columns):
        for value in map_files(function, *columns):
            opened.append(value)
            yield value

    monkeypatch.setattr("keras_resnet.data.folders._CHUNK", chunk)
    monkeypatch.setattr(pixels, "map_files", count)
    open_annotated(root, "detect")
    assert opened == [SIZE] * 3


def change(path, value):
    """A function that sets COCO["annotations"][0]["bbox"] for "annotations.0.bbox"."""

    def write(root):
        content = copy.deepcopy(COCO)
        *keys, last = [int(k) if k.isdigit() else k for k in path.split(".")]
        place = content
        for key in keys:
            place = place[key]
        if value is KeyError:
            del place[last]
        else:
            place[last] = value
        write_coco(root, content)

    return write


def text(content):
    def write(root):
        write_coco(root)
        (root / "train.json").write_bytes(content)

    return write


def coco_then(spoil):
    def write(root):
        spoil(write_coco(root))

    return write


def other_categories(root):
    categories = [{"id": 18, "name": "dog"}, {"id": 2, "name": "cow"}]
    write_coco(root, {**COCO, "categories": categories}, "val.json", "val")


def two_files(root):
    write_coco(root, file="annotations/instances_train2014.json")


def bomb(root):
    content = bytearray(grey_png([[0]], 8))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (root / "train" / "b.jpg").write_bytes(content)


def folder_as_picture(root):
    (root / "train" / "b.jpg").unlink()
    (root / "train" / "b.jpg").mkdir()


def named_pipe(root):
    (root / "train" / "b.jpg").unlink()
    os.mkfifo(root / "train" / "b.jpg")


NAN = float("nan")
BAD_COCO = {
    "not UTF-8": (text(b'{"images": "\xff"}'), r"train\.json: not UTF-8 \(byte 12"),
    "not JSON": (text(b"{'images'"), r"train\.json: not JSON \(Expecting"),
    "empty file": (text(b""), r"train\.json: not JSON"),
    "nested": (text(b"[" * 200_000), r"train\.json: nested too deeply"),
    "digits": (text(b"[" + b"1" * 5000 + b"]"), r"train\.json: not JSON \(Exceeds"),
    "list": (text(b"[]"), r"train\.json: \[\], not an object"),
    "number": (text(b"3"), r"train\.json: 3, not an object"),
    "no images": (change("images", KeyError), r"json: has no 'images' but \['annot"),
    "no boxes": (change("annotations", KeyError), r"json: has no 'annotations'"),
    "images as object": (change("images", {}), r"'images' is \{\}; .* a list"),
    "annotation as list": (change("annotations.1", [1]), r"annotations\[1\] is \[1\]"),
    "no pictures": (change("images", []), r"train\.json: 'images' is empty"),
    "no categories": (change("categories", []), r"train\.json: 'categories' is empty"),
    "image id twice": (change("images.1.id", 7), r"images: id 7 is there twice"),
    "annotation id twice": (change("annotations.2.id", 1), r"annotations: id 1 is"),
    "category id twice": (change("categories.1.id", 18), r"categories: id 18 is there"),
    "name twice": (change("categories.1.name", "dog"), r"name 'dog' is there twice"),
    "name number": (change("categories.1.name", 5), r"category 2: class name 5; must"),
    "name break": (
        change("categories.1.name", "a\nb"),
        r"class name 'a\\nb' has a con",
    ),
    "name surrogate": (change("categories.1.name", "\ud800"), r"class name '\\ud800'"),
    "text id": (change("images.0.id", "7"), r"images\[0\] has id '7'; it must be an i"),
    "bool id": (change("images.0.id", True), r"images\[0\] has id True"),
    "large id": (change("annotations.0.id", 2**63), r"annotations\[0\] has id 9223372"),
    "no id": (change("annotations.3.id", KeyError), r"annotations\[3\] has no 'id'"),
    "unlisted image": (
        change("annotations.3.image_id", 4),
        r"annotation 4 is of image 4",
    ),
    "no category": (change("annotations.3.category_id", KeyError), r"no 'category_id'"),
    "no bbox": (change("annotations.1.bbox", KeyError), r"annotation 2 has bbox None"),
    "three sides": (change("annotations.1.bbox", [1, 2, 3]), r"bbox \[1, 2, 3\]; it"),
    "NaN": (
        change("annotations.1.bbox", [1, 2, NAN, 4]),
        r"tion 2 has bbox \[1, 2, nan",
    ),
    "infinite": (
        change("annotations.1.bbox", [1, 2, 1e999, 4]),
        r"bbox \[1, 2, inf, 4",
    ),
    "huge": (
        change("annotations.1.bbox", [10**400, 2, 3, 4]),
        r"annotation 2 has bbox",
    ),
    "text side": (change("annotations.1.bbox", [1, "2", 3, 4]), r"bbox \[1, '2', 3, 4"),
    "bool side": (change("annotations.1.bbox", [1, True, 3, 4]), r"bbox \[1, True, 3"),
    "crowd": (change("annotations.1.iscrowd", "no"), r"annotation 2 has iscrowd 'no'"),
    "crowd 2": (change("annotations.1.iscrowd", 2), r"annotation 2 has iscrowd 2"),
    "width text": (
        change("images.0.width", "40"),
        r"image 7: width '40' and height 30",
    ),
    "width NaN": (change("images.0.width", NAN), r"image 7: width nan and height 30"),
    "other width": (
        change("images.1.width", 41),
        r"image 3: 41 x 30 pixels as annotated, but \S+b\.jpg has 40 x 30; annotate",
    ),
    "turned": (
        change("images.0", {**IMAGES[0], "width": 30, "height": 40}),
        r"image 7: 30 x 40 pixels as annotated, but .* 40 x 30 \(turned by its EXIF",
    ),
    "absolute": (change("images.1.file_name", "/etc/passwd"), r"'/etc/passwd' is abs"),
    "drive": (change("images.1.file_name", "C:\\a.jpg"), r"'C:\\\\a.jpg' is absolute"),
    "out": (change("images.1.file_name", "x/../../b.jpg"), r"'x/../../b.jpg' is .*out"),
    "dots": (change("images.1.file_name", ".."), r"image 3: file name '\.\.' is abs"),
    "nul": (
        change("images.1.file_name", "b\0.jpg"),
        r"file name 'b\\x00.jpg'; no file",
    ),
    "surrogate": (
        change("images.1.file_name", "\ud800.jpg"),
        r"file name '\\ud800.jpg'",
    ),
    "no name": (change("images.1.file_name", KeyError), r"image 3: file name None"),
    "name list": (change("images.1.file_name", ["b"]), r"image 3: file name \['b'\]"),
    "same name": (change("images.1.file_name", "a.jpg"), r"file_name 'a.jpg' is there"),
    "line break": (
        change("images.1.file_name", "b\n.jpg"),
        r"image 3: .*b .jpg: cannot",
    ),
    "missing": (
        change("images.1.file_name", "x.jpg"),
        r"image 3: .*x.jpg: cannot be re",
    ),
    "first missing": (
        change("images.0.file_name", "x.jpg"),
        r"'x.jpg' is in none of tr",
    ),
    "long name": (
        change("images.1.file_name", "x" * 5000),
        r"image 3: .*cannot be read",
    ),
    "empty picture": (
        coco_then(lambda root: (root / "train/b.jpg").write_bytes(b"")),
        r"image 3: \S+b\.jpg: empty; restore",
    ),
    "foreign": (
        coco_then(lambda root: (root / "train/b.jpg").write_bytes(b"<html>")),
        r"image 3: \S+b\.jpg: not a JPEG, PNG, GIF, BMP or WebP picture",
    ),
    "damaged": (
        coco_then(lambda root: (root / "train/b.jpg").write_bytes(b"\xff\xd8\xff\xe0")),
        r"image 3: \S+b\.jpg: damaged: Pillow cannot read its header",
    ),
    "bomb": (
        coco_then(bomb),
        r"image 3: \S+b\.jpg: 60000 x 60000 pixels, more than 89,",
    ),
    "folder": (
        coco_then(folder_as_picture),
        r"image 3: \S+b\.jpg: not a file",
    ),
    "pipe": (coco_then(named_pipe), r"image 3: \S+b\.jpg: not a file"),
    "categories": (coco_then(other_categories), r"val\.json: category 2 \('c.*same in"),
    "two files": (
        coco_then(two_files),
        r"several annotation files of train \(train.js",
    ),
}


@pytest.mark.parametrize("case", BAD_COCO)
def test_bad_coco_is_one_clear_line(case, tmp_path):
    write, words = BAD_COCO[case]
    write(tmp_path)
    refused(tmp_path, "detect", words)


def refused(root, task, words):
    with pytest.raises(DataError, match=words) as error:
        open_annotated(root, task)
    message = str(error.value)
    assert str(root) in message
    assert len(message.splitlines()) == 1
    assert "; " in message
    assert len(message) < 700 or "x" * 200 in message


BILLION = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
BAD_VOC = {
    "not XML": ("<annotation>", r"x\.xml: not XML \(no element found"),
    "empty": ("", r"x\.xml: not XML"),
    "entity": (BILLION + voc_file(), r"x\.xml: declares an XML entity"),
    "undefined entity": (voc_file("&b;"), r"x\.xml: not XML \(undefined entity"),
    "nul": (voc_file("\0"), r"x\.xml: not XML"),
    "other XML": ("<svg/>", r"x\.xml: its outermost element is 'svg'"),
    "no name": (voc_file(voc_object("")), r"object 1: class name ''"),
    "no box": (
        voc_file("<object><name>a</name></object>"),
        r"x\.xml: object 1: 'a' has no 'bndbox'",
    ),
    "no side": (voc_file(voc_object(box=(1, 2, 3))), r"object 1: has no 'ymax'"),
    "text": (voc_file(voc_object(box=(1, 2, "a", 4))), r"object 1: xmax 'a'; it must"),
    "no number": (voc_file(voc_object(box=(1, 2, "", 4))), r"object 1: xmax ''"),
    "NaN": (voc_file(voc_object(), voc_object(box=("nan", 1, 2, 3))), r"2: xmin 'nan'"),
    "infinite": (voc_file(voc_object(box=(1, "-inf", 3, 4))), r"1: ymin '-inf'"),
    "difficult": (
        voc_file(voc_object(extra="<difficult>maybe</difficult>")),
        r"object 1: difficult 'maybe'",
    ),
    "size": (
        voc_file(size="<size><width>40</width><height>x</height></size>"),
        r"x\.xml: size: height 'x'",
    ),
    "other size": (
        voc_file(voc_object(), size="<size><width>0</width><height>0</height></size>"),
        r"x\.xml: 0 x 0 pixels as annotated, but \S+x\.jpg has 40 x 30",
    ),
    "no objects": (voc_file(), r"no file has an object; annotate some"),
}


@pytest.mark.parametrize("case", BAD_VOC)
def test_bad_voc_is_one_clear_line(case, tmp_path):
    content, words = BAD_VOC[case]
    refused(write_voc(tmp_path, {"x": content}), "detect", words)


BAD_FOLDERS = {
    "not UTF-8": (
        lambda root: (root / "Annotations/x.xml").write_bytes(b"<a>\xff"),
        r"x\.xml: not UTF-8 \(byte 3",
    ),
    "no annotations": (
        lambda root: (root / "Annotations/x.xml").unlink(),
        r"train\.txt: 'x' has no file in \S+Annotations",
    ),
    "no picture": (
        lambda root: (root / "JPEGImages/x.jpg").unlink(),
        r"train\.txt: 'x' has no file in \S+JPEGImages",
    ),
    "two pictures": (
        lambda root: write_image(root / "JPEGImages/x.png"),
        r"JPEGImages: 'x\.jpg' and 'x\.png' share annotations",
    ),
    "empty list": (
        lambda root: write_text(root / "ImageSets/Main/train.txt", "\n"),
        r"train\.txt: empty",
    ),
    "twice": (
        lambda root: write_text(root / "ImageSets/Main/train.txt", "x\nx\n"),
        r"train\.txt: 'x' is there twice",
    ),
    "out": (
        lambda root: write_text(root / "ImageSets/Main/train.txt", "../x\n"),
        r"train\.txt: file name '\.\./x' is absolute or leads out",
    ),
    "no list": (
        lambda root: (root / "ImageSets/Main/train.txt").unlink(),
        r"not a data set to detect; give COCO \(.*\) or Pascal VOC \(",
    ),
    "class twice": (
        lambda root: write_text(root / "classes.txt", "dog\ncat\ndog\n"),
        r"classes\.txt: 'dog' is there twice",
    ),
    "class empty": (
        lambda root: write_text(root / "classes.txt", "dog\n\ncat\n"),
        r"classes\.txt: line 2 is empty",
    ),
    "no classes": (lambda root: write_text(root / "classes.txt", ""), r"txt: empty"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_voc_folders_are_one_clear_line(case, tmp_path):
    spoil, words = BAD_FOLDERS[case]
    spoil(write_voc(tmp_path, {"x": voc_file(voc_object())}))
    refused(tmp_path, "detect", words)


@pytest.mark.parametrize(
    ("name", "words"), [("x.xml", "'x' has no picture"), ("x.jpg", "has no annotation")]
)
def test_a_picture_beside_no_annotations_is_refused(name, words, tmp_path):
    write_image(tmp_path / "train" / "a.jpg")
    write_text(tmp_path / "train" / "a.xml", voc_file(voc_object()))
    if name.endswith("xml"):
        write_text(tmp_path / "train" / name, voc_file(voc_object()))
    else:
        write_image(tmp_path / "train" / name)
    refused(tmp_path, "detect", words)


MASK, PICTURE = "train/masks/b.png", "train/images/b.jpg"
BAD_MASKS = {
    "missing": (
        lambda root: (root / MASK).unlink(),
        r"b\.jpg: has no mask 'b\.png' in",
    ),
    "no picture": (
        lambda root: [file.unlink() for file in (root / "train/images").iterdir()],
        r"images: no pictures",
    ),
    "other size": (
        lambda root: write_mask(root / MASK, np.zeros((30, 41))),
        r"b\.png: 41 x 30 pixels, but its picture \S+b\.jpg has 40 x 30",
    ),
    "colours": (
        lambda root: write_image(root / MASK),
        r"b\.png: a PNG file of mode RGB",
    ),
    "alpha": (lambda root: write_image(root / MASK, mode="LA"), r"PNG file of mode LA"),
    "16 bits": (
        lambda root: write_image(root / MASK, mode="I;16"),
        r"mode I;16, not c",
    ),
    "JPEG": (
        lambda root: (root / MASK).write_bytes((root / PICTURE).read_bytes()),
        r"b\.png: a JPEG file of mode RGB, not class numbers",
    ),
    "damaged": (
        lambda root: (root / MASK).write_bytes(b"\x89PNG\r\n\x1a\n"),
        "damaged",
    ),
    "foreign": (lambda root: (root / MASK).write_bytes(b"GIF7"), r"b\.png: not a JPEG"),
    "foreign picture": (
        lambda root: (root / PICTURE).write_bytes(b"%PDF"),
        r"b\.jpg: not a JPEG",
    ),
    "no classes": (
        lambda root: (root / "classes.txt").unlink(),
        r"classes\.txt: no such file, which would name the classes",
    ),
    "empty classes": (
        lambda root: write_text(root / "classes.txt", " \n"),
        "txt: empty",
    ),
    "too many": (
        lambda root: write_text(root / "classes.txt", "\n".join(map(str, range(256)))),
        r"classes\.txt: 256 classes, of which a mask can number 255",
    ),
    "control": (
        lambda root: write_text(root / "classes.txt", "a\nb\x1b[2J\n"),
        r"classes\.txt: class name 'b\\x1b\[2J' has a control",
    ),
    "no folders": (
        lambda root: (root / "train").rename(root / "test"),
        r"not a data set to segment; give train/images/x\.jpg with train/masks",
    ),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_masks_are_one_clear_line(case, tmp_path):
    spoil, words = BAD_MASKS[case]
    spoil(write_masks(tmp_path))
    refused(tmp_path, "segment", words)


def test_sizes_of_text_files_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "MAX_BYTES", 100)
    refused(write_coco(tmp_path), "detect", r"train\.json: \d+ bytes, of which 100 are")
    monkeypatch.setattr(listing, "_MAX_LIST", 3)
    root = write_masks(tmp_path / "masks")
    refused(root, "segment", r"classes\.txt: 14 bytes, of which 3 are allowed")


def test_what_is_no_folder_or_task_is_refused(tmp_path):
    refused(tmp_path, "detect", "not a data set to detect")
    refused(tmp_path / "x", "segment", "x: no such folder")
    with pytest.raises(DataError, match=r"task='classify': must be 'detect' or 'seg"):
        open_annotated(tmp_path, "classify")
