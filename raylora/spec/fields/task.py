"""What a model is asked for: the next token, a text to another, or a class of each text, word, image or recording.

A task chooses the class of transformers that runs the base (`model/base/meta.py`), how rows are labelled (`data/tokens/encode.py`),
what is read out of a forward pass and what judges it (`objectives/choose.py`). To add one, add its word here and its
place in each of these.
"""

from __future__ import annotations

from typing import Literal

from raylora.spec.fields.part import Part, Text

TaskType = Literal["causal_lm", "seq_2_seq_lm", "seq_cls", "token_cls", "image_cls", "audio_cls"]

OF_VALUES: tuple[TaskType, ...] = ("image_cls", "audio_cls")
"""Tasks whose rows are no texts; PEFT has no words for them."""

WITH_HEAD: tuple[TaskType, ...] = ("seq_cls", "token_cls", *OF_VALUES)
"""Tasks whose model has a head of its own."""


class TaskFields(Part):
    """The task, and the classes of those that have some."""

    task_type: TaskType = "causal_lm"
    """What the model is asked for: `causal_lm` for the next token, `seq_2_seq_lm` for the text that belongs to another (T5 and its kin), `seq_cls` for a class (or, under `rl: reward`, a number) of each text, `token_cls` for a class of each word, `image_cls` for a class of each image, `audio_cls` for a class of each recording. All but the first two train a head beside the adapter; texts take encoders (BERT, RoBERTa) as bases too, images a vision transformer (ViT), recordings an audio spectrogram transformer (AST). PEFT's names, in lower case, and two for which it has none."""

    labels: tuple[Text, ...] = ()
    """Names of the classes of tasks with a head, in order, as text; rows say a class by its name or by its number from 0."""

    @property
    def has_head(self) -> bool:
        """Whether a head of its own is trained in the place of the base's."""
        return self.task_type in WITH_HEAD

    @property
    def has_two_sides(self) -> bool:
        """Whether the model reads a source with its encoder and writes a target with its decoder."""
        return self.task_type == "seq_2_seq_lm"

    @property
    def reads_values(self) -> bool:
        """Whether rows are images or recordings and not texts."""
        return self.task_type in OF_VALUES

    @property
    def num_labels(self) -> int:
        """Outputs of that head: one for each class, and one where there are none."""
        return max(1, len(self.labels))
