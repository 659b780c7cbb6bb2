"""What a model is asked for: the next token, or a class of each text or word.

A task chooses the class of transformers that runs the base (`model/meta.py`), how rows are labelled (`data/encode.py`),
what is read out of a forward pass and what judges it (`objectives/choose.py`). To add one, add its word here and its
place in each of these.
"""

from __future__ import annotations

from typing import Literal

from raylora.spec.fields import Part, Text

TaskType = Literal["causal_lm", "seq_cls", "token_cls"]


class TaskFields(Part):
    """The task, and the classes of those that have some."""

    task_type: TaskType = "causal_lm"
    """What the model is asked for: `causal_lm` for the next token, `seq_cls` for a class (or, under `rl: reward`, a number) of each text, `token_cls` for a class of each word. The last two train a head beside the adapter, and take encoders (BERT, RoBERTa) as bases too. PEFT's names, in lower case."""

    labels: tuple[Text, ...] = ()
    """Names of the classes of `seq_cls` and `token_cls`, in order, as text; rows say a class by its name or by its number from 0."""

    @property
    def has_head(self) -> bool:
        """Whether a head of its own is trained in the place of the base's."""
        return self.task_type != "causal_lm"

    @property
    def num_labels(self) -> int:
        """Outputs of that head: one for each class, and one where there are none."""
        return max(1, len(self.labels))
