"""Looks for the versions in a folder, and keeps the newest loaded.

A new version is loaded, and warmed up, before the old one is dropped; the old one is
closed when the last request that uses it has ended. One that does not load is named
with its error in `statuses`, and tried again only when its files change.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
from pathlib import Path

import numpy as np

from keras_resnet.export.numbering import version_folders
from keras_resnet.export.savedmodel import SavedModel, SavedModelError
from keras_resnet.serve import answers
from keras_resnet.serve.batching import RUNNERS, Batcher

log = logging.getLogger(__name__)
_REMEMBERED = 16  # versions that have ended
_SAMPLED = {"string", "float32", "float64", "int32", "int64", "uint8", "bool"}
# a PNG of 1x1, black
_PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a4944415478da6360000000020001e527defc0000000049454e44ae4260"
    "82"
)


class Version:
    """A loaded version of the model; whoever uses it says so with `use`."""

    def __init__(self, number, model, batcher):
        self.number, self.model, self.batcher = number, model, batcher
        self._users, self._unused = 0, asyncio.Event()
        self._unused.set()
        self._is_closing = False

    @contextlib.contextmanager
    def use(self):
        """Within this the version is not closed."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    def end(self):
        """Ends what runs; nothing is answered any more."""
        if not self._is_closing:  # or the model could be freed meanwhile
            self.model.end()

    async def close(self):
        """Frees the model once nobody uses it; nobody may begin to."""
        await self._unused.wait()
        # batches whose callers have gone run on: freeing under them would crash
        await self.batcher.drain()
        self._is_closing = True
        await asyncio.to_thread(self.model.close)


class Versions:
    """The newest version of `folder` that loads.

    Attributes:
        current: a Version, or None.
    """

    def __init__(self, folder, settings, metrics, load=SavedModel):
        self.folder, self.current = Path(folder), None
        self._settings, self._metrics, self._load = settings, metrics, load
        self._states, self._failed = {}, {}
        self._open: set[Version] = set()
        self._closing, self._watching = set(), None
        self._executor = concurrent.futures.ThreadPoolExecutor(RUNNERS, "batch")
        self._slots = asyncio.Semaphore(RUNNERS)

    def statuses(self):
        """model_version_status: the newest first, as TensorFlow Serving lists them."""
        return [
            answers.status(number, *self._states[number])
            for number in sorted(self._states, reverse=True)
        ]

    async def start(self):
        """Looks at the folder, and goes on to do so every `poll` seconds."""
        await self.poll()
        if self._settings.poll:
            self._watching = asyncio.create_task(self._watch())

    async def stop(self):
        """Looks no more, and closes what is loaded when its requests have ended."""
        if self._watching:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        self._show(None)
        while self._closing:
            await asyncio.wait([*self._closing])
        self._executor.shutdown()

    def end(self):
        """Ends what runs in the versions that are open; they answer nothing more."""
        for version in self._open:
            version.end()

    async def _watch(self):
        while True:
            await asyncio.sleep(self._settings.poll)
            try:
                await self.poll()
            except Exception:  # a disk that fails now may answer the next time
                log.exception("%s: could not look for versions", self.folder)

    async def poll(self):
        """Looks once."""
        found = await asyncio.to_thread(version_folders, self.folder)
        self._forget(found.keys())
        for number in sorted(found, reverse=True):
            if self.current and self.current.number == number:
                return
            if await self._try(number, self.folder / found[number]):
                return
        self._show(None)  # whatever is loaded has no folder any more

    def _forget(self, found):
        """Of versions whose folders are gone: that they failed, and the oldest."""
        for number in self._failed.keys() - found:
            del self._failed[number]
        ended = [n for n, state in self._states.items() if state[0] == "END"]
        for number in sorted({*ended} - {*found})[:-_REMEMBERED]:
            del self._states[number]

    async def _try(self, number, path):
        files = await asyncio.to_thread(_files, path)
        if self._failed.get(number) == files:
            return False
        self._states[number] = ("LOADING", None)
        try:
            model = await asyncio.to_thread(_loaded, self._load, path)
        except (SavedModelError, OSError) as error:
            # also one that was copied in while this looked: its files change
            self._failed[number] = files
            self._states[number] = ("END", f"{error}")
            log.error("version %s does not load: %s", number, error)
            return False
        limits = self._settings
        batcher = Batcher(
            *(model, limits.max_batch, limits.wait_ms / 1000),
            *(self._executor, self._slots, self._metrics.batch_rows.observe),
            limits.max_request_pixels,
        )
        self._failed.pop(number, None)
        version = Version(number, model, batcher)
        self._open.add(version)
        self._show(version)
        return True

    def _show(self, version):
        """Serves this one from now on, and closes the one before in its time."""
        before, self.current = self.current, version
        self._metrics.version.set(version.number if version else 0)
        if version:
            self._states[version.number] = ("AVAILABLE", None)
        if before:
            task = asyncio.create_task(self._close(before))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, version):
        self._states[version.number] = ("UNLOADING", None)
        try:
            await version.close()
        except SavedModelError as error:
            log.error("version %s does not close: %s", version.number, error)
        self._open.discard(version)
        if self._states.get(version.number, ("",))[0] == "UNLOADING":
            self._states[version.number] = ("END", None)


def _files(path):
    """What changes when a file in this folder does."""
    found = []
    for root, _, names in os.walk(path):
        for name in names:
            # a file may be gone before it is looked at
            with contextlib.suppress(OSError):
                facts = os.stat(os.path.join(root, name))
                found.append((root, name, facts.st_size, facts.st_mtime_ns))
    return sorted(found)


def _loaded(load, path):
    """A model whose signatures have run once.

    The first run takes long; and it shows what the loader does not look at: without its
    variables a model loads, and then answers nothing.
    """
    model = load(path)
    try:
        for name, signature in model.signatures.items():
            sources = signature["inputs"].items()
            if all(dtype in _SAMPLED and shape for _, (dtype, shape) in sources):
                row = {key: _sample(*info) for key, info in sources}
                model.run(name, **row)
    except SavedModelError:
        model.close()
        raise
    return model


def _sample(dtype, shape):
    """One row for an input, of zeros or, for bytes, a picture."""
    sizes = [1 if size is None else size for size in shape]
    if dtype == "string":
        return np.full(sizes, _PICTURE, object)
    return np.zeros(sizes, dtype)
