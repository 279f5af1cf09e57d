"""The program of a worker of `validate`, which inspects one picture after another.

`python inspector.py PIPE MEMORY` reads requests as JSON from the pipe with that file
descriptor and writes the answers of `inspection.inspect` to it. Decoders are C++ and
read files that nobody vouches for: if one crashes it ends this process, and the parent
goes on.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path

EXHAUSTED = 77  # exit code: a picture needed more memory than is allowed


def main(pipe: str, memory: str) -> None:
    connection = Connection(int(pipe))
    threading.Thread(target=_leave_with_parent, args=[int(pipe)], daemon=True).start()
    sys.path.append(str(Path(__file__).parents[3]))  # the folder of this package
    from PIL import Image

    from keras_resnet.data.checks.inspection import OUT_OF_MEMORY, inspect, warm_up
    from keras_resnet.memory import limit_memory

    Image.MAX_IMAGE_PIXELS = None  # Pillow reads only headers here
    warm_up()
    limit_memory(int(memory))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libjpeg prints many warnings
    connection.send_bytes(b"{}")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:  # the parent has ended, or has no more requests
            return
        try:
            answer = inspect(request)
        except OUT_OF_MEMORY:
            os._exit(EXHAUSTED)  # the next picture gets a fresh process
        connection.send_bytes(json.dumps(answer).encode())


def _leave_with_parent(pipe: int) -> None:
    """Ends this process, whatever it does, once the other end of the pipe is closed."""
    poll = select.poll()
    poll.register(pipe, 0)  # no other event
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
