"""Serves an exported model over HTTP at the REST paths of TensorFlow Serving.

It is for trying out models, for tests, and for machines without TensorFlow Serving; use
the latter in production. The packages of the extra `serve` are required, and are
imported only when a server is created.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_resnet.errors import ServeError
from keras_resnet.export.numbering import version_folders
from keras_resnet.serve.production import command
from keras_resnet.serve.settings import Settings

__all__ = ["ServeError", "Settings", "asgi", "check_folder", "command", "run"]


def asgi(folder: str | os.PathLike[str], settings: Settings | None = None) -> Any:
    """Returns an ASGI application that serves the newest version in `folder`.

    Args:
        folder: a model folder, which has numbered versions.
        settings: by default, `Settings` with the name of the folder.

    Raises:
        ServeError: the extra `serve` is not installed.
    """
    settings = settings or Settings(Path(folder).resolve().name)
    return _extra("app").create(_extra("versions").Versions(folder, settings))


def run(
    folder: str | os.PathLike[str],
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 8501,
    announce: Callable[[str, int], object] = print,
) -> None:
    """Serves the newest version in `folder` until SIGTERM or SIGINT.

    Do not train a model in the same process: this function sets the environment
    variables TF_ENABLE_ONEDNN_OPTS and TF_ONEDNN_ASSUME_FROZEN_WEIGHTS to 1, unless
    they are set, and the latter lets oneDNN assume that weights never change.

    Args:
        folder: a model folder, which has numbered versions.
        settings: the name of the model and the limits of the server.
        host: the address to listen on.
        port: the port to listen on; 0 means any free port.
        announce: a function that is called with the URL and the version when the server
            is ready.

    Raises:
        ServeError: the extra `serve` is not installed, the port is not available, or no
            version can be loaded.
    """
    check_folder(folder)
    _extra("server").run(folder, settings, host, port, announce)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raises a ServeError unless `folder` is a folder with at least one version."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ServeError(f"{folder}: no such folder")
    if (folder / "saved_model.pb").exists():
        raise ServeError(f"{folder}: is one version; give {folder.resolve().parent}")
    if not version_folders(folder):
        raise ServeError(
            f"{folder}: has no version such as 1/; `keras-resnet export` writes one"
        )


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(f"keras_resnet.serve.{module}")
    except ModuleNotFoundError as error:
        raise ServeError(
            f"{error.name} is not installed: pip install keras-resnet-d[serve]"
        ) from error
