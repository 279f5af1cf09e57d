"""Keeps the command line's stderr for its own lines: native libraries log elsewhere.

TensorFlow logs to file descriptor 2 while it is imported, before any of its settings
counts, and libjpeg does at every odd picture. With TF_CPP_MIN_LOG_LEVEL in the
environment all of it is shown.
"""

import os
import sys

if (
    os.path.basename(sys.argv[0]).startswith("keras-resnet")
    and "TF_CPP_MIN_LOG_LEVEL" not in os.environ
):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
