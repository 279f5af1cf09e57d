"""Pictures a second of the input, beside decoding alone, the usual way and timm.

What `tools/benchmark.py input` runs. A round of a side is answered by a rate and by the
time of one core that a picture took, which neighbours on the machine disturb less.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import turns

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

CORES = len(os.sched_getaffinity(0))  # tf.data's threads, torch's workers
PICTURES, HEIGHT, WIDTH = 512, 375, 500
# photographs of 12 megapixels and 3.5 MB
LARGE, LARGE_HEIGHT, LARGE_WIDTH, LARGE_QUALITY, LARGE_BATCH = 4, 3000, 4000, 85, 8
BATCH, SIZE, CROP_PCT = 64, 224, 0.875
# batches of a round: they fill the pipeline; they are timed, and are an epoch
WARM, TIMED = 2 * CORES, 16 * CORES
QUIET = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
RATE, COST = "pictures/s", "us of CPU"
GOALS = [
    ("training", "raw decode", 0.85),
    ("training", "timm training", 3.0),
    ("evaluation", "timm evaluation", 1.3),
    ("training, prepared 256", "training", 1.8),
    ("training, raw 256", "training", 1.8),
    ("12 megapixels", "12 megapixels, in full", 4.0),
    ("12 megapixels, antialiased", "12 megapixels, antialiased, in full", 4.0),
]


def measure(
    rounds: int, python: str | None = None, only: Sequence[str] = ()
) -> dict[str, turns.Rows]:
    """The rows of {"sides", "ratios"}."""
    only = [*only, "raw decode"] if only else ()  # with which all are compared
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        if not only or any("megapixels" in name for name in only):
            write_large(Path(folder))
        answers = turns.take(__file__, SIDES, [folder], rounds, python, only)

    def ratios(name: str, base: str) -> dict[str, float]:
        by_cpu = turns.ratios(answers, base, name, COST)["ratio"]
        return {**turns.ratios(answers, name, base, RATE), "by CPU": by_cpu}

    sides = [
        {"side": name, **turns.spread(answers, name, RATE)}
        | {COST: turns.spread(answers, name, COST)[COST]}
        | (
            {"of raw decode": ratios(name, "raw decode")["ratio"]}
            if "megapixels" not in name
            else {}
        )
        for name in answers
    ]
    return {
        "sides": sides,
        "ratios": [
            {"side": name, "against": base, **ratios(name, base), "goal": goal}
            for name, base, goal in GOALS
            if name in answers and base in answers
        ],
    }


def write_pictures(folder: Path) -> None:
    """photos/, its files linked as often as an epoch needs; prepared/, if it can be."""
    os.environ.update(QUIET)  # the sides inherit it
    import tensorflow as tf

    from keras_resnet import data

    for name in "01":
        (folder / "photos" / "train" / name).mkdir(parents=True)
    for number in range(PICTURES):
        picture = _photo(number, HEIGHT, WIDTH)
        jpeg = tf.io.encode_jpeg(picture, quality=86 + number % 8)  # 60 to 100 KB
        files = [
            folder / f"photos/train/{number % 2}/{number:03}-{link:03}.jpg"
            for link in range(TIMED * BATCH // PICTURES)
        ]
        files[0].write_bytes(jpeg.numpy())
        for file in files[1:]:
            file.hardlink_to(files[0])
    data.prepare(folder / "photos", folder / "prepared", resize=256)
    data.prepare(folder / "photos", folder / "raw", resize=256, raw=True)


def write_large(folder: Path) -> None:
    """large/, each file linked as often as an epoch needs."""
    import tensorflow as tf

    for number in range(LARGE):
        file = folder / f"large/train/{number % 2}/{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture = _photo(number, LARGE_HEIGHT, LARGE_WIDTH)
        file.write_bytes(tf.io.encode_jpeg(picture, quality=LARGE_QUALITY).numpy())
        for link in range(1, TIMED * LARGE_BATCH // LARGE):
            file.with_stem(f"{number}-{link:03}").hardlink_to(file)


def _photo(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth light, textures of 1 / f that are strong here and weak there."""
    import numpy as np

    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf

    def field(slope: float) -> np.ndarray:
        spectrum = random.normal(size=(2, *frequency.shape)) * frequency**-slope
        values = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], (height, width))
        return values / values.std()

    texture = field(1.0) * np.exp(0.5 * field(2.0))
    light = 120 + 45 * field(1.8) + 22 * texture
    blue, red = 10 * field(1.5), 10 * field(1.5)
    planes = (1.4 * red, -0.34 * blue - 0.71 * red, 1.77 * blue)
    picture = light[..., None] + np.stack(planes, -1)
    return np.clip(picture, 0, 255).astype(np.uint8)


