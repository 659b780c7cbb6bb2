"""What a sweep ended with, as ``raylora sweep --json`` prints it. A `SweepRecord` enters, a mapping leaves. Pure."""

from __future__ import annotations

from typing import Any

from raylora.store.sweeps import SweepRecord, TrialRecord
from raylora.sweep.reporting.summary import summarise


def sweep_result(record: SweepRecord) -> dict[str, Any]:
    """Return the result of a sweep, over or not.

    Compared are the configurations that trained to their end, and so have adapters; all of them where none did. The
    best trial is of the one with the best mean over its repeats, and of those the one with the best metric:
    ``best_metric`` is that one's own, ``best_mean`` the mean that decided; the same without repeats.

    Args:
        record: The sweep. ``wall_s`` is from its first to its last record, a pause before a resume included.
    """
    summary = summarise(record)
    best, winner = summary.best_trial, summary.winner
    return {
        "sweep_id": record.sweep_id,
        "status": record.status,
        "mlflow_run_id": record.mlflow_run_id,
        "best_trial": best.trial_id if best else None,
        "best_config": best.config if best else None,
        "best_metric": best.metric if best else None,
        "best_mean": winner.mean if winner else None,
        "best_adapter_uri": best.adapter_uri if best else None,
        "num_trials": len(record.trials),
        "num_packs": len({trial.pack for trial in record.trials} - {None}),
        "trials": [_trial(trial) for trial in record.trials],
        "tokens": sum(trial.tokens for trial in record.trials),
        "wall_s": (record.updated - record.created).total_seconds(),
    }


def _trial(trial: TrialRecord) -> dict[str, Any]:
    names = ("trial_id", "config", "repeat", "metric", "steps", "tokens", "status", "error", "pack")
    places = ("run_id", "adapter_uri", "mlflow_run_id", "trainable_parameters")
    return {name: getattr(trial, name) for name in (*names, *places)}
