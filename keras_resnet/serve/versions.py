"""Polls a model folder and keeps its newest version loaded.

A new version is loaded and warmed up before it replaces the old one, which is closed
when the last request to it has ended. If a version cannot be loaded, its error is in
`statuses`, and it is tried again only when its files change.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from keras_resnet.errors import SavedModelError
from keras_resnet.export.numbering import version_folders
from keras_resnet.export.served import open_served
from keras_resnet.serve import answers
from keras_resnet.serve.batching import RUNNERS, Batcher, Pool
from keras_resnet.serve.loading import Files, list_files, load_and_run
from keras_resnet.serve.metrics import Metrics
from keras_resnet.serve.settings import Settings

log = logging.getLogger(__name__)
_open = partial(open_served, streams=RUNNERS)
_REMEMBERED = 16  # closed versions that `statuses` still lists


class Version:
    """A loaded version of a model, which must be used only inside of `use`."""

    def __init__(self, number: int, model: Any, batcher: Batcher) -> None:
        self.number, self.model, self.batcher = number, model, batcher
        self._users, self._unused = 0, asyncio.Event()
        self._unused.set()
        self._is_closing = False

    @contextlib.contextmanager
    def use(self) -> Iterator["Version"]:
        """Returns a context manager inside of which the version is not closed."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    def end(self) -> None:
        """Ends the current runs; the version cannot run again."""
        if not self._is_closing:  # another thread may be freeing the model
            self.model.end()

    async def close(self) -> None:
        """Waits until the version is not used, and frees it; no new use may start."""
        await self._unused.wait()
        # batches still run after their callers have gone, and need the model
        await self.batcher.drain()
        self._is_closing = True
        await asyncio.to_thread(self.model.close)


class Versions:
    """Keeps the newest version in a model folder loaded.

    Args:
        folder: the model folder.
        settings: the settings of the server.
        load: a function from the folder of a version to a model.

    Attributes:
        current: the Version that is served, or None.
        metrics: the Metrics of the server.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Settings,
        load: Callable[[Path], Any] = _open,
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
        """Returns model_version_status, with the newest version first."""
        return [
            answers.status(number, *self._states[number])
            for number in sorted(self._states, reverse=True)
        ]

    async def start(self) -> None:
        """Polls the folder once, and from then on every `settings.poll` seconds."""
        await self.poll()
        if self.settings.poll:
            self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stops polling, and closes all versions when their requests have ended."""
        if self._watching:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        self._show(None)
        while self._closing:
            await asyncio.wait([*self._closing])
        self._pool.executor.shutdown()

    def end(self) -> None:
        """Ends the current runs of all open versions, which cannot run again."""
        for version in self._open:
            version.end()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.settings.poll)
            try:
                await self.poll()
            except Exception:  # the next attempt may succeed
                log.exception("%s: could not be searched for versions", self.folder)

    async def poll(self) -> None:
        """Searches the folder once, and loads the newest version that can be loaded."""
        found = await asyncio.to_thread(version_folders, self.folder)
        self._forget(found.keys())
        for number in sorted(found, reverse=True):
            if self.current and self.current.number == number:
                return
            if await self._try(number, found[number]):
                return
        self._show(None)  # the folder of the loaded version is gone

    def _forget(self, found: Collection[int]) -> None:
        """Forgets failures and the oldest states of versions whose folders are gone."""
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
            # it may still be being copied, and is tried again when its files change
            self._failed[number] = files
            self._states[number] = ("END", f"{error}")
            log.error("version %s cannot be loaded: %s", number, error)
            return False
        self._failed.pop(number, None)
        version = Version(number, model, Batcher(model, self._pool))
        self._open.add(version)
        self._show(version)
        return True

    def _show(self, version: Version | None) -> None:
        """Sets the current version, and closes the previous one when it is idle."""
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
            log.error("version %s cannot be closed: %s", version.number, error)
        self._open.discard(version)
        if self._states.get(version.number, ("",))[0] == "UNLOADING":
            self._states[version.number] = ("END", None)
