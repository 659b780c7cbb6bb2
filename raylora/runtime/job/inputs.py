"""What a run reads on a worker: base, tokenizer or processor, rows, and the digests they are known by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from raylora.data.batches import Batches, open_batches
from raylora.data.prepare import Prepared, prepare
from raylora.data.sources.source import Source
from raylora.data.tokens.processors import PROCESSORS
from raylora.data.tokens.tokenise import Fate
from raylora.data.tokens.tokenised import TokenisedRows
from raylora.data.tokens.tokenizer import load_tokenizer, tokenizer_digest
from raylora.errors import InputError
from raylora.model.base.dtype import compute_dtype
from raylora.model.source.source import BaseFolder, resolve_base
from raylora.spec.fields.data import DataFields
from raylora.spec.fields.task import TaskFields
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.rules import MUTABLE
from raylora.store.home import cache_dir
from raylora.tracking.lineage import lineage
from raylora.train.ranks import Ranks


@dataclass(frozen=True)
class Inputs:
    """What a run reads; without a tokenizer where rows are no texts, and its digest is that of their processor."""

    base: BaseFolder
    prepared: Prepared
    tokenizer: PreTrainedTokenizerFast | None
    tokenizer_digest: str

    @classmethod
    def open(cls, spec: RunSpec) -> Inputs:
        """Find or make base and rows in this node's cache; one process builds, the others wait."""
        base = resolve_base(spec, cache_dir())
        prepared = prepare(spec, base.path, cache_dir())
        if spec.reads_values:
            return cls(base, prepared, None, PROCESSORS[spec.task_type](base.path).digest)
        tokenizer = load_tokenizer(base.path, spec.chat_template)
        # The digest is taken now: the sample prompts will change how the tokenizer pads.
        return cls(base, prepared, tokenizer, tokenizer_digest(tokenizer))

    @staticmethod
    def key(spec: RunSpec) -> str:
        """Runs with equal keys read the same."""
        fields = {"base_model", "base_model_revision", *DataFields.model_fields, *TaskFields.model_fields}
        asked = spec.model_dump(mode="json", include=fields)
        return json.dumps([spec.seed, asked], sort_keys=True)

    def batches(self, spec: RunSpec) -> tuple[Batches, Batches | None]:
        """Training and validation rows in the order of a run.

        Args:
            spec: A run with the key of the one that opened these inputs.
        """
        train, validation = self.prepared.train, self.prepared.validation
        return (
            open_batches(spec, self.tokenizer, train),
            None if validation is None else open_batches(spec, self.tokenizer, validation),
        )

    def digests(self, spec: RunSpec) -> dict[str, str]:
        """What a run must meet again where it goes on from a checkpoint.

        Args:
            spec: A run with the key of the one that opened these inputs.
        """
        return self._digests(spec.lasting_digest())

    def digests_of_trial(self, spec: RunSpec) -> dict[str, str]:
        """As `digests`, but for the knobs that a trial may turn half-way, on its own weights or on another trial's.

        Args:
            spec: A trial with the key of the run that opened these inputs.
        """
        return self._digests(spec.lasting_digest(MUTABLE))

    def check_alike(self, ranks: Ranks) -> None:
        """Find out that every rank reads the same; called on all of them.

        Args:
            ranks: Those that train together.

        Raises:
            InputError: Some do not.
        """
        check_same_base(ranks, self.base)
        self.check_same_rows(ranks)

    def check_same_rows(self, ranks: Ranks) -> None:
        """Find out that every rank reads the same rows, and makes the same of them; called on all of them.

        Args:
            ranks: Those that train together.

        Raises:
            InputError: Some do not.
        """
        if why := self.why_other_rows(ranks):
            raise InputError(why)

    def why_other_rows(self, ranks: Ranks) -> str | None:
        """Why the ranks do not train on the same, the same on every rank; None where they do; called on all of them.

        Args:
            ranks: Those that train together.
        """
        found = ranks.gather((self.prepared.report.digest, self.tokenizer_digest))
        data, readers = zip(*found, strict=True)
        return _why_differing("data", data) or _why_differing("tokenizer or processor", readers)

    def _digests(self, configuration: str) -> dict[str, str]:
        return {"base": self.base.digest, "data": self.prepared.report.digest, "configuration": configuration}

    def lineage(self, spec: RunSpec, run_id: str, device: torch.device) -> dict[str, object]:
        """Where the adapter of a run on these inputs comes from.

        Args:
            spec: A run with the key of the one that opened these inputs.
            run_id: Its name in the store.
            device: On which it trains.
        """
        return lineage(
            spec,
            run_id=run_id,
            dtype=str(compute_dtype(spec, device.type)).removeprefix("torch."),
            base_name=self.base.name,
            base_revision=self.base.revision,
            base_digest=self.base.digest,
            data_digest=self.prepared.report.digest,
            tokenizer_digest=self.tokenizer_digest,
        )

    def uses(self) -> list[dict[str, object]]:
        """The rows used of each data set, as MLflow lists them."""
        sides = {"training": self.prepared.train, "validation": self.prepared.validation}
        return [
            {
                "name": Path(source.spec.path).name,
                "source": source.spec.path,
                "digest": _digest(source, part),
                "context": context,
                "num_rows": len(part),
                "num_tokens": int(part.lengths.sum()),
                "num_truncated": int((part.column("fate") == Fate.TRUNCATED).sum()),
            }
            for context, rows in sides.items()
            if rows is not None
            for source, part in rows.by_source()
        ]


def _digest(source: Source, rows: TokenisedRows) -> str:
    """Of what was used of a source: MLflow takes data sets of one name and digest for one, with the first's counts."""
    return hashlib.sha256(source.digest.encode() + rows.column("content").tobytes()).hexdigest()


FIELDS = {"base": "base_model", "data": "datasets", "tokenizer or processor": "base_model"}
"""Of the configuration, by what is read."""


def check_same_base(ranks: Ranks, base: BaseFolder) -> None:
    """Find out that every rank has the same base; called on all of them.

    Args:
        ranks: Those that train together.
        base: This rank's.

    Raises:
        InputError: Some have another.
    """
    if why := _why_differing("base", ranks.gather(base.digest)):
        raise InputError(why)


def _why_differing(what: str, digests: Sequence[str]) -> str | None:
    """A folder differs by node, or was replaced meanwhile, or a package is another: whose; None where all are alike."""
    if len(set(digests)) == 1:
        return None
    told = ", ".join(f"rank {rank} {found[:12]}" for rank, found in enumerate(digests))
    return (
        f"{FIELDS[what]}: the workers do not read the same {what}: its digests are {told}; name what every node has "
        "alike: a folder all share, an s3:// folder, or a hub id with its revision; and install the same packages on "
        "each"
    )
