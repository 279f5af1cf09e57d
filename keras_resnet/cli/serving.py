"""The command `serve`."""

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
from keras_resnet.export.numbering import model_name
from keras_resnet.serve import Settings

_DEFAULTS = Settings("any")


def _limit(name: str, kind: click.ParamType, text: str) -> Callable[..., Any]:
    """An option for the field of Settings with the same name and default."""
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
    "--name", help="Name in the paths, /v1/models/NAME; by default that of DIR."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8501,
    show_default=True,
    help="Port of the REST API; 0 takes any free port.",
)
@_limit(
    "--poll",
    click.FloatRange(0),
    "Seconds between two scans of DIR for new versions; 0 scans only once.",
)
@_limit("--max-batch", click.IntRange(1), "Maximum number of rows in a batch.")
@_limit(
    "--wait-ms",
    click.FloatRange(0),
    "Milliseconds that a request may wait for others to join its batch.",
)
@click.option(
    "--max-body",
    type=click.IntRange(1),
    default=_DEFAULTS.max_body // 2**20,
    show_default=True,
    help="Maximum size of a request, in MiB.",
)
@_limit("--max-rows", click.IntRange(1), "Maximum number of rows in a request.")
@_limit(
    "--max-pixels",
    click.IntRange(1),
    "Maximum number of pixels of an image, according to its header.",
)
@_limit(
    "--max-request-pixels",
    click.IntRange(1),
    "Maximum number of pixels of all images of a request.",
)
@_limit(
    "--max-queue",
    click.IntRange(1),
    "Maximum number of requests at a time; others are answered with status 503.",
)
@_limit(
    "--max-connections",
    click.IntRange(1),
    "Maximum number of connections; beyond it the one idle the longest is closed.",
)
@_limit(
    "--answer-seconds",
    click.FloatRange(0, min_open=True),
    "Time limit for computing an answer, in seconds; beyond it the status is 504.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Another host name that requests may be sent to, besides localhost, HOST and "
    "IP addresses; repeatable.",
)
@click.option("--here", is_flag=True, help="Serve without TensorFlow Serving.")
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
    """Serve the newest version in DIR at the REST paths of TensorFlow Serving.

    If tensorflow_model_server or docker is installed, this only prints the command that
    serves with TensorFlow Serving, which is recommended for production.
    """

    def announce(url: str, version: int) -> None:
        if as_json:
            result = {"url": url, "model": settings.name, "version": str(version)}
            click.echo(json.dumps(result))
        else:
            click.echo(
                f"{settings.name}, version {version}, is served at {url}; "
                "press Ctrl-C to stop. In production use TensorFlow Serving."
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
            "This command starts TensorFlow Serving, which is recommended for "
            "production; --here starts the built-in server instead.",
            err=True,
        )
