"""The words of docs/sweeps.md around what `reference.py` makes from the fields."""

from __future__ import annotations

SWEEP_HEAD = """\
# Sweeps

Written by `make docs` from the fields in `raylora/spec/`; a test fails when the two differ.

A sweep is one YAML file: a run, what varies, who chooses, and when a trial is stopped.

```yaml
run: examples/short-steps.yaml
num_trials: 16
metric: eval_loss
searcher: optuna
scheduler: asha
budget: {steps: 50}
report_steps: 5
space:
  lora_r: {choice: [8, 16, 32]}
  lora_alpha: {ratio: 2, of: lora_r}
  learning_rate: {loguniform: [1e-5, 1e-3]}
  lora_dropout: {uniform: [0.0, 0.1]}
  lora_target_modules: {choice: [[q_proj, v_proj], all-linear]}
  lr_scheduler: {choice: [cosine, warmup_stable_decay]}
  decay_ratio: {uniform: [0.05, 0.3], when: {lr_scheduler: warmup_stable_decay}}
  _batch:
    choice:
      - {micro_batch_size: 1, gradient_accumulation_steps: 4}
      - {micro_batch_size: 2, gradient_accumulation_steps: 4}
```

- A knob is named after the field that it sets, dots included (`distributed.num_workers`). A name that starts with `_` is
  free: its choices are mappings of fields that vary together.
- `adapter` takes [names of methods](configuration.md#names-of-methods), too: `adapter: {choice: [lora, dora, rslora]}`. The
  run then leaves out the fields that make them.
- Every choice, both ends of every range, and their combinations are tried against the run's fields and rules before
  anything starts. A draw between the ends that makes no run is a trial that fails by itself, with the reason.
- Files to start from are in `sweeps/`. `raylora schema sweep` prints the JSON schema that editors complete from.
- `--set` reaches the sweep's own fields (`--set num_trials=4`), its knobs (`--set space.lora_r='{choice: [4, 8]}'`;
  `--set space.lora_r=` takes one out) and any field of its run (`--set max_steps=10`, which replaces `budget.steps`).
  A name that both have says which: `run.seed` or `sweep.seed`.
"""

SWEEP_TAIL = """\
## What makes trials comparable

- **Budget.** All trials get the same steps or tokens at most, and the learning rate runs its schedule over them. Tokens
  are counted in whole steps: a trial may exceed them by less than one.
- **Rows of a step.** A trial with another `micro_batch_size` or `distributed.num_workers` makes up for it by
  accumulation, so that every step takes as many rows as the run's own. Where `gradient_accumulation_steps` is a knob,
  the rows of a step vary on purpose. Under `sample_packing` a row is a bin of several: where that is a knob, trials of
  equal steps train on unequal tokens, and a budget in tokens is the fair one.
- **Validation rows.** `val_set_size` splits them off by `split_seed`, which trials keep while `seed` varies; which rows
  are held out is no knob.
- **Order.** The order of training rows follows `seed`: the same repeat of two configurations sees the same rows in the
  same order. Repeat 0 trains under the run's seed, repeat 1 under the next number, and so on.
- **The data.** Base, rows and validation rows stay as they are while a sweep goes on, also until it is resumed: a trial
  that has a save is refused other rows than it began with, one that begins anew is not.
- **The winner.** Only what trained to its end is compared, so the winner has an adapter, which had all of its budget, or
  was ended by the run's own `early_stopping_patience`. A trial that a scheduler stopped stays in every table and picture with what it had reached; where no trial came to its
  end, all are compared as they stand, and the report says so.
- **Repeats.** Mean and spread are over the repeats of one draw. A searcher may draw a configuration again: that is the
  same training under the same seeds and no repeat of it, and the report says so.
- **Time.** Schedulers count steps or tokens, never seconds.

## Packs

Two trials share a frozen base in one worker group where `base_model`, `base_model_revision`, quantization, `dtype`,
`gradient_checkpointing`, `sequence_len`, `chat_template`, `rl`, `task_type`, `labels`, `distributed` and `ray` are equal.
A trial with `adapter: full`, `adapter_bank: peft`, a `peft:` block, an optimizer other than `adamw_torch`, or DeepSpeed's
stages 1 and 2 runs alone, and so does one on a base that takes one adapter's rows at a time, such as OPT.

A pack trains several trials at once, each in a slot of its own. The plan gives it the most slots that there are trials
for, that memory holds for the largest run of the space, and that `slots` allows. Trials that are drawn together know
nothing of each other: so a searcher that learns (`optuna`, `hyperopt`, `bohb`) draws at most a quarter of its trials,
and two at least, before one is over, and without `slots` there are no more slots than that. Its first draws are by
chance all the same: Optuna's first ten at least, HyperOpt's first twenty. With `scheduler: hyperband` only `bohb` can
be limited.

Where there are at least as many slots as workers, each slot stays on one worker and no gradient travels; otherwise
every worker computes its part of every slot's rows, with one all-reduce a step. Without `slots`, a pack times steps of
1, 2, 4, ... slots when it starts, and offers fewer slots where fewer are faster, or where the widths that it timed do
not tell enough of wider ones. At least two widths are tried, with one or two steps each: a few seconds on short rows,
tens of seconds on long ones or a slow machine. With `repeats` over 1 it offers slots for whole trials. With `slots`
nothing is timed, and the pack has as many as asked where they fit.

`raylora sweep FILE --plan` prints the plan and starts nothing. Cores, GPUs and free memory are those of the cluster at
`ray.address` or `RAY_ADDRESS`, whose nodes are asked, or of this machine where there is none. Times are those of one
block of the model, timed on the machine that plans, without early stops and without what travels between workers;
starts are not timed, but foreseen from those of a base of 135M values on two cores, by the number of values. The plan
also says what the same trials would take one after the other, each with a start of its own. Trials with many tokens in
a step keep a processor busy alone: a pack of them saves starts and the gathering of a sharded base, and its steps are
hardly faster.

## Grid files of axolotl

`raylora sweep run.yaml --grid grid.yaml` reads a file of axolotl's `--sweep` as it is, over a run's file: keys with
lists of values, and under keys that start with `_` lists of mappings that vary together. Its keys and values are read
as in a run's file.

## Digest

The digest of a sweep is the SHA-256 of its run's digest and of every other field but `slots`.
"""
