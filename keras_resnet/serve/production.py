"""The command that serves a folder with TensorFlow Serving, where it is installed."""

import os
import shutil
import subprocess

from keras_resnet import onednn

# The environment of a server: oneDNN, also where TensorFlow leaves it off (onednn.py).
# It reorders a convolution's kernel only once, not at each request, if it is told that
# no variable changes, which holds in a process that trains nothing.
ENVIRONMENT = {onednn.VARIABLE: "1", "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}
_PORT = 8501  # of TensorFlow Serving's REST
_SECONDS = 5.0  # that docker's daemon may take to answer


def command(
    folder: str | os.PathLike[str], name: str, port: int | None
) -> list[str] | None:
    """The words of the command, or None if neither program can run."""
    path, port = os.path.abspath(folder), port or _PORT  # 0 would mean no REST there
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
    """Whether docker has a daemon too: the client alone serves nothing."""
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
