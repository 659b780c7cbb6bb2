"""The word for an adapter on the command line: a run, a sweep, one of its trials, or a folder. Its place leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raylora.cli.published import what_comes_of
from raylora.errors import DataError, InputError

if TYPE_CHECKING:
    from raylora.adapters.base import BasePlace
    from raylora.store.contract import Store
    from raylora.store.sweeps import SweepRecord, TrialRecord

AdapterWord = Annotated[
    str,
    typer.Argument(metavar="ADAPTER", help="A run, a sweep (its best trial), SWEEP/TRIAL, or an adapter's folder."),
]
StoreOption = Annotated[str | None, typer.Option("--store", help="Store of runs; raylora's home where absent.")]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", help="The base it was trained on, as base_model says it; known for runs and sweeps."),
]


@dataclass(frozen=True)
class AdapterPlace:
    """Where an adapter is, and what is known of it there.

    Args:
        uri: Its folder.
        base: Its base as the run was told it; ``None`` for a folder.
        spec: Configuration of the run that it comes from, of a sweep that of its trial; ``None`` for a folder, and
            where this version does not read the sweep any more.
    """

    uri: str
    base: BasePlace | None
    spec: Mapping[str, Any] | None = None

    @property
    def chat_template(self) -> str | None:
        """The run's own, as it was configured; ``None`` where it took the base's, or is not known."""
        return None if self.spec is None else self.spec.get("chat_template")

    def read_template(self) -> str | None:
        """The text of the run's own chat template.

        Raises:
            DataError: It cannot be read any more.
        """
        from raylora.data.tokens.tokenizer import read_template

        try:
            return None if self.chat_template is None else read_template(self.chat_template)
        except DataError as error:
            raise DataError(
                f"{error}\nThe run was trained with it; put it there again, or name the adapter's folder, {self.uri}, "
                "to go on with the base's own"
            ) from error


def find_adapter(word: str, store_uri: str | None, base: str | None = None) -> AdapterPlace:
    """Find an adapter by what was typed.

    Args:
        word: Name of a run or a sweep, ``SWEEP/TRIAL``, or a folder or ``s3://`` URI of an adapter.
        store_uri: Store of the runs; raylora's home where ``None``.
        base: In place of the base that the run was trained on.

    Raises:
        InputError: There is nothing of that name, or it has no adapter.
    """
    from raylora.adapters.base import BasePlace
    from raylora.store.before_start import before_start
    from raylora.store.blob import open_store
    from raylora.store.home import default_store_uri

    with before_start():
        found = _found(open_store(store_uri or default_store_uri()), word)
    return found if base is None else replace(found, base=BasePlace(base))


def _found(store: Store, word: str) -> AdapterPlace:
    from raylora.store.runs import has_run, read_run
    from raylora.store.sweeps import has_sweep, read_sweep

    if "://" in word or word.startswith((".", "/", "~")):
        return AdapterPlace(word, None)
    name, _, trial_id = word.partition("/")
    if not trial_id and has_run(store, name):
        record = read_run(store, name)
        uri = _uri_of(word, (record.result or {}).get("adapter_uri"), record.spec)
        return AdapterPlace(uri, _base_of(record.spec), record.spec)
    if has_sweep(store, name):
        swept = read_sweep(store, name)
        trial = _trial(swept, trial_id)
        spec = _spec_of(swept, trial) if trial else None
        asked = spec or swept.spec.get("run", {})
        return AdapterPlace(_uri_of(word, trial.adapter_uri if trial else None, asked), _base_of(asked), spec)
    return AdapterPlace(word, None)


def _trial(swept: SweepRecord, trial_id: str) -> TrialRecord | None:
    """The trial of a name; without one the best, where there is one."""
    from raylora.sweep.reporting.summary import summarise

    if not trial_id:
        return summarise(swept).best_trial
    trials = {trial.trial_id: trial for trial in swept.trials}
    if trial_id not in trials:
        raise InputError(
            f"{swept.sweep_id} has no trial {trial_id!r}; it has {', '.join(list(trials)[:8])}; name one of them"
        )
    return trials[trial_id]


def _spec_of(swept: SweepRecord, trial: TrialRecord) -> Mapping[str, Any] | None:
    from raylora.spec.sweeps.sweep import SweepSpec
    from raylora.spec.sweeps.trial import run_of

    try:
        return run_of(SweepSpec.model_validate(swept.spec), trial.config, trial.repeat).model_dump(mode="json")
    except (InputError, ValueError):  # recorded by a version with other fields
        return None


def _base_of(spec: Mapping[str, Any]) -> BasePlace | None:
    from raylora.adapters.base import BasePlace

    return BasePlace(spec["base_model"], spec.get("base_model_revision")) if spec else None


def _uri_of(word: str, uri: str | None, spec: Mapping[str, Any]) -> str:
    if uri is None:
        raise InputError(f"{word} has no {what_comes_of(spec)} (yet); run `raylora runs` to see how it stands")
    return uri
