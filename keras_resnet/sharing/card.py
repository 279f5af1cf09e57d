"""The card of a model on the Hugging Face hub: what its README.md says."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

from keras_resnet.complexity import complexity
from keras_resnet.info import ModelInfo
from keras_resnet.recipe import Recipe
from keras_resnet.weights.hub import split_source, timm_name
from keras_resnet.weights.released import named

_MEASURES = {"top1": "top-1", "top5": "top-5"}
_LISTED = 100  # classes that are named


def model_card(
    repository: str,
    info: ModelInfo,
    recipe: Recipe,
    measures: Mapping[str, Any],
    data: Mapping[str, Any],
    licence: str | None = None,
    epoch: int | None = None,
    folder: str | None = None,
) -> str:
    """The card of a classifier of this package, in Markdown with the hub's header.

    Args:
        repository: "owner/name", from which the card tells how to load the net; or the
            name alone, with `folder`.
        info: the net's description.
        recipe: what it was trained by; paths in it are cut to their last part.
        measures: "top1" and "top5", in [0, 1], on the validation images; others are
            left out.
        data: {"path", "counts": {split: {"pictures": int}}}, as in a run's data.json;
            each may be missing. Of a path, the last part is told.
        licence: of the weights, an SPDX identifier in lower case; None: not stated.
        epoch: the one after which the weights were taken, from 1, as the best of the
            run; None: the last one, whatever it measured.
        folder: the run or folder from which the card tells how to load the net, if it
            is not on the hub.

    Returns:
        The text of a README.md. Its header holds the library, the tags, the licence if
        there is one, the released net that the weights started from, and top-1.
    """
    name = repository.rpartition("/")[2]
    place = _last_part(str(data.get("path", "unnamed data")))
    parts = [
        f"---\n{_header(name, info, recipe, measures, place, licence)}---",
        f"# {name}",
        _summary(info, recipe),
        _opening(folder) if folder else _loading(repository, info),
        _results(info, recipe, measures, place, epoch),
        _data(info, place, data),
        _training(recipe),
        _licence(recipe, licence),
    ]
    return "\n\n".join(parts) + "\n"


def public(recipe: Recipe) -> Recipe:
    """A recipe without the folders of the machine that it ran on."""
    return recipe.replace(
        weights=_last_part(recipe.weights), teacher=_last_part(recipe.teacher)
    )


def _last_part(source: str) -> str:
    """A path's last part, after its "variant:"; what names no path as it is."""
    if "hf://" in source:
        return source
    return re.sub(r"[^:]*[/\\]", "", source.rstrip("/\\"))


