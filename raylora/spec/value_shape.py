"""What goes into a base whose rows are no texts, and how many tokens it makes of it, by the fields of its config.

Here, since both the rows and the model are held to it. Called by `data` and `model`, and by what counts or times a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raylora.spec.fields.run import RunFields
from raylora.spec.fields.task import TaskType


@dataclass(frozen=True)
class ValueShape:
    """A row's values: the pixels of an image, or the spectrogram of a recording.

    Args:
        size: Channels, height and width of an image; frames and frequencies of a spectrogram.
        num_tokens: One for each patch that they are cut into, and those before them that are classified.
    """

    size: tuple[int, ...]
    num_tokens: int

    def __str__(self) -> str:
        return " x ".join(map(str, self.size))


def value_shape(task: TaskType, config: Any) -> ValueShape | None:
    """The values that a base takes; ``None`` where rows are texts, or its config names none.

    Args:
        task: What it is for.
        config: Of the base. Of images `num_channels`, `image_size` and `patch_size` count, the latter a number or two;
            of recordings `max_length`, `num_mel_bins`, `patch_size` and both strides.
    """
    return SHAPES[task](config) if task in SHAPES else None


def row_tokens(run: RunFields, config: Any) -> int:
    """Tokens of the longest row of a run.

    Args:
        run: `task_type` and `sequence_len` count.
        config: Of its base.
    """
    shape = value_shape(run.task_type, config)
    return run.sequence_len if shape is None else shape.num_tokens


def _image(config: Any) -> ValueShape | None:
    size, patch = (_sides(getattr(config, field, None)) for field in ("image_size", "patch_size"))
    channels = getattr(config, "num_channels", None)
    if size is None or patch is None or not isinstance(channels, int):
        return None
    return ValueShape((channels, *size), 1 + (size[0] // patch[0]) * (size[1] // patch[1]))


def _spectrogram(config: Any) -> ValueShape | None:
    fields = ("max_length", "num_mel_bins", "patch_size", "time_stride", "frequency_stride")
    found = [value for field in fields if isinstance(value := getattr(config, field, None), int) and value > 0]
    if len(found) < len(fields):
        return None
    num_frames, num_bins, patch, time_stride, frequency_stride = found
    across, up = (num_frames - patch) // time_stride + 1, (num_bins - patch) // frequency_stride + 1
    return ValueShape((num_frames, num_bins), 2 + across * up)


def _sides(value: Any) -> tuple[int, int] | None:
    """Height and width, both at least 1."""
    sides = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        return None
    return sides


SHAPES: Mapping[TaskType, Callable[[Any], ValueShape | None]] = {"image_cls": _image, "audio_cls": _spectrogram}
"""Tasks whose rows are no texts."""
