"""Prints README's table of released checkpoints, and the lines that load them."""

from keras_resnet import VARIANTS
from keras_resnet.weights.released import find, released


def main() -> None:
    print("| variant | tag | top-1 | top-5 | test size, crop | licence | load it |")
    print("|---|---|---:|---:|---|---|---|")
    for variant in VARIANTS:
        tags = released().get(variant, {})
        for it in sorted(tags.values(), key=lambda it: -it.top1):
            bold = "**" if it == find(variant, "imagenet") else ""
            print(
                f"| {variant} | {bold}{it.tag}{bold} | {it.top1:.2f} | {it.top5:.2f} "
                f"| {it.test_size}, {it.crop_pct:g} | {it.licence} "
                f'| `create("{variant}", weights="{it.tag}")` |'
            )


if __name__ == "__main__":
    main()
