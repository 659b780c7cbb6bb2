"""The specification's datasets become training and validation rows in tokens.

Enters: the run's specification, the folder of the base's tokenizer and a cache folder. Leaves: Prepared. Called by
runtime, on the driver and on each worker: the first to ask builds the cache, the others read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
import transformers
from transformers import PreTrainedTokenizerFast

from raylora.data.balance import why_unbalanced
from raylora.data.mix import check_weights
from raylora.data.report import DataReport, SourceReport, first_places, named_rows, report_source
from raylora.data.sources import conversation, formats, json_array, rows
from raylora.data.sources.rows import check_columns
from raylora.data.sources.source import Source, open_source
from raylora.data.split import split_rows
from raylora.data.tokens import audio, chat, encode, images, labelled, row_files, source_target, tokenise, values
from raylora.data.tokens.encode import Encoder
from raylora.data.tokens.labelled import LabelEncoder
from raylora.data.tokens.processors import PROCESSORS
from raylora.data.tokens.row_files import with_files
from raylora.data.tokens.source_target import TargetEncoder
from raylora.data.tokens.tokenise import USED, Fate, RowEncoder, RowTokeniser, tokens_table
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.data.tokens.tokenizer import load_tokenizer, tokenizer_digest
from raylora.data.tokens.values import ValueEncoder
from raylora.errors import DataError, together
from raylora.log import get_logger
from raylora.spec.run import RunSpec
from raylora.store.once import build_once

_log = get_logger(__name__)
# What the tokens of a row depend on. Their text is part of the cache's key, so no version number can be forgotten.
_CODE = (
    audio,
    chat,
    conversation,
    encode,
    formats,
    images,
    json_array,
    labelled,
    row_files,
    rows,
    source_target,
    tokenise,
    values,
)


@dataclass(frozen=True)
class Prepared:
    """The rows of a run.

    Args:
        train: Training rows.
        validation: Validation rows, if any were asked for.
        report: What became of every row.
    """

    train: TokenisedRows
    validation: TokenisedRows | None
    report: DataReport


def prepare(spec: RunSpec, tokenizer_dir: Path, cache: Path) -> Prepared:
    """Read, tokenise and split a run's rows.

    Tokens are kept in the cache under a key of the data's content, the tokenizer and its chat template, the length,
    the type and columns, and this room's code; only what changed is tokenised again.

    Args:
        spec: The run.
        tokenizer_dir: Folder with the tokenizer's files.
        cache: Folder that keeps tokens and downloads over runs.

    Raises:
        DataError: A dataset, row or column is wrong, a side of the split is empty, or the weights leave no row.
        StoreError: The cache cannot be written.
    """
    tokenisation = _Tokenisation.of(spec, tokenizer_dir, cache)
    sources = open_sources(spec, cache)
    train_sources, validation_sources = sources[: len(spec.datasets)], sources[len(spec.datasets) :]
    train, train_reports = tokenisation.rows(train_sources)
    validation: TokenisedRows | None = None
    validation_reports: tuple[SourceReport, ...] = ()
    num_shared = 0
    if validation_sources:
        validation, validation_reports = tokenisation.rows(validation_sources)
        is_shared = np.isin(train.column("content"), validation.column("content"))
        train, num_shared = train.select(~is_shared), int(is_shared.sum())
        if num_shared:
            _log.warning("%d training rows are also validation rows and are not trained on", num_shared)
        if not len(train):
            raise DataError("test_datasets: every training row is also a validation row; name other files")
    elif spec.val_set_size:
        kept, held_out = split_rows(train.column("content"), spec.val_set_size, spec.seed_of_split)
        train, validation = train.select(kept), train.select(held_out)
    check_weights(train.source_of, train.weights)
    if spec.rl == "kto" and (unbalanced := why_unbalanced(train, spec)):
        _log.warning("%s", unbalanced)
    num_validation = len(validation) if validation is not None else 0
    report = DataReport(train_reports, validation_reports, len(train), num_validation, num_shared)
    return Prepared(train, validation, report)


def open_sources(spec: RunSpec, cache: Path) -> list[Source]:
    """Find the sources of a run, those of `datasets` before those of `test_datasets`; no text is read yet.

    Args:
        spec: The run.
        cache: As of `prepare`.

    Raises:
        DataError: Datasets are not there, or have the wrong columns named: all of them at once.
        StoreError: The cache cannot be written.
    """
    sources, errors = [], []
    for dataset in (*spec.datasets, *spec.test_datasets):
        try:
            check_columns(dataset.type, dataset.columns)
            sources.append(with_files(open_source(dataset, cache / "downloads"), cache / "digests"))
        except DataError as error:
            errors.append(error)
    if errors:
        raise together(errors)
    return sources


@dataclass(frozen=True)
class _Tokenisation:
    """How the sources of one run become tokens."""

    spec: RunSpec
    encoder: RowEncoder
    key: str
    cache: Path

    @classmethod
    def of(cls, spec: RunSpec, tokenizer_dir: Path, cache: Path) -> _Tokenisation:
        encoder, reader_digest = _encoder(spec, tokenizer_dir)
        about = [
            reader_digest,
            [transformers.__version__, tokenizers.__version__],
            [hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest() for module in _CODE],
            [spec.sequence_len, spec.excess_length_strategy, spec.train_on_inputs, spec.task_type, spec.labels],
        ]
        return cls(spec, encoder, json.dumps(about), cache)

    def rows(self, sources: Sequence[Source]) -> tuple[TokenisedRows, tuple[SourceReport, ...]]:
        """Tokenise some sources, and keep the rows that can be used."""
        each = [TokenisedRows.of([source], [tokens_table(self._tokens(source))]) for source in sources]
        reports = tuple(report_source(source, rows) for source, rows in zip(sources, each, strict=True))
        whole = TokenisedRows.of(sources, [table for rows in each for table in rows.tables])
        kept = whole.select(np.isin(whole.column("fate"), USED))
        if not len(kept):
            raise DataError(
                f"no row of {', '.join(source.spec.path for source in sources)} can be used: all were dropped; "
                f"raise sequence_len above {self.spec.sequence_len:,}"
            )
        return kept, reports

    def _tokens(self, source: Source) -> Path:
        """The folder with a source's tokens, made unless it is there."""
        about = [self.key, source.digest, source.spec.type, sorted(source.spec.columns.items())]
        folder = self.cache / "tokens" / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
        return build_once(folder, f"tokens of {source.spec.path}", lambda part: self._tokenise(source, part))

    def _tokenise(self, source: Source, folder: Path) -> None:
        tokeniser = RowTokeniser(self.encoder, source, self.spec.sequence_len, self.spec.excess_length_strategy)
        tokenise.tokenise(tokeniser, folder, self.spec.dataset_num_proc)
        found = TokenisedRows.of([source], [tokens_table(folder)])
        learned = "word with a class" if self.spec.has_head else "text of the assistant (or completion) that counts"
        _refuse(found, Fate.NO_LABELS, f"have no token to learn from: no {learned} in them")
        if self.spec.excess_length_strategy == "raise":
            _refuse(found, Fate.TOO_LONG, f"are longer than sequence_len = {self.spec.sequence_len:,} tokens")


