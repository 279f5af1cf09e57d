"""The command soup: the mean of several models as one."""

from __future__ import annotations

from pathlib import Path

import click

from keras_resnet.cli.base import group, json_option, make_table, plain, print_result
from keras_resnet.cli.evaluating import progress_bar
from keras_resnet.files import atomic_write


@group.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The .keras file to write, a MODEL for every other command.",
)
@click.option(
    "--kind",
    type=click.Choice(["greedy", "uniform"]),
    default="greedy",
    show_default=True,
    help="uniform: the mean of all; greedy: the best, and each further one with which "
    "the mean is not worse.",
)
@json_option
def soup(
    runs: tuple[str, ...], data: Path, out: Path, kind: str, as_json: bool
) -> None:
    """Average the weights of several RUNs of one net, trained in different ways.

    RUN is a run directory or a .keras file. The best runs to average began with the
    same weights. Top-1 is measured on the validation images of DATA, and the statistics
    of batch normalization are estimated anew from its training images.
    """
    if len(runs) < 2:
        raise click.UsageError("RUN...: give two or more, and DATA after them")
    if out.suffix != ".keras" or not out.parent.is_dir():
        raise click.BadParameter(
            f"{str(out)!r}: must end in .keras, in a folder that exists",
            param_hint="--out",
        )
    from keras_resnet import evaluate as evaluation

    bar = progress_bar("evaluating", as_json)
    model, result = evaluation.soup(runs, data, kind, bar)
    with atomic_write(out) as partial:
        model.save(partial)
    rows = [
        (row["model"], "yes" if row["used"] else "no", f"{row['top1']:.2%}")
        for row in result["models"]
    ]
    rows.append((str(out), f"{kind} soup", f"{result['top1']:.2%}"))
    table = make_table(None, "model", "used", "top-1", rows=rows)
    line = f"top-1 of {result['examples']} validation images; the soup is {plain(out)}"
    print_result({"path": str(out), **result}, as_json, table, line)
