"""Serves an exported model over HTTP, with TensorFlow Serving's REST paths.

For looking at a model, for tests, and for machines without TensorFlow Serving; serve
with that in production. It needs the extra `serve`, whose packages are imported when a
server is made.
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
    """An ASGI application that serves the newest version in `folder`.

    Args:
        settings: by default those of a model that is named as the folder.

    Raises:
        ServeError: the extra is not installed.
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
    """Serves `folder` at host:port until SIGTERM or SIGINT; 0 is any free port.

    For the whole process oneDNN is turned on (TF_ENABLE_ONEDNN_OPTS) and told that
    weights do not change (TF_ONEDNN_ASSUME_FROZEN_WEIGHTS), unless the variables are
    set: train nothing in it.

    Args:
        announce: is called with the URL and the version once requests are answered.

    Raises:
        ServeError: the extra is not installed, the port is taken, no version loads.
    """
    check_folder(folder)
    _extra("server").run(folder, settings, host, port, announce)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raises ServeError unless there is a version in `folder`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ServeError(f"{folder}: no such folder")
    if (folder / "saved_model.pb").exists():
        raise ServeError(f"{folder}: is one version; give {folder.resolve().parent}")
    if not version_folders(folder):
        raise ServeError(
            f"{folder}: has no version, as {folder}/1; `keras-resnet export` writes one"
        )


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(f"keras_resnet.serve.{module}")
    except ModuleNotFoundError as error:
        raise ServeError(
            f"{error.name} is not installed: pip install keras-resnet-d[serve]"
        ) from error
