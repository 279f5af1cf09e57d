"""Prints the table of depths and letters in docs/explanation/family.md: their cost."""

from keras_resnet import VARIANTS
from keras_resnet.complexity import complexity


def figures(name: str) -> tuple[str, str]:
    """ "parameters" and "GMACs" of a variant as text, "-" where there is none."""
    if name not in VARIANTS:
        return "-", "-"
    parameters, macs = complexity(VARIANTS[name])
    return f"{parameters:,}", f"{macs / 1e9:.3f}"


def main() -> None:
    print("| depth | parameters a, b | c, d | GMACs a | b | c, d |")
    print("|---:|---:|---:|---:|---:|---:|")
    for depth in (18, 26, 34, 50, 101, 152, 200):
        a, b, d = (figures(f"resnet{depth}{letter}") for letter in "abd")
        assert figures(f"resnet{depth}c") == d  # d adds a pool, which has neither
        print(f"| {depth} | {b[0]} | {d[0]} | {a[1]} | {b[1]} | {d[1]} |")


if __name__ == "__main__":
    main()
