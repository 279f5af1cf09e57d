"""The command line that serves a model folder with TensorFlow Serving."""

import os
import shutil
import subprocess

from keras_resnet import onednn
from keras_resnet.export.formats import FILES
from keras_resnet.export.numbering import version_folders

# The environment of a server. The first variable enables oneDNN where TensorFlow does
# not (see onednn.py). The second promises that variables do not change, so that oneDNN
# reorders the kernel of a convolution once instead of for each request.
ENVIRONMENT = {onednn.VARIABLE: "1", "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}
_PORT = 8501  # TensorFlow Serving's default for REST
_SECONDS = 5.0  # for docker's daemon to answer


def command(
    folder: str | os.PathLike[str], name: str, port: int | None
) -> list[str] | None:
    """Returns the words of the command, which uses a local server or else docker.

    Args:
        folder: the model folder.
        name: the name of the model.
        port: the port for REST; None or 0: 8501.

    Returns:
        None if neither tensorflow_model_server nor docker can run, or if no version is
        a SavedModel.
    """
    found = version_folders(folder).values()
    if not any((version / FILES["savedmodel"]).is_file() for version in found):
        return None
    path, port = os.path.abspath(folder), port or _PORT  # 0 would disable REST
    settings = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    if shutil.which("tensorflow_model_server"):
        return [
            *("env", *settings),
            "tensorflow_model_server",
            "--port=8500",
            f"--rest_api_port={port}",
            f"--model_name={name}",
            f"--model_base_path={path}",
        ]
    if _docker_runs():
        return [
            *("docker", "run", "-p", "8500:8500", "-p", f"{port}:{_PORT}"),
            *("-v", f"{path}:/models/{name}", "-e", f"MODEL_NAME={name}"),
            *(word for setting in settings for word in ("-e", setting)),
            "tensorflow/serving",
        ]
    return None


def _docker_runs() -> bool:
    """Returns whether docker is installed and its daemon answers."""
    if not shutil.which("docker"):
        return False
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())
