"""Rows with a file that is no text: its bytes become values as the base's own processor makes them, with a class.

Enters: a ClassifiedFile and a Processor. Leaves: Encoded, whose tokens stand for the patches that the base cuts the
values into: the first has the class. Called by tokenise in the place of `labelled`. `images` and `audio` have a
processor each.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from raylora.data.sources.examples import ClassifiedFile, Example
from raylora.data.tokens.encode import Encoded
from raylora.data.tokens.labelled import class_number
from raylora.errors import DataError, ModelError, RayloraError
from raylora.spec.fields.task import TaskType
from raylora.spec.value_shape import value_shape


class Processor(ABC):
    """Makes values of files, as the base was trained on them; no code of the base's folder is run.

    Args:
        folder: Of the base.

    Raises:
        ModelError: The base has no processor that can be loaded, or names no shape of its values.
    """

    task: ClassVar[TaskType]
    what: ClassVar[str]
    """What its files are, for people."""
    bases: ClassVar[str]
    """Which bases there are, for people."""
    libraries: ClassVar[tuple[str, ...]]
    """Packages that make its values, beside transformers: one that is there or not, or is another, makes others."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoConfig  # texts do not wait for what reads files

        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self._process = self._load(folder)
        except Exception as error:  # transformers hardly checks its types: any of Python's own may come of it
            raise ModelError(
                f"base_model: {folder} has no processor of {self.what} that can be loaded "
                f"({' '.join(str(error).split())}). Allowed: preprocessor_config.json of one that transformers "
                "contains. Save the processor of this model into the same folder with its save_pretrained"
            ) from error
        shape = value_shape(self.task, config)
        if shape is None or not self._takes(shape.size):
            raise ModelError(
                f"base_model: {folder}/config.json names no {self.what} that can be made. Allowed: {self.bases}. "
                "Choose such a base"
            )
        self.shape = shape

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides which values a file becomes."""
        about = [self._process.to_dict(), self.shape.size, [(name, _version(name)) for name in self.libraries]]
        return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()

    def values(self, content: bytes) -> NDArray[np.float32]:
        """The values of a file, of the base's shape.

        Args:
            content: Of the file.

        Raises:
            DataError: It is no such file, or another than the base takes.
        """
        try:
            found = self._made(content)
        except RayloraError:
            raise
        except Exception as error:  # of preprocessor_config.json, as above
            raise DataError(
                f"the base's processor refuses it ({' '.join(str(error).split())}); correct the file, or the base's "
                "preprocessor_config.json"
            ) from error
        if found.shape != self.shape.size:
            got = " x ".join(map(str, found.shape))
            raise DataError(
                f"becomes {got} by the base's preprocessor_config.json, and its config.json takes {self.shape}; "
                "correct the size there"
            )
        return found.astype(np.float32)

    def _takes(self, size: tuple[int, ...]) -> bool:
        """Whether files can become values of this size."""
        return bool(size)

    @abstractmethod
    def _load(self, folder: Path) -> Any:
        """Transformers' own processor, out of the base's folder."""

    @abstractmethod
    def _made(self, content: bytes) -> NDArray[Any]:
        """What it makes of a file."""


def _version(package: str) -> str | None:
    """Its release; ``None`` where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class EncodedValues(Encoded):
    """A row of values, whose class is at the first of its tokens."""

    @property
    @override
    def num_labels(self) -> int:
        return 1

    @property
    @override
    def learns(self) -> bool:
        return True


class ValueEncoder:
    """Encodes rows of files.

    Args:
        processor: Of the base.
        labels: Names of the classes.
    """

    def __init__(self, processor: Processor, labels: Sequence[str]) -> None:
        self._processor, self._labels = processor, labels

    def encode(self, example: Example) -> Encoded:
        """Encode one example.

        Raises:
            DataError: The class is none of the run's, or the file none for this base.
        """
        row = cast(ClassifiedFile, example)
        classes = (class_number(row.label, self._labels, "label"),)
        try:
            values = self._processor.values(cast(bytes, row.content))
        except DataError as error:
            raise DataError(f"{row.column}: {error}") from error
        is_label = [True] + [False] * (self._processor.shape.num_tokens - 1)
        return EncodedValues([0] * len(is_label), is_label, classes=classes, values=values)
