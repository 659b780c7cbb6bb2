"""A sweep's file: what it says, and what is told where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.errors import SpecError
from raylora.spec.sweeps.rules import SWEEP_RULES
from raylora.spec.sweeps.sweep import SweepSpec
from tests.unit.spec.specs import LEAST
from tests.unit.spec.sweep_texts import REST, RUN, load_text, problems_of


def test_a_run_stands_in_the_file_or_in_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(LEAST + "val_set_size: 0.1\nmax_steps: 50\nlora_rank: 4\n", encoding="utf-8")
    here = load_text(tmp_path, RUN.replace("}\n", ", lora_r: 4}\n") + REST)
    there = load_text(tmp_path, "run: run.yaml\n" + REST)
    assert here.spec == there.spec
    assert here.spec.digest == there.spec.digest
    assert there.notes[0] == "run.yaml: line 5: lora_rank (LLaMA-Factory) is read as lora_r"


def test_questions_that_no_trial_answers_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(LEAST + "val_set_size: 0.1\nmax_steps: 50\nsample_prompts: [hi]\n", encoding="utf-8")
    (told,) = load_text(tmp_path, "run: run.yaml\n" + REST).notes
    assert told.startswith("run.yaml: line 5: sample_prompts: trials answer none; the winner does")
    assert load_text(tmp_path, "run: run.yaml\n" + REST, ["sample_prompts=[]"]).notes == ()


def test_a_sweep_survives_its_own_json(tmp_path: Path):
    spec = load_text(tmp_path, RUN + REST + "  lora_target_modules: {choice: [[q_proj], all-linear]}\n").spec
    again = SweepSpec.model_validate_json(spec.model_dump_json())
    assert (again, again.digest) == (spec, spec.digest)


@pytest.mark.parametrize("line", ["seed: 1", "repeats: 2", "report_steps: 4", "budget: {steps: 20}", "mode: max"])
def test_the_digest_knows_every_field_that_decides(tmp_path: Path, line: str):
    assert load_text(tmp_path, RUN + REST + line).spec.digest != load_text(tmp_path, RUN + REST).spec.digest


def test_the_digest_does_not_know_the_width_of_a_pack(tmp_path: Path):
    assert load_text(tmp_path, RUN + REST + "slots: 2").spec.digest == load_text(tmp_path, RUN + REST).spec.digest


WRONG = """\
run: {base_model: org/m, datasets: [{path: r.jsonl}], lora_rr: 4, val_set_size: 0.1}
num_trials: many
searchr: random
budget: {step: 3}
lora_r: 8
space:
  lora_r: {choice: [8, 0]}
  lora_alpha: {ratio: 2, of: lora_s}
  learning_rate: {loguniform: [1, 1e-3]}
  lora_dropout: [0.0]
  decay_ratio: {uniform: [0.5, 0.9], when: {lr_scheduler: cosin}}
  lr_scheduler: {choice: [cosine, warmup_stable_decay]}
  max_step: {int: [1, 2]}
  weight_decay: {uniform: [0.0, 0.1], wen: {lora_r: 8}}
  _both: {choice: [8]}
  seed: {coice: [1, 2]}
  eval_steps: {choice: [1, 2]}
