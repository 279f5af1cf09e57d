"""RECIPES: the published runs, and those that a user begins with.

Published runs decode images in full, as their publishers did (`scaled_decode=False`).
Where a publisher's run cannot be had exactly, no accuracy is claimed for the recipe:

- `ra4` is the recipe behind timm's best weights of ResNet-18-D, -34 and -50-D. Public
  are that it was "inspired by MobileNetV4's" (timm's `hfdocs/source/hparams.mdx`), the
  length of the runs, and configurations of MobileNetV4-Conv-Small after timm's, whose
  values these are. The values of the ResNets are not public. It leaves out grayscale (a
  tenth of the images), Gaussian blur (a twentieth), random interpolation, and the
  warm-up of the moving average.
- `resnet-rs-50` to `resnet-rs-420` are those of arXiv 2103.07579, table 1 and the
  configurations that its authors keep in the TensorFlow Model Garden: image size,
  dropout and stochastic depth grow with the net. Their magnitude of RandAugment is 15
  from depth 101 on; here it is 10, the most that timm's operations have.
"""

import types

from keras_resnet.recipe import Recipe

# arXiv 1812.01187 section 2.1, step 6, of RGB in [0, 1]
_PAPER = {
    "mean": [123.68 / 255, 116.779 / 255, 103.939 / 255],
    "std": [58.393 / 255, 57.12 / 255, 57.375 / 255],
}
_BASELINE = Recipe(  # section 2
    name="baseline",
    model="resnet50a",  # its figure 1; table 5 counts the same 3.8 G
    overrides={**_PAPER, "zero_gamma": False},
    initializer="xavier",
    precision="float32",
    scaled_decode=False,
    mixup=0.0,
    epochs=120,
    warmup_epochs=0.0,
    schedule="steps",
    boundaries=(30, 60, 90),
    decay="all",
    label_smoothing=0.0,
)
_EFFICIENT = _BASELINE.replace(  # sections 3 and 4
    name="efficient",
    model="resnet50d",
    overrides=_PAPER,
    precision="auto",
    batch_size=1024,
    warmup_epochs=5.0,
    decay="kernels",
)
_BAG_OF_TRICKS = Recipe(  # section 5, without distillation: its best but one
    name="bag-of-tricks",
    overrides=_PAPER,
    initializer="xavier",
    scaled_decode=False,
    batch_size=1024,
    smoothing="other-classes",
)
_OF_KERAS = _BAG_OF_TRICKS.replace(  # section 5, table 6, as the published logs ran it
    name="bag-of-tricks-mobilenet",
    model="applications:MobileNet",
    overrides={},
    initializer="he",
    smoothing="all-classes",
)
_RSB_A1 = Recipe(  # arXiv 2110.00476 table 2, and the hyper-parameters of timm's runs
    name="rsb-a1",
    overrides={"drop_path": 0.05},
    train_interpolation="bicubic",
    train_antialias=True,
    scaled_decode=False,
    colour=0.0,
    lighting=0.0,
    mixup=0.2,
    rand_augment=7.0,
    cutmix=1.0,
    repeats=3,
    crop_pct=0.95,
    optimizer="lamb",
    batch_size=2048,
    epochs=600,
    base_rate=5e-3 * 256 / 2048,
    final_rate=1e-6,
    weight_decay=0.01,
    loss="binary-cross-entropy",
    binary_threshold=0.2,
)
_RSB_A2 = _RSB_A1.replace(
    name="rsb-a2", mixup=0.1, epochs=300, weight_decay=0.02, label_smoothing=0.0
)
_RA4 = Recipe(
    name="ra4",
    overrides={"mean": [0.5] * 3, "std": [0.5] * 3, "dropout": 0.25},
    train_interpolation="bicubic",
    train_antialias=True,
    scaled_decode=False,
    colour=0.0,
    lighting=0.0,
    mixup=0.0,
    rand_augment=8.0,
    rand_augment_std=1.0,
    erasing=0.25,
    crop_pct=0.95,
    optimizer="adamw",
    betas=(0.6, 0.995),
    batch_size=4096,
    epochs=3600,
    base_rate=2e-3 * 256 / 4096,
    weight_decay=0.06,
    ema=0.99995,
)
_RESNET_RS = [
    Recipe(
        name=f"resnet-rs-{depth}",
        model=f"resnetrs{depth}",
        overrides={"dropout": dropout, "drop_path": drop_path},
        train_size=size,
        scaled_decode=False,
        test_size=size,
        interpolation="bilinear",
        colour=0.0,
        lighting=0.0,
        mixup=0.0,
        rand_augment=10.0,
        rand_augment_std=0.0,
        batch_size=4096,
        epochs=350,
        nesterov=False,
        weight_decay=4e-5,
        ema=0.9999,
    )
    for depth, size, dropout, drop_path in (
        (50, 160, 0.25, 0.0),
        (101, 192, 0.25, 0.0),
        (152, 256, 0.25, 0.0),
        (200, 256, 0.25, 0.1),
        (270, 256, 0.25, 0.1),
        (350, 320, 0.4, 0.1),
        (420, 320, 0.4, 0.1),
    )
]
_SMALL = Recipe(  # small pictures that may not be mirrored or recoloured
    name="demo",  # written digits, in a minute
    model="resnet18d",
    overrides={"width": 16},
    precision="float32",  # the same everywhere; so small a net gains nothing by half
    train_size=32,
    scaled_decode=False,
    min_area=0.7,
    max_aspect=1.15,
    flip=0.0,
    colour=0.0,
    lighting=0.0,
    mixup=0.0,
    test_size=32,
    crop_pct=1.0,
    batch_size=64,
    epochs=25,
    base_rate=0.4,
    warmup_epochs=2.0,
)
RECIPES = types.MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            _BASELINE,
            _EFFICIENT,
            _BAG_OF_TRICKS,
            _BAG_OF_TRICKS.replace(
                name="bag-of-tricks-distilled",
                teacher="resnet152d:imagenet",
                temperature=20.0,
            ),
            _OF_KERAS,
            _OF_KERAS.replace(
                name="bag-of-tricks-inception-v3",
                model="applications:InceptionV3",
                train_size=299,
                test_size=299,
            ),
            _BAG_OF_TRICKS.replace(  # resnet50_v1d-mixup as GluonCV's script ran it
                name="gluon",
                initializer="msra-prelu",
                colours="brightness-contrast-saturation",
                interpolation="bilinear",
                smoothing="all-classes",
                distillation="gluon",  # of whoever adds a teacher
            ),
            _BASELINE.replace(  # arXiv 1512.03385 section 3.4
                name="resnet-2015",
                overrides={"zero_gamma": False},
                initializer="he",
                scales=(256, 480),
                colour=0.0,
                interpolation="bilinear",
                schedule="plateau",
                boundaries=(),
                nesterov=False,
            ),
            _RSB_A1,
            _RSB_A2,
            _RSB_A2.replace(
                name="rsb-a3",
                overrides={},
                train_size=160,
                rand_augment=6.0,
                repeats=1,
                epochs=100,
                base_rate=8e-3 * 256 / 2048,
            ),
            _RA4,
            *_RESNET_RS,
            Recipe(  # a folder of one's own, from released weights
                name="fine-tune",
                weights="imagenet",
                min_area=0.25,
                colour=0.2,
                lighting=0.0,
                mixup=0.0,
                test_size=0,
                crop_pct=0.0,
                interpolation="",
                batch_size=32,
                epochs=30,
                base_rate=0.04,
                warmup_epochs=1.0,
            ),
            Recipe(  # boxes or masks of one's own, on a net with released weights
                name="transfer",
                task="detect",
                weights="imagenet",
                stage_rates=(0.0, 0.0, 1.0, 1.0, 1.0),
                freeze_statistics=True,
                train_size=512,
                scale_jitter=(0.5, 1.5),
                colour=0.2,
                lighting=0.0,
                mixup=0.0,
                label_smoothing=0.0,
                test_size=512,
                crop_pct=1.0,
                interpolation="bilinear",
                optimizer="adamw",
                batch_size=8,
                epochs=30,
                base_rate=6.4e-3,  # 2e-4 for a batch of 8
                warmup_epochs=1.0,
                clip_norm=10.0,
            ),
            _SMALL,
            _SMALL.replace(  # does all of it run here, on this data? in seconds
                name="smoke",
                overrides={"width": 8, "depths": [1, 1, 1, 1]},
                scaled_decode=True,
                batch_size=8,
                epochs=2,
                base_rate=0.2,
                warmup_epochs=0.0,
            ),
        )
    }
)
"""{name: Recipe} of the published runs, and of those that a user begins with."""