def _header(
    name: str,
    info: ModelInfo,
    recipe: Recipe,
    measures: Mapping[str, Any],
    place: str,
    licence: str | None,
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = "image-classification"
    in_timm = timm_name(info) is not None
    started = named(recipe.model, recipe.weights)
    source = split_source(started.origin if started else recipe.weights)
    top1 = EvalResult(
        task_type=task,
        dataset_type=place,
        dataset_name=place,
        metric_type="accuracy",
        metric_name="top-1",
        metric_value=measures.get("top1"),
    )
    card = ModelCardData(
        library_name="timm" if in_timm else "keras_resnet",
        tags=[task, "keras", "keras_resnet", *["timm"] * in_timm],
        pipeline_tag=task,
        license=licence,
        base_model=source[0] if source else None,
        metrics=["accuracy"],
        model_name=name,
        eval_results=[top1] if "top1" in measures else None,
    )
    return yaml.safe_dump(card.to_dict(), sort_keys=False, allow_unicode=True)


def _summary(info: ModelInfo, recipe: Recipe) -> str:
    parameters, macs = complexity(info.config, classes=info.classes)
    changed = f" with `{json.dumps(recipe.overrides)}`" if recipe.overrides else ""
    return _filled(
        f"A `{info.variant}`{changed}, trained with keras_resnet to tell "
        f"{info.classes:,} classes apart: {parameters:,} parameters, "
        f"{macs / 1e9:.3f} GMACs at 224 pixels."
    )


def _filled(text: str) -> str:
    """The text in lines of at most 88 characters, broken at spaces alone."""
    return textwrap.fill(text, 88, break_long_words=False, break_on_hyphens=False)


_TAKES = """\
The model takes RGB images, [N, H, W, 3] in [0, 255], and normalizes them itself."""


def _opening(folder: str) -> str:
    return f"""\
## How to load it

```python
import keras_resnet

model = keras_resnet.open_model("{folder}")
keras_resnet.evaluate.predict(model, ["picture.png"])
```

{_TAKES}
In the shell it is `keras-resnet predict {folder} picture.png`."""


def _loading(repository: str, info: ModelInfo) -> str:
    text = f"""\
## How to load it

In Keras, after `pip install keras-resnet-d`:

```python
import keras_resnet

model = keras_resnet.create(weights="hf://{repository}")
keras_resnet.evaluate.predict(model, ["picture.jpg"])
```

{_TAKES}"""
    if timm_name(info) is None:
        return f"{text} timm does not have this net."
    return f"""{text}

In PyTorch, after `pip install timm`:

```python
import timm
from PIL import Image

model = timm.create_model("hf-hub:{repository}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(Image.open("picture.jpg").convert("RGB"))[None])
probabilities = logits.{"sigmoid()" if info.several_labels else "softmax(-1)"}
```"""


def _results(
    info: ModelInfo,
    recipe: Recipe,
    measures: Mapping[str, Any],
    place: str,
    epoch: int | None,
) -> str:
    protocol = info.protocol
    size = protocol.size
    when, chosen = "", ""
    if epoch is not None:
        when = f", after epoch {epoch} of {recipe.epochs}"
        chosen = f" The weights were chosen by {recipe.monitor} on these images."
    rows = [
        f"| {label} | {measures[name]:.2%} |"
        for name, label in _MEASURES.items()
        if name in measures and (name != "top5" or info.classes > 5)
    ]
    return "\n".join(
        [
            "## Results",
            "",
            _filled(
                f"On the validation images of {place}{when}: the central {size} x "
                f"{size} pixels after {protocol.interpolation} resizing to a short "
                f"side of {math.floor(size / protocol.crop_pct)}.{chosen}"
            ),
            "",
            "| measure | value |",
            "|---|---:|",
            *rows,
        ]
    )


def _data(info: ModelInfo, place: str, data: Mapping[str, Any]) -> str:
    uses = {"train": "to train on", "val": "to validate"}
    counts = [
        f"{count['pictures']:,} images {uses[split]}"
        for split, count in data.get("counts", {}).items()
    ]
    names = info.class_names or ()
    # no line ends within a name, or the next might begin with what is Markdown
    listed = ", ".join(_inline(name).replace(" ", "\0") for name in names[:_LISTED])
    more = len(names) - _LISTED
    text = f"{', '.join([place, *counts])}; {info.classes:,} classes"
    if names:
        text += f": {listed}{f' and {more:,} more' if more > 0 else ''}."
    else:
        text += " without names."
    return "## Data\n\n" + _filled(text).replace("\0", " ")


def _inline(name: str) -> str:
    """A class name as Markdown shows it literally, on one line."""
    return f"`` {' '.join(name.split())} ``" if "`" in name else f"`{name}`"


def _training(recipe: Recipe) -> str:
    usual = Recipe(task=recipe.task).to_dict()
    fields = public(recipe).to_dict()
    changed = {name: value for name, value in fields.items() if value != usual[name]}
    # JSON is YAML, and keeps lists on one line
    text = "".join(f"{name}: {json.dumps(value)}\n" for name, value in changed.items())
    return (
        "## Training\n\nThe recipe, recipe.json, where it differs from keras_resnet's "
        f"defaults:\n\n```yaml\n{text}```"
    )


def _licence(recipe: Recipe, licence: str | None) -> str:
    started = named(recipe.model, recipe.weights)
    if licence is None:
        text = "Not stated: ask the owner of this repository before you rely on it."
    elif started is None or started.licence != licence:
        text = f"{licence}."
    else:
        text = f"{licence}, that of the weights it started from, {started.origin}."
    return f"## Licence\n\n{text}"
