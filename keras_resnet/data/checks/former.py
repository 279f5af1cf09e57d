"""Reads the manifest that an earlier `validate` or `prepare` wrote, for comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_resnet.errors import DataError

Entry = dict[str, Any]  # the manifest's description of a file or a shard


@dataclass(frozen=True)
class FormerManifest:
    """The existing manifest, which `validate` is going to replace."""

    path: Path
    class_names: tuple[str, ...]
    first_label: int | None
    splits: dict[str, dict[str, Entry]]  # {split: {file: entry}}
    good: frozenset[str]  # the files that the manifest does not list as bad

    def entry(self, file: str) -> Entry | None:
        """The entry of a file or shard, or None if the manifest does not list it."""
        return next(
            (entries[file] for entries in self.splits.values() if file in entries), None
        )

    def expected_sha256(self, file: str) -> str | None:
        """The SHA-256 that a file must have; None if the file is new or was bad."""
        entry = self.entry(file) or {}
        if "was" in entry:
            return entry["was"]
        return entry.get("sha256") if file in self.good else None


def read_former(file: Path) -> FormerManifest | None:
    """Reads a manifest; returns None if the file does not exist.

    Raises:
        DataError: the file is not a manifest.
    """
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text())
        splits, good = {}, set()
        for name, split in manifest["splits"].items():
            entries = split["shards"] if "shards" in split else split["files"]
            splits[name] = {entry["file"]: entry for entry in entries}
            bad = {entry["number"] for entry in split["bad"]}
            good |= {e["file"] for number, e in enumerate(entries) if number not in bad}
        return FormerManifest(
            path=file,
            class_names=tuple(manifest["class_names"]),
            first_label=manifest.get("first_label"),
            splits=splits,
            good=frozenset(good),
        )
    except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: not a manifest of this package ({error!r}); remove it, and run "
            "`keras-resnet validate` again"
        ) from error