"""


def test_all_problems_are_told_at_once_with_their_lines(tmp_path: Path):
    assert problems_of(tmp_path, WRONG) == [
        "line 1: run.lora_rr: unknown key; nearest: lora_r",
        "line 2: num_trials: got 'many'; allowed: a whole number of at least 1",
        "line 3: searchr: unknown key; nearest: searcher",
        "line 4: budget.step: unknown key; nearest: steps",
        "line 5: lora_r: no field of a sweep; it belongs to the run: write run: {lora_r: ...}, or --set lora_r=..., or "
        "make it a knob of space",
        "line 7: space.lora_r.choice.1: got 0; allowed: a whole number of at least 1",
        "line 8: space.lora_alpha.of: got 'lora_s': no other knob of that name; nearest: lora_r",
        "line 9: space.learning_rate.loguniform: got [1, 0.001]; allowed: two numbers above 0, the lower first, such "
        "as [1e-5, 1e-3]",
        "line 10: space.lora_dropout: got [0.0]; allowed: one of choice, uniform, loguniform, int, ratio, such as "
        "{choice: [8, 16]}; write {choice: [0.0]}",
        "line 11: space.decay_ratio.when.lr_scheduler: got 'cosin'; lr_scheduler is one of 'cosine', "
        "'warmup_stable_decay'",
        "line 13: space.max_step: unknown key; nearest: max_steps",
        "line 14: space.weight_decay.wen: unknown key; known beside uniform: when, uniform; nearest to wen: when",
        "line 15: space._both.choice.0: got 8; allowed: fields that vary together, {lora_r: 8, seed: 1}",
        "line 16: space.seed: got {coice: [1, 2]}; allowed: one of choice, uniform, loguniform, int, ratio; nearest to "
        "coice: choice",
        "line 17: space.eval_steps: no knob: report_steps says when trials are evaluated",
    ]


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ("a: {choice: [1], when: {b: 1}}\n  b: {choice: [1], when: {a: 1}}", "space.a: depends on itself"),
        ("lora_alpha: {ratio: 2, of: lora_alpha}", "space.lora_alpha.of: got 'lora_alpha': no other knob"),
        (
            "a: {choice: [1], when: {lora_dropout: 0}}\n  lora_dropout: {uniform: [0, 0.5]}",
            "when.lora_dropout: lora_dro",
        ),
        ("lora_alpha: {ratio: 2, of: dtype}\n  dtype: {choice: [float32]}", "space.lora_alpha.of: dtype has values"),
        ("lora_r: {choice: [8, 8]}", "space.lora_r.choice: got [8, 8]; allowed: a list of different values"),
        ("lora_r: {choice: [8]}\n  _x: {choice: [{lora_r: 8}]}", "space._x.choice.0: lora_r sets it too"),
        ("test_datasets: {choice: [[]]}", "space.test_datasets: no knob: all trials are judged by the same"),
        ("storage.uri: {choice: [a]}", "space.storage.uri: no knob: it is the same for all trials"),
        ("lora_dropout: {uniform: [0.0, 1.0]}", "space.lora_dropout.uniform.1: got 1.0; allowed: a number of at least"),
        ("datasets.1.weight: {choice: [1]}", "space.datasets.1.weight.choice.0: datasets is a list of 1"),
        (
            "lora_r: {choice: [1]}\n  warmup_steps: {ratio: 0.5, of: lora_r}",
            "space.warmup_steps: got 0.5; allowed: a w",
        ),
    ],
)
def test_a_space_that_makes_no_runs_is_told_before_anything_starts(tmp_path: Path, knobs: str, problem: str):
    said = problems_of(tmp_path, RUN + "num_trials: 4\nspace:\n  " + knobs + "\n")
    assert any(problem in each for each in said), said
    assert all(each.startswith("line ") for each in said)


def test_values_that_break_a_rule_together_are_told_with_the_trial(tmp_path: Path):
    knobs = """\
  decay_ratio: {uniform: [0.5, 0.9], when: {lr_scheduler: warmup_stable_decay}}
  warmup_ratio: {choice: [0.0, 0.3]}
  lr_scheduler: {choice: [cosine, warmup_stable_decay]}