def main() -> None:
    """A side, as turns.answer has it."""

    def start() -> turns.Round:
        batches = SIDES[sys.argv[1]](Path(sys.argv[2]))
        size = LARGE_BATCH if "megapixels" in sys.argv[1] else BATCH
        return lambda: _round(batches, size)

    turns.answer(start)


def _round(batches: Iterable[Any], size: int) -> dict[str, float]:
    for number, _ in enumerate(batches, start=1):
        if number == WARM:
            start, cpu = time.perf_counter(), _cpu()
        if number == WARM + TIMED:
            seconds, cpu = time.perf_counter() - start, _cpu() - cpu
    # the iterator is gone: nothing of it works on in another side's turn
    pictures = TIMED * size
    return {RATE: pictures / seconds, COST: 1e6 * cpu / pictures}


def _cpu() -> float:
    """Seconds of this process and of its living children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    stats = [Path("/proc", pid, "stat").read_text() for pid in ["self", *children]]
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    ticks = sum(int(user) + int(system) for user, system in (f[11:13] for f in fields))
    return ticks / os.sysconf("SC_CLK_TCK")


def _finite(batches: tf.data.Dataset) -> tf.data.Dataset:
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = CORES
    return batches.take(WARM + TIMED).with_options(options)


def _files(folder: Path) -> tf.data.Dataset:
    import tensorflow as tf

    files = sorted(map(str, folder.glob("photos/train/*/*")))
    return tf.data.Dataset.from_tensor_slices(files)


def raw_decode(folder: Path) -> tf.data.Dataset:
    import tensorflow as tf

    # of a whole picture, decoded and not copied any more
    def pixel(file: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_jpeg(tf.io.read_file(file), 3)[0, 0]

    parallel = tf.data.AUTOTUNE
    return _finite(_files(folder).repeat().map(pixel, parallel).batch(BATCH))


def training(
    folder: Path,
    photos: str = "photos",
    recipe: str = "efficient",
    batch_size: int = BATCH,
    **fields: Any,
) -> tf.data.Dataset:
    from keras_resnet import RECIPES, data

    sizes = {"batch_size": batch_size, "train_size": SIZE}
    chosen = RECIPES[recipe].replace(**sizes, **fields)
    return _finite(data.train_batches(folder / photos, chosen))


def evaluation(folder: Path) -> tf.data.Dataset:
    from keras_resnet import RECIPES, data

    recipe = RECIPES["efficient"].replace(test_size=SIZE, crop_pct=CROP_PCT)
    batches = data.eval_batches(folder / "photos", recipe, "train", BATCH)
    return _finite(batches.repeat())


def unfused_chain(folder: Path) -> tf.data.Dataset:
    """What one writes with tf.image: the whole picture, then a function a trick."""
    import tensorflow as tf

    def example(seed: tf.Tensor, file: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([0, seed])
        image = tf.io.decode_jpeg(tf.io.read_file(file), 3)
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
            seed,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
        )
        image = tf.image.resize(tf.slice(image, begin, size), [SIZE, SIZE]) / 255.0
        image = tf.image.stateless_random_flip_left_right(image, seed)
        image = tf.image.stateless_random_hue(image, 0.2, seed)
        image = tf.image.stateless_random_saturation(image, 0.6, 1.4, seed)
        return tf.image.stateless_random_brightness(image, 0.4, seed)

    files = _files(folder).repeat().enumerate()
    batches = files.map(example, tf.data.AUTOTUNE).batch(BATCH)
    return _finite(batches.prefetch(tf.data.AUTOTUNE))


def timm_loader(folder: Path, is_training: bool) -> Iterable[Any]:
    from timm.data import ImageDataset, create_loader

    dataset = ImageDataset(str(folder / "photos" / "train"))
    # and the 2 batches that each worker is ahead, so that none works on after the round
    count = BATCH * (WARM + TIMED + 2 * CORES)
    dataset.reader.samples = (dataset.reader.samples * 2)[:count]
    return create_loader(
        dataset,
        SIZE,
        BATCH,
        is_training=is_training,
        color_jitter=0.4,
        auto_augment=None,
        re_prob=0.0,
        interpolation="bilinear" if is_training else "bicubic",
        crop_pct=CROP_PCT,
        num_workers=CORES,
        persistent_workers=True,
        pin_memory=False,
        use_prefetcher=False,
    )


large = functools.partial(training, photos="large", batch_size=LARGE_BATCH)
SIDES: dict[str, Callable] = {
    "raw decode": raw_decode,
    "training": training,
    "training, mixup": functools.partial(training, recipe="bag-of-tricks"),
    "training, prepared 256": functools.partial(training, photos="prepared"),
    "training, raw 256": functools.partial(training, photos="raw"),
    "12 megapixels": functools.partial(large, scaled_decode=True),
    "12 megapixels, in full": large,
    "12 megapixels, antialiased": functools.partial(
        large, scaled_decode=True, train_antialias=True
    ),
    "12 megapixels, antialiased, in full": functools.partial(
        large, train_antialias=True
    ),
    "evaluation": evaluation,
    "unfused tf.image chain": unfused_chain,
    "timm training": functools.partial(timm_loader, is_training=True),
    "timm evaluation": functools.partial(timm_loader, is_training=False),
}


def measure_stages(rounds: int) -> dict[str, float]:
    """{stage: microseconds of one core a picture}, each on what is in memory."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        stages = _stages(Path(folder))
        turns = [
            [_seconds(after) - _seconds(before) for before, after in stages.values()]
            for _ in range(rounds)
        ]
    return {
        f"{name}, us": 1e6 * statistics.median(each) / PICTURES
        for name, each in zip(stages, zip(*turns))
    }


