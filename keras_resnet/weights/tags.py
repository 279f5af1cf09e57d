"""What the tag of a released checkpoint says of its training, in words.

Tags are timm's: a recipe, then sizes and data, such as `ra4_e3600_r224_in1k`. The
meanings are those of timm's documentation (`hfdocs/source/hparams.mdx`), of arXiv
2110.00476 for the recipes A to D, and of the publishers' papers. What a publisher does
not say is left out.
"""

from __future__ import annotations

import re

_STRIKES = "of ResNet strikes back, arXiv 2110.00476"
_STRONGER = "with stronger dropout, stochastic depth and RandAugment than the paper's"
_LAMB = "LAMB, binary cross-entropy, RandAugment, mixup and CutMix"
_RMSPROP = (
    "RandAugment, RMSProp as in TensorFlow 1, a rate that falls by steps, and a moving "
    "average of the weights"
)
_AGC = "SGD with Nesterov momentum, adaptive gradient clipping, a cosine schedule"
_AUGMIX = "SGD with Nesterov momentum, a Jensen-Shannon loss, a cosine schedule"
_RECIPES = {
    "a1": f"Recipe A1 {_STRIKES}: {_LAMB}, 600 epochs.",
    "a2": f"Recipe A2 {_STRIKES}: {_LAMB}, 300 epochs.",
    "a3": f"Recipe A3 {_STRIKES}: {_LAMB}, 100 epochs.",
    "a1h": f"After recipe A1 {_STRIKES}: {_LAMB}, {_STRONGER}.",
    "ah": f"After recipe A1 {_STRIKES}, without CutMix, {_STRONGER}.",
    "am": f"AugMix (arXiv 1912.02781): {_AUGMIX}.",
    "ram": f"AugMix (arXiv 1912.02781) with RandAugment: {_AUGMIX}.",
    "b1k": f"After recipe B {_STRIKES}: {_RMSPROP}.",
    "b2k": f"After recipe B {_STRIKES}: {_RMSPROP}.",
    "bt": "The bag of tricks: SGD with Nesterov momentum, a cosine schedule.",
    "c1": f"Recipe C1 {_STRIKES}: {_AGC}.",
    "c2": f"Recipe C2 {_STRIKES}: {_AGC}.",
    "c3": f"After recipe C {_STRIKES}: {_AGC}.",
    "d": f"After recipe D {_STRIKES}: AdamW, binary cross-entropy, a cosine schedule.",
    "ra": f"{_RMSPROP}.",
    "ra2": f"{_RMSPROP} (the origin of recipe B {_STRIKES}).",
    "ra4": "RandAugment, with hyper-parameters inspired by MobileNetV4's.",
    "racm": f"{_RMSPROP}.",
    "sw": "After the Swin Transformer's recipe: AdamW, gradient clipping, a moving "
    "average of the weights, a cosine schedule.",
    "bamboo": "Features of the Bamboo data set (arXiv 2203.07845), without classifier.",
    "fb": "By Facebook AI.",
    "gluon": "By GluonCV, whose authors wrote arXiv 1812.01187.",
    "miil": "By Alibaba's MIIL laboratory.",
    "paddle": "By PaddleClas.",
    "tf": "By Google, with the recipe of ResNet-RS (arXiv 2103.07579).",
    "tv": "By torchvision, its first weights (V1).",
    "tv2": "By torchvision, its newer weights (V2).",
}
_DATA = {
    "ssl_yfcc100m": "A teacher labelled YFCC100M for it (semi-supervised, arXiv "
    "1905.00546).",
    "swsl_ig1b": "Pretrained on a billion images with hashtags, and on labels of a "
    "teacher (semi-weakly supervised, arXiv 1905.00546).",
    "wsl_ig1b": "Pretrained on a billion images with hashtags (weakly supervised, "
    "arXiv 1805.00932).",
    "ssld": "Distilled from a larger net (SSLD, arXiv 2103.05959).",
    "in12k": "Trained on ImageNet-12k: 11,821 classes of ImageNet-22k.",
    "in12k_ft_in1k": "Pretrained on ImageNet-12k, 11,821 classes of ImageNet-22k, and "
    "fine-tuned on ImageNet-1k.",
    "ft_in1k": "Fine-tuned on ImageNet-1k.",
    "in1k": "Trained on ImageNet-1k.",
}


def explain(tag: str) -> list[str]:
    """The sentences that a tag stands for, without the sizes, which its row has.

    Examples:

    >>> explain("a2_in1k")[-1]
    'Trained on ImageNet-1k.'
    """
    recipe, _, rest = tag.partition("_")
    sentences = [_RECIPES[recipe]] if recipe in _RECIPES else []
    while rest:
        known = [name for name in _DATA if rest == name or rest.startswith(f"{name}_")]
        part = max(known, key=len) if known else rest.partition("_")[0]
        if known:
            sentences.append(_DATA[part])
        elif epochs := re.fullmatch(r"e(\d+)", part):
            sentences.append(f"{int(epochs[1]):,} epochs.")
        rest = rest.removeprefix(part).removeprefix("_")
    return sentences
