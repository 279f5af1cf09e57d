"""Serves an exported model over HTTP, with TensorFlow Serving's REST paths.

For looking at a model, for tests, and for where TensorFlow Serving is not to be had; in
production serve with that. It needs the extra `serve`, which is imported when a server
is made.
"""

import importlib
from pathlib import Path

from keras_resnet.errors import ServeError
from keras_resnet.export.numbering import version_folders
from keras_resnet.serve.production import command
from keras_resnet.serve.settings import Settings

__all__ = ["ServeError", "Settings", "asgi", "check_folder", "command", "run"]


def asgi(folder, settings=None):
    """An ASGI application that serves the newest version in `folder`.

    Args:
        settings: Settings; by default named as the folder is.

    Raises:
        ServeError: the extra is not installed.
    """
    settings = settings or Settings(Path(folder).resolve().name)
    return _extra("app").create(folder, settings)


def run(folder, settings, host="127.0.0.1", port=8501, announce=print):
    """Serves `folder` at host:port until SIGTERM or SIGINT; 0 is any free port.

    For the whole process oneDNN is turned on (TF_ENABLE_ONEDNN_OPTS) and told that
    weights stay as they are (TF_ONEDNN_ASSUME_FROZEN_WEIGHTS), where these are not set:
    train nothing in it.

    Args:
        announce: is called with the URL and the version's number when they are there.

    Raises:
        ServeError: the extra is not installed, the port is taken, no version loads.
    """
    check_folder(folder)
    _extra("server").run(folder, settings, host, port, announce)


def check_folder(folder):
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


def _extra(module):
    try:
        return importlib.import_module(f"keras_resnet.serve.{module}")
    except ModuleNotFoundError as error:
        raise ServeError(
            f"{error.name} is not installed: pip install keras-resnet-d[serve]"
        ) from error
