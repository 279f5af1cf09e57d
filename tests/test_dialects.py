"""The tables of names are the frameworks' own, row for row."""

import csv
import re

import pytest
from checkpoints import GOLDENS

from keras_resnet.config import VARIANTS
from keras_resnet.weights.dialects import DIALECTS

# column of the recorded table -> (dialect, its scheme)
COLUMNS = {
    "tf_slim(gluon2TF)": ("slim", 0),
    "gluoncv": ("gluon", 0),
    "timm": ("timm", 0),
    "paddleclas_legendary": ("paddle", 0),
    "paddleclas_2.0_dygraph": ("paddle", 1),
    "paddle_static": ("paddle", 2),
    "paddledet": ("paddle", 4),
}


def our_path(legendary, starts):
    """Our path of a PaddleClas name, whose blocks are numbered through all stages."""
    if match := re.fullmatch(r"fc\.(weight|bias)", legendary):
        return f"head/{'kernel' if match[1] == 'weight' else 'bias'}"
    where, number, rest = re.fullmatch(
        r"(stem|blocks)\.(\d+)\.(.*)", legendary
    ).groups()
    if where == "stem":
        module, leaf = f"stem/conv{int(number) + 1}", rest
    else:
        stage = max(s for s, start in enumerate(starts) if start <= int(number))
        part, _, leaf = rest.partition(".")
        inner = "shortcut/projection" if part == "short" else f"conv{int(part[4]) + 1}"
        module = f"stage{stage + 1}_block{int(number) - starts[stage]}/{inner}"
    leaves = {
        "conv.weight": "conv/kernel",
        "bn.weight": "norm/gamma",
        "bn.bias": "norm/beta",
        "bn._mean": "norm/moving_mean",
        "bn._variance": "norm/moving_variance",
    }
    return f"{module}/{leaves[leaf]}"


@pytest.mark.parametrize(
    ("table", "variant", "rows"), [("18", "resnet18vd", 117), ("50", "resnet50d", 277)]
)
def test_names_are_those_of_the_recorded_table(table, variant, rows):
    config = VARIANTS[variant]
    starts = [sum(config.depths[:stage]) for stage in range(4)]
    with open(GOLDENS / f"name_map_{table}.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == rows
    for line in lines:
        path = our_path(line["paddleclas_legendary"], starts)
        for column, (dialect, scheme) in COLUMNS.items():
            theirs = line[column].removeprefix(f"resnet{table}_v1d/")
            if theirs.startswith("-"):  # only Paddle's 18 has this tensor
                continue
            expected = None if theirs == "(no head)" else theirs
            assert DIALECTS[dialect][scheme].name(path, config) == expected


@pytest.mark.parametrize(
    ("scheme", "variant", "block", "name"),
    [
        (2, "resnet101d", "stage3_block22", "res4w_branch2a_weights"),
        (3, "resnet101d", "stage3_block22", "res4b22_branch2a_weights"),
        (3, "resnet101d", "stage3_block0", "res4a_branch2a_weights"),
        (3, "resnet101d", "stage2_block3", "res3d_branch2a_weights"),
        (3, "resnet50d", "stage3_block5", "res4f_branch2a_weights"),
        (5, "resnet152d", "stage3_block35", "res4.res4b35.branch2a.conv.weight"),
    ],
)
def test_long_stage_of_paddle_is_lettered_or_numbered(scheme, variant, block, name):
    ours = DIALECTS["paddle"][scheme].name(
        f"{block}/conv1/conv/kernel", VARIANTS[variant]
    )
    assert ours == name
