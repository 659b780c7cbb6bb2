"""Commands about the configuration file: write one, check one, describe all."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from raylora.cli.output import Json, Overrides, err, out, print_json, say
from raylora.errors import InputError
from raylora.spec.reading.file_kind import is_sweeps
from raylora.spec.reading.load import LoadedSpec, load_spec, read_document
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.load import load_sweep
from raylora.spec.sweeps.sweep import SweepSpec


def read(path: Path, overrides: list[str] | None) -> LoadedSpec:
    """Load a configuration and print its notes on stderr.

    Args:
        path: Configuration file.
        overrides: ``KEY=VALUE`` texts of ``--set``.
    """
    loaded = load_spec(path, overrides or ())
    tell_notes(loaded.notes)
    return loaded


def tell_notes(notes: Sequence[str]) -> None:
    """Print on stderr what a file was read as.

    Args:
        notes: Of the loaded file.
    """
    for note in notes:
        say(f"note: {note}", err)


def _read_either(path: Path, overrides: list[str] | None) -> RunSpec | SweepSpec:
    """Load the configuration of a run or of a sweep, whichever the file holds."""
    if not is_sweeps(read_document(path).values):
        return read(path, overrides).spec
    loaded = load_sweep(path, overrides or ())
    tell_notes(loaded.notes)
    return loaded.spec


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("raylora.yaml"),
    base_model: Annotated[
        str, typer.Option(help="Base model of the configuration.")
    ] = "HuggingFaceTB/SmolLM2-135M-Instruct",
    dataset: Annotated[str, typer.Option(help="Path of the training rows.")] = "data/train.jsonl",
    json_: Json = False,
) -> None:
    """Write a commented configuration to start from."""
    from raylora.spec.pages.template import commented_config

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(commented_config(base_model, dataset))
    except FileExistsError as error:
        raise InputError(f"{path} exists; name another file or delete it") from error
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; name another file") from error
    if json_:
        print_json({"path": str(path)})
    else:
        say(f"wrote {path}; next: set base_model and datasets in it to what you have, then raylora validate {path}")


def validate(
    path: Annotated[Path, typer.Argument(help="Configuration file of a run or a sweep.")],
    set_: Overrides = None,
    spec_only: Annotated[bool, typer.Option("--spec-only", help="Check the file alone, not what it names.")] = False,
    json_: Json = False,
) -> None:
    """Check a run, or the run of a sweep, before it starts: the file, storage, the base, the targets and every row."""
    spec = _read_either(path, set_)
    result: dict[str, object] = {"valid": True, "spec_digest": spec.digest}
    if not spec_only:
        from dataclasses import asdict

        from raylora.runtime.preflight import preflight

        checked = preflight(spec.run if isinstance(spec, SweepSpec) else spec)
        result |= {
            "base": {"name": checked.base.name, "digest": checked.base.digest},
            "num_targets": len(checked.targets),
            "data": asdict(checked.prepared.report),
            "store": checked.store.uri,
        }
    if json_:
        print_json(result)
        return
    say(f"{path} is valid")
    if isinstance(spec, SweepSpec):
        say(f"  a sweep of {spec.num_configurations * spec.repeats:,} trials; next: raylora sweep {path} --plan")
    if not spec_only:
        report = checked.prepared.report
        for source in (*report.train, *report.validation):
            say(f"  {source}")
        say(f"  base {checked.base.name} {checked.base.digest[:12]}, {len(checked.targets)} adapted layers")
        say(f"  rows: {report.num_train_rows:,} to train on, {report.num_validation_rows:,} to validate on")
        say(f"  store {checked.store.uri} can be written")


class Kind(StrEnum):
    """What a file describes."""

    RUN = "run"
    SWEEP = "sweep"


def schema(
    kind: Annotated[Kind, typer.Argument(help="What the file describes.")] = Kind.RUN,
    json_: Json = False,
) -> None:
    """Print the JSON schema of a run's or a sweep's file, for editors and programs."""
    from raylora.spec.pages.schema import json_schema, sweep_json_schema

    found = sweep_json_schema() if kind is Kind.SWEEP else json_schema()
    if json_:
        print_json(found)
    else:
        out.print_json(data=found)
