"""The program of a worker process of `validate`, which inspects images one by one.

`python inspector.py PIPE MEMORY` reads requests as JSON from the pipe with this file
descriptor, and writes the answers of `inspection.inspect` to it. Decoders are written
in C++ and read untrusted files. If one crashes, only this process ends, and the parent
continues.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

EXHAUSTED = 77  # the exit code if an image needs more memory than allowed


def main(pipe: str, memory: str) -> None:
    connection = Connection(int(pipe))
    threading.Thread(target=_leave_with_parent, args=[int(pipe)], daemon=True).start()
    sys.path.append(str(Path(__file__).parents[3]))  # the folder of this package
    from PIL import Image

    from keras_resnet.data.checks.inspection import OUT_OF_MEMORY, inspect, warm_up
    from keras_resnet.memory import limit_memory

    Image.MAX_IMAGE_PIXELS = None  # no limit, as Pillow reads only headers here
    warm_up()
    limit_memory(int(memory))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg prints many warnings
    connection.send_bytes(b"{}")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:  # the parent has ended, or closed the pipe
            return
        try:
            answer = inspect(request)
        except OUT_OF_MEMORY:
            os._exit(EXHAUSTED)  # the parent starts a new process
        connection.send_bytes(json.dumps(answer).encode())


def _leave_with_parent(pipe: int) -> None:
    """Ends this process as soon as the parent closes its end of the pipe or ends."""
    poll = select.poll()
    poll.register(pipe, 0)  # 0: only a hangup or an error, which are always reported
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
