"""One of two workers that open a run's inputs and compare them; prints a line a case.

Run by test_inputs with the folder of the bases and rows: ``rank-0`` and ``rank-1`` differ in both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist

from raylora.errors import InputError
from raylora.runtime.job.inputs import Inputs
from raylora.train.ranks import Ranks
from tests.unit.data.small_tokenizer import CHATML
from tests.unit.train.tiny_run import tiny_spec


def main(folder: Path) -> None:
    """Compare the same, another base, other rows, and another tokenizer."""
    dist.init_process_group("gloo")
    ranks = Ranks.current()
    mine, first = (folder / f"rank-{rank}" for rank in (ranks.rank, 0))
    other = f"{CHATML}{{# {ranks.rank} #}}"
    for base, rows, template in ((first, first, None), (mine, first, None), (first, mine, None), (first, first, other)):
        inputs = Inputs.open(tiny_spec(base / "base", rows / "rows.jsonl", chat_template=template))
        try:
            inputs.check_alike(ranks)
        except InputError as error:
            print(error, flush=True)
        else:
            print("alike", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