"""
    (problem,) = problems_of(tmp_path, RUN + REST + knobs)
    assert problem.startswith("line 6: space.warmup_ratio: decay_ratio: 0.9 and warmup_ratio: 0.3 take more than all")
    assert "(with lora_r: 4, decay_ratio: 0.9, warmup_ratio: 0.3, lr_scheduler: 'warmup_stable_decay')" in problem
    assert load_text(tmp_path, RUN + REST + knobs.replace("0.9", "0.7"))


def test_values_that_break_a_rule_are_found_among_many_knobs(tmp_path: Path):
    many = ["lora_r", "lora_alpha", "num_epochs", "max_steps", "seed", "logging_steps", "save_steps"]
    knobs = "".join(f"  {name}: {{choice: [1, 2, 3, 4]}}\n" for name in many)
    pair = "  load_in_4bit: {choice: [false, true]}\n  load_in_8bit: {choice: [false, true]}\n"
    (problem,) = problems_of(tmp_path, RUN + "num_trials: 4\nspace:\n" + knobs + pair)
    assert "space.load_in_8bit: both load_in_8bit and load_in_4bit are true" in problem


BROKEN = {
    "num_trials: missing; random draws": "num_trials:",
    "searcher: a grid has no end over lora_dropout": "searcher: grid\nspace: {lora_dropout: {uniform: [0.0, 0.1]}}",
    "num_trials: got 4; the grid has 2": "searcher: grid",
    "searcher: bohb learns from": "searcher: bohb",
    "scheduler: pbt chooses": "scheduler: pbt\nsearcher: optuna\nspace: {lora_alpha: {choice: [1, 2]}}",
    "scheduler: a trial goes on from another's weights, which do not fit another lora_r;": "scheduler: pbt",
    "repeats: got 2; under pbt": "scheduler: pbt\nrepeats: 2\nspace: {lora_alpha: {choice: [1, 2]}}",
    "repeats: got 2, and seed is a knob": "repeats: 2\nspace: {seed: {choice: [1, 2]}}",
    "metric: the run has no validation rows": "run: {base_model: a, datasets: [{path: b}]}",
    "metric: got eval_kl, but causal_lm tells eval_perplexity": "metric: eval_kl",
    "mode: got min with metric: eval_token_accuracy": "metric: eval_token_accuracy",
    "run: distributed.min_workers: a pack keeps": "run: {base_model: a, datasets: [{path: b}], val_set_size: 1, "
    "distributed: {min_workers: 1}}",
    "budget: got both or none": "budget: {steps: 5, tokens: 5}",
    "scheduler: asha divides a budget": "scheduler: asha\nrun: {base_model: a, datasets: [{path: b}], val_set_size: 1}",
    "report_steps: got 60; a trial ends after 50": "report_steps: 60",
    "grace_period: got 60; allowed: 5 to 50 steps": "grace_period: 60",
    "perturbation_interval: got 2; allowed: 5 to 50 steps": "perturbation_interval: 2",
}


def overlaid(text: str) -> str:
    """Lines that take the place of those with the same key."""
    keys = {line.partition(":")[0] for line in text.splitlines()}
    kept = [
        part
        for part in (RUN, "num_trials: 4\n", "space:\n  lora_r: {choice: [4, 8]}\n")
        if part.partition(":")[0] not in keys
    ]
    return "".join(kept) + text


def test_every_rule_has_a_case_that_breaks_it():
    assert [rule.fields[0] for rule in SWEEP_RULES] == [case.partition(":")[0] for case in BROKEN]
    assert all(rule.sentence.endswith(".") for rule in SWEEP_RULES)


@pytest.mark.parametrize("problem", BROKEN)
def test_a_broken_rule_is_told_at_its_field(tmp_path: Path, problem: str):
    (said,) = problems_of(tmp_path, overlaid(BROKEN[problem]))
    assert problem in said


@pytest.mark.parametrize(
    "text",
    [
        "searcher: grid\nnum_trials: 2",
        "searcher: grid\nnum_trials:",
        "searcher: bohb\nscheduler: hyperband",
        "scheduler: pbt\nsearcher: grid\nnum_trials: 2\nspace: {lora_alpha: {choice: [1, 2]}}",
        "scheduler: pbt\nspace: {learning_rate: {loguniform: [1e-5, 1e-3]}, weight_decay: {uniform: [0.0, 0.1]}}",
        "scheduler: asha\nrepeats: 3\ngrace_period: 5",
        "budget: {tokens: 1000}\ngrace_period: 1\nscheduler: median",
        "metric: train_loss\nrun: {base_model: a, datasets: [{path: b}]}",
        "metric: eval_token_accuracy\nmode: max",
        "metric: eval_perplexity",
        "metric: eval_kl\nrun: {base_model: a, rl: kto, datasets: [{path: b, type: unpaired_preference}], "
        "val_set_size: 1}",
    ],
)
def test_what_fits_together_is_taken(tmp_path: Path, text: str):
    assert load_text(tmp_path, overlaid(text))


@pytest.mark.parametrize("space", ["", "space:", "space: {}", "space: {lora_r: }", "searcher: grid\nspace: {}"])
def test_a_sweep_of_nothing_is_told(tmp_path: Path, space: str):
    (problem,) = problems_of(tmp_path, f"{RUN}num_trials: 4\n{space}")
    assert "space: no knob; give those that vary" in problem


def test_a_grid_that_would_never_end_is_told(tmp_path: Path):
    (problem,) = problems_of(tmp_path, overlaid("searcher: grid\nspace: {seed: {int: [0, 1000000000]}}"))
    assert "searcher: the grid has more than 10,000 configurations" in problem


def test_pbt_turns_no_knob_that_depends_on_another(tmp_path: Path):
    text = "scheduler: pbt\nspace: {lora_dropout: {uniform: [0.1, 0.2]}, weight_decay: {ratio: 1, of: lora_dropout}}"
    (problem,) = problems_of(tmp_path, overlaid(text))
    assert "weight_decay depends on another" in problem


def test_a_sweep_made_in_python_is_held_to_the_rules():
    run = {"base_model": "a", "datasets": [{"path": "b"}], "val_set_size": 0.1}
    with pytest.raises(SpecError, match=r"num_trials: missing") as caught:
        SweepSpec.model_validate({"run": run, "space": {"lora_r": {"choice": [8, 0]}}})
    assert "space.lora_r.choice.1: got 0" in str(caught.value)


def test_a_problem_of_the_runs_file_names_it_and_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(LEAST + "val_set_size: 0.1\nlora_r: 0\n", encoding="utf-8")
    said = problems_of(tmp_path, "num_trials: 4\nrun: run.yaml\nspace: {lora_alpha: {choice: [0]}}\n")
    assert said == [
        "line 2: run.lora_r: in run.yaml: line 4: got 0; allowed: a whole number of at least 1",
        "line 3: space.lora_alpha.choice.0: got 0; allowed: a number above 0",
    ]