def _encoder(spec: RunSpec, folder: Path) -> tuple[RowEncoder, str]:
    """What encodes rows, and the digest of what it reads them with."""
    if spec.reads_values:
        processor = PROCESSORS[spec.task_type](folder)
        return ValueEncoder(processor, spec.labels), processor.digest
    tokenizer = load_tokenizer(folder, spec.chat_template)
    return _text_encoder(spec, tokenizer), tokenizer_digest(tokenizer)


def _text_encoder(spec: RunSpec, tokenizer: PreTrainedTokenizerFast) -> RowEncoder:
    if spec.has_two_sides:
        return TargetEncoder(tokenizer)
    return LabelEncoder(tokenizer, spec.labels) if spec.has_head else Encoder(tokenizer, spec.train_on_inputs)


def _refuse(found: TokenisedRows, fate: Fate, what: str) -> None:
    """Raise where any row met a fate that stops the run, naming the first few."""
    fates = found.column("fate")
    wrong = np.flatnonzero(fates == fate)
    if not len(wrong):
        return
    named = named_rows(first_places(found, wrong), len(wrong))
    advice = {
        Fate.NO_LABELS: "remove them, map the right columns, or, for conversations, set train_on_inputs or weights",
        Fate.TOO_LONG: "raise sequence_len, or set excess_length_strategy to truncate, drop or, for texts, split",
    }
    num_rows = int((fates != Fate.PIECE).sum())
    raise DataError(f"{len(wrong):,} of {num_rows:,} rows {what}: {named}; {advice[fate]}")
