"""What int8 costs in top-1, in every format: of two trained nets.

The released resnet18d-digits, 32 pixels, gray; and a ResNet-18-D that is trained here
on digits painted on photographs, 96 pixels, in color, as tools/transfer.py makes them.
Each is calibrated on 300 training images, and measured on all held-out ones.

    python tools/quantize.py [--epochs 36] [--runs runs/quantize]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transfer

FORMATS = ("openvino", "onnx", "litert")
SIDE = 96  # pixels


def nets(epochs: int, runs: Path) -> Iterator[tuple[str, Any, Any]]:
    """(name, net, data) of each."""
    from keras_resnet import demo, train
    from keras_resnet.opening import open_model

    digits = runs / "digits"
    if not digits.exists():
        demo.write_digits(digits)
    yield "resnet18d-digits", open_model("models/resnet18d-digits"), digits
    recipe = transfer.pretraining(epochs)["tricks"]
    recipe = recipe.replace(train_size=SIDE, test_size=SIDE, validate_every=epochs)
    data = transfer.digits(0, SIDE)
    yield "digits on photographs", train.fit(recipe, data, runs / "photographs"), data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=36, help="of the second net")
    parser.add_argument("--runs", default="runs/quantize", type=Path)
    options = parser.parse_args()
    from keras_resnet import export
    from keras_resnet.export.description import read_description

    print("| net | format | images | float32 | int8 | points lost |")
    print("|---|---|---:|---:|---:|---:|")
    for name, net, data in nets(options.epochs, options.runs):
        for format in FORMATS:
            folder = options.runs / "exports" / f"{name} {format}"
            about: dict[str, Any] = {"calibrate": data, "most_loss": 100}
            version = export.save(net, folder, format, "int8", **about)
            found = read_description(version).accuracy
            assert found is not None
            print(
                f"| {name} | {format} | {found.examples} | {100 * found.float32:.2f} % "
                f"| {100 * found.int8:.2f} % | {found.lost:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
