"""Uploads the best model of a run to the Hugging Face hub, in one commit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_resnet.errors import HubError, ModelError, RunError
from keras_resnet.opening import open_model, read_model_info
from keras_resnet.recipe import Recipe
from keras_resnet.runs import layout
from keras_resnet.runs.history import Row, best_place
from keras_resnet.sharing.card import model_card, public
from keras_resnet.weights import save_weights
from keras_resnet.weights.hub import SETTINGS, WEIGHTS, timm_name, to_settings
from keras_resnet.weights.released import named
from keras_resnet.weights.translate import NATIVE

CARD = "README.md"
_REMEDIES = {
    401: "the hub does not accept the token; log in again by `hf auth login`",
    403: "the token may not write there; take one with write access to that owner",
    404: "the hub has no such owner, or does not show it to this token",
}


@dataclass(frozen=True)
class Push:
    """What `push_to_hub` uploaded, or would upload.

    Attributes:
        repository: "owner/name".
        files: {name: bytes}.
        card: the text of the model card, README.md.
        url: the address of the commit; None after a dry run.
    """

    repository: str
    files: dict[str, int]
    card: str
    url: str | None = None


def push_to_hub(
    run: str | os.PathLike[str],
    repository: str,
    dry_run: bool = False,
    private: bool = False,
    licence: str | None = None,
) -> Push:
    """Uploads the best model of a run to the Hugging Face hub, in one commit.

    The repository is created if it does not exist. It gets model.safetensors, in timm's
    names if timm has the net, and otherwise in those of this package; config.json, with
    what timm reads and the description that `create` reads; recipe.json; metrics.json,
    the row of the history of the model's epoch; and the model card, README.md.
    `create(weights="hf://owner/name")` builds the same net, bit for bit, and
    `timm.create_model("hf-hub:owner/name", pretrained=True)` that of timm.

    Args:
        run: a run directory of a classifier of this package.
        repository: "owner/name" or "hf://owner/name".
        dry_run: only return what would be uploaded; the hub is not asked.
        private: whether a repository that is created is private.
        licence: the licence of the weights, an identifier of the hub such as
            "apache-2.0"; None: that of the released weights that the run started from,
            and none in the card if it started from others.

    Returns:
        A Push.

    Raises:
        RunError: there is no finished run, or it cannot be read.
        ModelError: its model is not a classifier of this package.
        HubError: the repository's name is malformed, there is no token, or the hub
            refuses the upload or does not answer. The hub has then either all files or
            none, though perhaps a new repository without any.
    """
    repository = repository_name(repository)
    run = Path(run)
    recipe, path, row = _read_run(run)
    info = read_model_info(path)
    info.check_classifies(str(path))
    if info.config is None:
        raise ModelError(
            f"{path}: {info.variant} is not a net of this package; upload it by "
            "keras.saving.save_model(model, 'hf://owner/name') instead"
        )
    started = named(recipe.model, recipe.weights)
    if licence is None and started and started.licence != "unknown":
        licence = started.licence
    data = layout.read_json(run / layout.DATA)
    prefix = "val_ema_" if recipe.monitor.startswith("val_ema_") else "val_"
    measures = {
        name.removeprefix(prefix): value
        for name, value in row.items()
        if name.startswith(prefix)
    }
    epoch = row.get("epoch")
    card = model_card(repository, info, recipe, measures, data, licence, epoch)
    with tempfile.TemporaryDirectory() as folder:
        files = {
            CARD: card,
            SETTINGS: json.dumps(to_settings(info), indent=1),
            layout.RECIPE: json.dumps(public(recipe).to_dict(), indent=1),
            layout.METRICS: json.dumps(row, indent=1),
        }
        for name, text in files.items():
            Path(folder, name).write_text(text, encoding="utf8")
        dialect = "timm" if timm_name(info) else NATIVE
        save_weights(open_model(path), Path(folder, WEIGHTS), dialect)
        names = sorted([*files, WEIGHTS])
        sizes = {name: Path(folder, name).stat().st_size for name in names}
        url = None if dry_run else _upload(Path(folder), names, repository, private)
    return Push(repository, sizes, card, url)


def repository_name(repository: str) -> str:
    """owner/name of "owner/name" or "hf://owner/name"; HubError if it is neither."""
    name = repository.removeprefix("hf://")
    part = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
    if not re.fullmatch(rf"{part}/{part}", name, re.ASCII) or re.search(
        r"--|\.\.", name
    ):
        raise HubError(
            f"repository={repository!r}: must be owner/name or hf://owner/name, of "
            "letters, digits, -, _ and ."
        )
    return name


def _read_run(run: Path) -> tuple[Recipe, Path, Row]:
    """The recipe of a run, its best model, and the history's row of that model."""
    if not (run / layout.RECIPE).is_file():
        raise RunError(f"{run}: contains no {layout.RECIPE}; train a run there first")
    recipe = Recipe.read(run / layout.RECIPE)
    done, best = layout.finished(run), run / layout.BEST
    if done is None or not best.is_file():
        raise RunError(
            f"{run}: has no {layout.BEST}; train it to the end first, by the same "
            "command"
        )
    # a run that goes on for more epochs adds rows, and keeps its models until its end
    history = layout.read_json(run / layout.HISTORY, list)[: done["epochs"]]
    place = best_place(history, recipe.monitor)
    if place is None:
        raise RunError(f"{run}: its {layout.HISTORY} has no epoch; train it again")
    return recipe, best, history[place.epoch - 1]


def _upload(folder: Path, names: list[str], repository: str, private: bool) -> str:
    """Commits the files of a folder to a repository; the address of the commit."""
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise HubError(
            f"{repository}: no token of the Hugging Face hub; log in by `hf auth "
            "login`, or set HF_TOKEN"
        )
    api = huggingface_hub.HfApi()
    with _explained(repository):
        # None is what the owner's settings say, which may be private too
        api.create_repo(repository, private=private or None, exist_ok=True)
        is_public = private and not api.model_info(repository).private
    if is_public:
        raise HubError(
            f"{repository}: exists and is public, but private=True; make it private in "
            "its settings first, or give another name"
        )
    operations = [
        huggingface_hub.CommitOperationAdd(name, folder / name) for name in names
    ]
    with _explained(repository):
        commit: Any = api.create_commit(
            repository, operations, commit_message="Upload by keras_resnet"
        )
    return commit.commit_url


@contextlib.contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Converts what goes wrong at the hub to a HubError of one line."""
    try:
        yield
    except Exception as error:  # the library's, its HTTP client's and the system's
        # an upload's own error is the cause of a RuntimeError without details
        cause = (type(error) is RuntimeError and error.__cause__) or error
        status = getattr(getattr(cause, "response", None), "status_code", 0)
        text = " ".join(str(cause).split())[:300] or type(cause).__name__
        reason = _REMEDIES.get(status, f"{text}; try again later")
        raise HubError(f"{repository}: cannot be uploaded: {reason}") from error
