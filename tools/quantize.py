"""What int8 costs in top-1, in every format: of the two nets in models/.

Each is calibrated on 300 training images, and measured on all held-out ones.

    python tools/quantize.py [--runs runs/quantize]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import release

FORMATS = ("openvino", "onnx", "litert")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", default="runs/quantize", type=Path)
    options = parser.parse_args()
    from keras_resnet import export, open_model
    from keras_resnet.export.description import read_description

    print("| net | format | images | float32 | int8 | points lost |")
    print("|---|---|---:|---:|---:|---:|")
    for name in release.GOALS:
        net, data = open_model(f"models/{name}"), release.data(name, 0, options.runs)
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
