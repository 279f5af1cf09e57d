"""Prints docs/weights.md: every variant, and every released checkpoint of it."""

from keras_resnet import VARIANTS
from keras_resnet.complexity import complexity
from keras_resnet.weights.released import find, released

HEAD = """# Every variant, and every released checkpoint

`python tools/released_table.py` prints this page. Parameters are exact; GMACs are
multiply-adds of convolutions and classifier at 224. Accuracy is what the publishers
measured, in percent of ImageNet's validation images at the test size and crop. A bold
tag is what `weights="imagenet"` loads; any of them loads as
`keras_resnet.create("VARIANT", weights="TAG")`, with `classes=11821` for those of
ImageNet-12k and `include_top=False` for features without a classifier.
`keras-resnet show VARIANT:TAG` tells more of one.
"""


def main() -> None:
    print(HEAD)
    print("| variant | parameters | GMACs |\n|---|---:|---:|")
    for variant, config in VARIANTS.items():
        parameters, macs = complexity(config)
        print(f"| `{variant}` | {parameters:,} | {macs / 1e9:.3f} |")
    print("\n| variant | tag | top-1 | top-5 | test size, crop | classes | licence |")
    print("|---|---|---:|---:|---|---:|---|")
    for variant in VARIANTS:
        tags = released().get(variant, {})
        for it in sorted(tags.values(), key=lambda it: -(it.top1 or 0)):
            bold = "**" if it == find(variant, "imagenet") else ""
            measured = "- | -" if it.top1 is None else f"{it.top1:.2f} | {it.top5:.2f}"
            print(
                f"| {variant} | {bold}{it.tag}{bold} | {measured} | {it.test_size}, "
                f"{it.crop_pct:g} | {it.classes or '-'} | {it.licence} |"
            )


if __name__ == "__main__":
    main()
