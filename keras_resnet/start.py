"""What the command line sets before TensorFlow is imported: its log, and oneDNN.

TensorFlow logs to file descriptor 2 while it is imported, before any of its settings
counts, and libjpeg does at every odd picture. So native libraries log nowhere, and
stderr is for the command line's own lines. With TF_CPP_MIN_LOG_LEVEL=0 in the
environment all of it is shown.
"""

import os
import sys

from keras_resnet import onednn

if os.path.basename(sys.argv[0]).startswith("keras-resnet"):
    onednn.choose()
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "0":
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
