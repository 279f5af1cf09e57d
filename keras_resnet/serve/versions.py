"""Polls a model folder, and keeps its newest version loaded.

A new version is loaded, and warmed up, before the old one is dropped; the old one is
closed when the last request that uses it has ended. One that does not load has its
error in `statuses`, and is tried again only when its files change.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from keras_resnet.errors import SavedModelError
from keras_resnet.export.numbering import version_folders
from keras_resnet.export.savedmodel import SavedModel
from keras_resnet.serve import answers
from keras_resnet.serve.batching import Batcher, Pool
from keras_resnet.serve.loading import Files, list_files, load_and_run
from keras_resnet.serve.metrics import Metrics
from keras_resnet.serve.settings import Settings

log = logging.getLogger(__name__)
_REMEMBERED = 16  # versions that have ended


class Version:
    """A loaded version of the model, which is to be used within `use`."""

    def __init__(self, number: int, model: Any, batcher: Batcher) -> None:
        self.number, self.model, self.batcher = number, model, batcher
        self._users, self._unused = 0, asyncio.Event()
        self._unused.set()
        self._is_closing = False

    @contextlib.contextmanager
    def use(self) -> Iterator["Version"]:
        """Within this the version is not closed."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    def end(self) -> None:
        """Ends what runs; nothing is answered any more."""
        if not self._is_closing:  # else the model may be freed meanwhile
            self.model.end()

    async def close(self) -> None:
        """Frees the model when nobody uses it any more; nobody may begin to."""
        await self._unused.wait()
        # batches whose callers have gone still run, and would crash without it
        await self.batcher.drain()
        self._is_closing = True
        await asyncio.to_thread(self.model.close)


class Versions:
    """The newest version of `folder` that loads.

    Args:
        load: makes a model of a version's folder.

    Attributes:
        current: a Version, or None.
        metrics: of the server.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Settings,
        load: Callable[[Path], Any] = SavedModel,
    ) -> None:
        self.folder, self.settings, self.metrics = Path(folder), settings, Metrics()
        self.current: Version | None = None
        self._load = load
        self._states: dict[int, tuple[str, str | None]] = {}  # state, error
        self._failed: dict[int, Files] = {}
        self._open: set[Version] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._pool = Pool(
            settings.max_batch,
            settings.wait_ms / 1000,
            settings.max_request_pixels,
            self.metrics.batch_rows.observe,
        )

    def statuses(self) -> list[dict[str, Any]]:
        """model_version_status: the newest first, as TensorFlow Serving lists them."""
        return [
            answers.status(number, *self._states[number])
            for number in sorted(self._states, reverse=True)
        ]

    async def start(self) -> None:
        """Polls the folder, now and then every `poll` seconds."""
        await self.poll()
        if self.settings.poll:
            self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stops polling, and closes what is loaded when its requests have ended."""
        if self._watching:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        self._show(None)
        while self._closing:
            await asyncio.wait([*self._closing])
        self._pool.executor.shutdown()

    def end(self) -> None:
        """Ends what runs in the versions that are open; they answer nothing more."""
        for version in self._open:
            version.end()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.poll)
            try:
                await self.poll()
            except Exception:  # a disk that fails now may answer the next time
                log.exception("%s: could not look for versions", self.folder)

    async def poll(self) -> None:
        """Looks for versions once."""
        found = await asyncio.to_thread(version_folders, self.folder)
        self._forget(found.keys())
        for number in sorted(found, reverse=True):
            if self.current and self.current.number == number:
                return
            if await self._try(number, found[number]):
                return
        self._show(None)  # the folder of the loaded version is gone

    def _forget(self, found: Collection[int]) -> None:
        """Forgets versions whose folders are gone: failures, and the oldest states."""
        for number in self._failed.keys() - {*found}:
            del self._failed[number]
        ended = [n for n, state in self._states.items() if state[0] == "END"]
        for number in sorted({*ended} - {*found})[:-_REMEMBERED]:
            del self._states[number]

    async def _try(self, number: int, path: Path) -> bool:
        files = await asyncio.to_thread(list_files, path)
        if self._failed.get(number) == files:
            return False
        self._states[number] = ("LOADING", None)
        try:
            model = await asyncio.to_thread(load_and_run, self._load, path)
        except (SavedModelError, OSError) as error:
            # perhaps it is still being copied: then its files change
            self._failed[number] = files
            self._states[number] = ("END", f"{error}")
            log.error("version %s does not load: %s", number, error)
            return False
        self._failed.pop(number, None)
        version = Version(number, model, Batcher(model, self._pool))
        self._open.add(version)
        self._show(version)
        return True

    def _show(self, version: Version | None) -> None:
        """Serves this version from now on, and closes the one before once idle."""
        before, self.current = self.current, version
        self.metrics.version.set(version.number if version else 0)
        if version:
            self._states[version.number] = ("AVAILABLE", None)
        if before:
            task = asyncio.create_task(self._close(before))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, version: Version) -> None:
        self._states[version.number] = ("UNLOADING", None)
        try:
            await version.close()
        except SavedModelError as error:
            log.error("version %s does not close: %s", version.number, error)
        self._open.discard(version)
        if self._states.get(version.number, ("",))[0] == "UNLOADING":
            self._states[version.number] = ("END", None)
