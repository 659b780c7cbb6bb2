"""What makes values of files, by the task. To add one, add its line. Called by prepare and by the runtime."""

from __future__ import annotations

from collections.abc import Mapping

from raylora.data.tokens.audio import AudioProcessor
from raylora.data.tokens.images import ImageProcessor
from raylora.data.tokens.values import Processor
from raylora.spec.fields.task import TaskType

PROCESSORS: Mapping[TaskType, type[Processor]] = {each.task: each for each in (ImageProcessor, AudioProcessor)}
"""Of tasks whose rows are no texts."""
