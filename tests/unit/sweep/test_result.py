from __future__ import annotations

import json

from raylora.sweep.result import sweep_result
from tests.unit.sweep.made_sweeps import large_sweep, sweep, trial

ASKED = {
    "sweep_id",
    "best_trial",
    "best_config",
    "best_metric",
    "num_trials",
    "num_packs",
    "trials",
    "wall_s",
    "tokens",
}
OF_A_TRIAL = {"trial_id", "config", "metric", "steps", "status", "adapter_uri", "mlflow_run_id"}


def test_the_result_has_what_was_promised_and_is_json():
    result = json.loads(json.dumps(sweep_result(large_sweep(20))))
    assert result.keys() >= ASKED
    assert all(each.keys() >= OF_A_TRIAL for each in result["trials"])
    whole = [each for each in result["trials"] if each["status"] == "succeeded"]
    best = min(whole, key=lambda each: each["metric"])
    assert (result["best_trial"], result["best_config"]) == (best["trial_id"], best["config"])
    assert result["best_metric"] == best["metric"]
    assert (result["num_trials"], result["num_packs"]) == (20, 3)
    assert result["tokens"] == sum(each["tokens"] for each in result["trials"])
    assert result["wall_s"] == 13 * 60


def test_trials_that_were_trained_alone_make_no_pack():
    assert sweep_result(sweep([trial(0, 1.0, pack=None), trial(1, 2.0, pack=4)]))["num_packs"] == 1


def test_the_greatest_is_best_where_that_was_asked():
    assert sweep_result(sweep([trial(0, 1.0), trial(1, 2.0)], mode="max"))["best_trial"] == "t001"


def test_the_best_has_an_adapter_though_one_that_was_stopped_had_a_better_metric():
    trials = [trial(0, 1.0, status="stopped", steps=4), trial(1, 1.05, config={"lora_r": 4}, adapter_uri="a/adapter")]
    result = sweep_result(sweep(trials))
    assert (result["best_trial"], result["best_metric"], result["best_adapter_uri"]) == ("t001", 1.05, "a/adapter")
    assert [each["status"] for each in result["trials"]] == ["stopped", "succeeded"]


def test_of_repeats_the_best_mean_wins_and_names_its_best_seed():
    metrics = {0: (1.0, 1.4), 1: (0.9, 1.8)}
    trials = [
        trial(2 * rank + repeat, metric, config={"lora_r": rank}, repeat=repeat)
        for rank, both in metrics.items()
        for repeat, metric in enumerate(both)
    ]
    result = sweep_result(sweep(trials))
    assert (result["best_trial"], result["best_metric"], result["best_mean"]) == ("t000", 1.0, 1.2)
    assert result["best_config"] == {"lora_r": 0}


def test_a_sweep_without_a_result_has_no_best():
    result = sweep_result(sweep([trial(0, None, status="failed", error="NaN")]))
    assert (result["best_trial"], result["best_config"], result["best_metric"]) == (None, None, None)
    assert result["trials"][0]["error"] == "NaN"
