"""The tasks that a net can be trained for, and the measure of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """What a task is judged by."""

    measure: str  # a key of what `evaluate.run` returns, in [0, 1]; larger is better
    label: str  # the measure in tables and plots


TASKS = {
    "classify": Task("top1", "top-1"),
    "detect": Task("map", "mAP"),
    "segment": Task("mean_iou", "mean IoU"),
}