def _seconds(dataset: tf.data.Dataset) -> float:
    iterator = iter(dataset.filter(lambda *_: False))
    start = time.process_time()
    next(iterator, None)
    return time.process_time() - start


def _stages(folder: Path) -> dict[str, tuple[tf.data.Dataset, tf.data.Dataset]]:
    """{stage: (the data set before it, with it)}."""
    import tensorflow as tf

    from keras_resnet import RECIPES, data
    from keras_resnet.data.transforms import colour, decode, random_crop, resize

    recipe = RECIPES["bag-of-tricks"].replace(train_size=SIZE)

    def window(drawn: tf.Tensor, jpeg: tf.Tensor) -> tf.Tensor:
        return random_crop._random_crop(jpeg, recipe, drawn)

    def square(image: tf.Tensor) -> tf.Tensor:
        image = tf.cast(image, tf.float32)
        return tf.image.resize(image, [SIZE, SIZE], recipe.train_interpolation)

    def antialiased(image: tf.Tensor) -> tf.Tensor:
        return resize.resize_as_pillow(image, SIZE, SIZE, recipe.train_interpolation)

    def train(drawn: tf.Tensor, jpeg: tf.Tensor) -> tf.Tensor:
        return random_crop.load_train(jpeg, recipe, drawn, seed=None)

    def flip(number: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        only = recipe.replace(colour=0, lighting=0)
        return colour.distort(images, random([BATCH, colour.DRAWS], number), only)

    def distort(number: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        return colour.distort(images, random([BATCH, colour.DRAWS], number), recipe)

    def mix(number: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        labels = tf.zeros([BATCH, 2])
        return data.mixup(images, labels, recipe.mixup, tf.stack([0, number]))

    def random(shape: list[int], number: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, tf.stack([0, number]), alg="philox")

    def with_crop(number: tf.Tensor, jpeg: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return random_crop.draw_crops(recipe, 1, tf.stack([0, number]))[0], jpeg

    def kept(dataset: tf.data.Dataset) -> tf.data.Dataset:
        dataset = dataset.cache()
        _seconds(dataset)
        return dataset

    files = kept(_files(folder).shard(TIMED * BATCH // PICTURES, 0))
    jpegs = kept(files.map(tf.io.read_file))
    numbers = tf.data.Dataset.range(PICTURES)
    numbered = kept(jpegs.enumerate().map(with_crop))
    decoded = kept(jpegs.map(data.decode_image))
    windows = kept(numbered.map(window))
    squares = kept(numbered.map(train))
    batches = kept(squares.batch(BATCH).enumerate())
    stages = {
        "read": (files, files.map(tf.io.read_file)),
        "decode, TensorFlow's default": (jpegs, jpegs.map(tf.io.decode_jpeg)),
        "decode, exact": (jpegs, jpegs.map(data.decode_image)),
        "header": (jpegs, jpegs.map(decode.picture_size)),
        "header, decode of random crop": (numbered, numbered.map(window)),
        "resize": (windows, windows.map(square)),
        "resize, antialiased": (windows, windows.map(antialiased)),
        "training crop, all of it": (numbered, numbered.map(train)),
        "batch": (squares.take(0), squares.batch(BATCH)),
        "flip": (batches, batches.map(flip)),
        "flip, colour": (batches, batches.map(distort)),
        "mixup": (batches, batches.map(mix)),
        "evaluation crop": (decoded, decoded.map(data.eval_crop)),
    }
    for name in ("prepared", "raw"):
        split = data.open_source(folder / name).split("train")
        small = kept(split.ordered().take(PICTURES).map(lambda picture, _: picture))
        drawn = kept(small.enumerate().map(with_crop))
        stages[f"read, {name} 256"] = (numbers, numbers.map(split.reader()))
        if name == "prepared":
            stages["decode, prepared 256"] = (small, small.map(tf.io.decode_jpeg))
        stages[f"training crop, {name} 256"] = (drawn, drawn.map(train))
    return stages


if __name__ == "__main__":
    main()
