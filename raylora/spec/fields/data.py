"""Which rows are trained on and how they become tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylora.spec.fields.part import Address, Flag, NonNegativeFloat, Part, PositiveFloat, PositiveInt, Seed

ExcessLength = Literal["truncate", "drop", "raise", "split"]
"""What happens to a row that is too long."""


class DatasetSpec(Part):
    """One source of rows."""

    path: Address
    """Hub id, or a file, folder or glob, local or `s3://`: JSONL, JSON, CSV, Parquet or Arrow by its ending."""

    type: Literal[
        "chat",
        "completion",
        "alpaca",
        "text",
        "preference",
        "unpaired_preference",
        "classification",
        "tags",
        "image",
        "audio",
    ] = "chat"
    """Shape of a row: `chat` (messages, tools), `completion` (prompt, completion), `alpaca` (instruction, input, output), `text`, `preference` (chosen, rejected, prompt, tools), two answers to one prompt, `unpaired_preference` (prompt, completion, label, tools), one answer that is desirable or not, `classification` (text, label), `tags` (tokens, tags), words and a class of each, or `image` (image, label) or `audio` (audio, label), the path or the bytes of a file and its class."""

    split: str = "train"
    """Split of a hub dataset."""

    name: str | None = None
    """Configuration name of a hub dataset."""

    revision: str | None = None
    """Commit, tag or branch of a hub dataset."""

    columns: dict[str, str] = Field(default_factory=dict)
    """The file's own column names: `{messages: conversation}` reads the column `conversation` as `messages`."""

    weight: PositiveFloat = 1.0
    """How often an epoch shows each row of this source, whatever the other sources weigh: 2.0 twice, 0.5 half of the rows and the other half in the next epoch."""


class DataFields(Part):
    """Rows, split, length and binning."""

    datasets: tuple[DatasetSpec, ...] = Field(min_length=1)
    """Sources of training rows; their rows are mixed."""

    test_datasets: tuple[DatasetSpec, ...] = ()
    """Sources of validation rows; where given, nothing is split off the training rows."""

    val_set_size: NonNegativeFloat = 0.0
    """Validation rows split off by seed: a fraction below 1 or a number of rows; 0 for none."""

    split_seed: Seed | None = None
    """Seed of that split; `seed` where absent. Runs under several seeds are compared on the same validation rows where it is given."""

    sequence_len: PositiveInt = 1024
    """Longest row in tokens, of a pair both answers with their prompts; and the length of a bin where `sample_packing` is on. Images and recordings have as many tokens as the base has patches, whatever stands here."""

    excess_length_strategy: ExcessLength = "truncate"
    """What happens to a row of more than `sequence_len` tokens: `truncate` keeps its first ones, `drop` leaves it out, `raise` is an error, `split` makes several rows of a `text`, with all its tokens (the first of each is read and not learned); rows are counted by what became of them."""

    sample_packing: Flag = False
    """Put several rows into one bin of `sequence_len` tokens; no token sees another row's tokens."""

    train_on_inputs: Flag = False
    """Count the loss on the whole row instead of the assistant's (or completion's) tokens only. Under `rl: orpo` the cross-entropy is then of the chosen answer with its prompt, as in TRL, instead of the answer alone; answers are judged by each other without prompts either way."""

    chat_template: str | None = None
    """Jinja chat template, or the path of a file with one; the tokenizer's own where absent."""

    dataset_num_proc: PositiveInt = 1
    """Processes that tokenise."""
