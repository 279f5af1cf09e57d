"""The command serve."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from keras_resnet import serve as serving
from keras_resnet.cli.base import complain, group, json_option, print_result
from keras_resnet.errors import ServeError
from keras_resnet.serve import Settings

_DEFAULTS = Settings("any")


def _limit(name: str, kind: click.ParamType, text: str) -> Callable[..., Any]:
    return click.option(
        name,
        type=kind,
        default=getattr(_DEFAULTS, name.strip("-").replace("-", "_")),
        show_default=True,
        help=text,
    )


@group.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--name", help="NAME in the path /v1/models/NAME. By default, the name of DIR."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8501,
    show_default=True,
    help="Port for REST; 0 takes a free one.",
)
@_limit(
    "--poll",
    click.FloatRange(0),
    "Seconds between checks for new versions; 0 checks once.",
)
@_limit("--max-batch", click.IntRange(1), "Largest batch of rows.")
@_limit("--wait-ms", click.FloatRange(0), "Time that a request waits for others.")
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=_DEFAULTS.max_body // 2**20,
    show_default=True,
    help="Largest request, in MiB.",
)
@_limit("--max-rows", click.IntRange(1), "Most rows in a request.")
@_limit("--max-pixels", click.IntRange(1), "Most pixels of an image.")
@_limit("--max-request-pixels", click.IntRange(1), "Most pixels of a request.")
@_limit("--max-queue", click.IntRange(1), "Most requests at a time; others get 503.")
@_limit(
    "--max-connections", click.IntRange(1), "Most connections; idle ones are closed."
)
@_limit(
    "--answer-seconds",
    click.FloatRange(0, min_open=True),
    "Time to compute an answer; then 504.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Further host name that requests may have; repeatable.",
)
@click.option(
    "--here", is_flag=True, help="Serve here, without looking for TensorFlow Serving."
)
@json_option
def serve(
    folder: Path,
    name: str | None,
    host: str,
    port: int,
    max_body: int,
    here: bool,
    as_json: bool,
    **limits: Any,
) -> None:
    """Serve the newest version in DIR by TensorFlow Serving's REST API.

    If tensorflow_model_server or docker is installed, this only prints the command that
    starts TensorFlow Serving, which is recommended for production.
    """

    from keras_resnet.export.tf_serving import model_name

    def announce(url: str, version: int) -> None:
        if as_json:
            facts = {"url": url, "model": settings.name, "version": str(version)}
            click.echo(json.dumps(facts))
        else:
            click.echo(
                f"{settings.name}, version {version}, is served at {url}; "
                "Ctrl-C stops. In production use TensorFlow Serving."
            )

    try:
        settings = Settings(
            name or model_name(folder), max_body=max_body * 2**20, **limits
        )
        serving.check_folder(folder)
        words = None if here else serving.command(folder, settings.name, port)
        if words:
            return _print_command(words, as_json)
        serving.run(folder, settings, host, port, announce)
    except ServeError as error:
        complain(error)
        raise click.exceptions.Exit(1) from error


def _print_command(words: Sequence[str], as_json: bool) -> None:
    print_result({"command": words}, as_json)
    if not as_json:
        click.echo(shlex.join(words))
        click.echo(
            "This is TensorFlow Serving, for production; with --here the built-in "
            "server serves instead.",
            err=True,
        )
