"""What goes with which task, and what each refusal says."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylora.spec.packing import pack_key
from tests.unit.spec.specs import load_text, problems_of

BASE = "base_model: org/model\n"
TEXTS = BASE + "datasets: [{path: rows.jsonl, type: classification}]\n"
WORDS = BASE + "datasets: [{path: rows.jsonl, type: tags}]\n"
PAIRS = BASE + "datasets: [{path: rows.jsonl, type: preference}]\n"
FROM = BASE + "datasets: [{path: rows.jsonl, type: completion}, {path: more.jsonl, type: alpaca}]\n"
TO = "task_type: seq_2_seq_lm\n"
IMAGES = BASE + "datasets: [{path: rows.jsonl, type: image}]\n"
IMAGE = "task_type: image_cls\nlabels: [a, b]\n"
SEQ = "task_type: seq_cls\nlabels: [a, b]\n"


@pytest.mark.parametrize(
    "text",
    [
        TEXTS + SEQ,
        WORDS + "task_type: token_cls\nlabels: [O, B-PER, I-PER]",
        PAIRS + "task_type: seq_cls\nrl: reward",
        FROM + TO,
        FROM + TO + "load_in_8bit: true\nuse_dora: true\ndistributed: {strategy: deepspeed, num_workers: 2}",
        TEXTS + SEQ + "adapter: adalora\nload_in_4bit: true\nsample_packing: true",
        TEXTS + SEQ + "loraplus_lr_ratio: 4\ndistributed: {strategy: fsdp, num_workers: 2}",
        IMAGES + IMAGE + "load_in_4bit: true\nadapter: vera\ndistributed: {strategy: fsdp, num_workers: 2}",
        IMAGES.replace("image", "audio") + IMAGE.replace("image", "audio") + "load_in_8bit: true",
        TEXTS + SEQ + "test_datasets: [{path: more.jsonl, type: classification}]\ndistributed: {strategy: deepspeed}",
    ],
)
def test_what_goes_together_is_taken(tmp_path: Path, text: str):
    assert load_text(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXTS + "task_type: seq_cls", "labels: got none; seq_cls tells classes apart: name two or more"),
        (TEXTS + "task_type: seq_cls\nlabels: [a]", "labels: got a; seq_cls tells classes apart"),
        (TEXTS + "task_type: seq_cls\nlabels: [a, b, a]", "labels: a stands there more than once"),
        (PAIRS + SEQ + "rl: reward", "labels: got a, b with rl: reward, which has no classes"),
        (TEXTS, "task_type: got causal_lm and datasets of type classification; set task_type: seq_cls"),
        (WORDS, "task_type: got causal_lm and datasets of type tags; set task_type: token_cls"),
        (WORDS + SEQ, "task_type: got seq_cls, which learns from datasets of type classification; got type tags"),
        (PAIRS + "rl: reward", "task_type: got causal_lm with rl: reward, which learns a number for each text"),
        (
            PAIRS + "rl: dpo\ntask_type: seq_cls",
            "task_type: got seq_cls with rl: dpo, which needs task_type: causal_lm",
        ),
        (PAIRS + "rl: reward\ntask_type: token_cls", "which needs task_type: seq_cls; set it, or remove rl"),
        (IMAGES, "task_type: got causal_lm and datasets of type image; set task_type: image_cls"),
        (TEXTS + IMAGE, "task_type: got image_cls, which learns from datasets of type image; got type classification"),
        (IMAGES + "task_type: image_cls", "labels: got none; image_cls tells classes apart: name two or more"),
        (IMAGES + IMAGE + "sample_packing: true", "with sample_packing: true (a file is a row by itself); remove"),
        (IMAGES + IMAGE + "chat_template: '{{ messages }}'", "with chat_template (rows are no texts); remove that"),
        (IMAGES + IMAGE + "adapter: full", "with adapter: full (it trains no head beside the base); remove that"),
        (TEXTS + SEQ + "adapter_bank: peft", "with adapter_bank: peft (it holds an adapter and no head); remove that"),
        (TEXTS + SEQ + "sample_prompts: [hi]", "with sample_prompts (nothing answers them); remove that"),
        (TEXTS + SEQ + "train_on_inputs: true", "with train_on_inputs: true (the loss is of classes alone)"),
        (
            BASE + "datasets: [{path: rows.jsonl}]\n" + TO,
            "learns from datasets of type completion or alpaca; got type chat",
        ),
        (TEXTS + TO, "learns from datasets of type completion or alpaca; got type classification"),
        (PAIRS + "rl: dpo\n" + TO, "got seq_2_seq_lm with rl: dpo, which needs task_type: causal_lm"),
        (FROM + TO + "labels: [a, b]", "labels: got a, b with task_type: seq_2_seq_lm, which has no classes"),
        (FROM + TO + "sample_packing: true", "with sample_packing: true (rows lie without padding as it is)"),
        (FROM + TO + "adapter_bank: peft", "with adapter_bank: peft (it writes adapters of decoders)"),
        (FROM + TO + "adapter: full", "with adapter: full (it publishes decoders)"),
        (FROM + TO + "train_on_inputs: true", "with train_on_inputs: true (the loss is of the target alone)"),
        (
            FROM + TO + "init_lora_weights: eva",
            "with init_lora_weights: eva (its start is made for texts",
        ),
        (FROM + TO + "sample_prompts: [hi]", "got seq_2_seq_lm with sample_prompts (nothing answers them)"),
    ],
)
def test_what_does_not_is_refused_with_the_way_out(tmp_path: Path, text: str, said: str):
    (problem,) = problems_of(tmp_path, text)
    assert said in problem


def test_a_reward_is_learned_from_pairs(tmp_path: Path):
    problems = problems_of(tmp_path, TEXTS + "rl: reward\ntask_type: seq_cls")
    assert any("rl: got reward, which learns from datasets of type preference" in problem for problem in problems)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "causal_lm"])
def test_pefts_capitals_are_read(tmp_path: Path, task: str):
    text = BASE + f"datasets: [{{path: rows.jsonl}}]\ntask_type: {task}"
    assert load_text(tmp_path, text).spec.task_type == "causal_lm"
    assert load_text(tmp_path, FROM + TO.replace("seq_2_seq_lm", "SEQ_2_SEQ_LM")).spec.has_two_sides
    assert load_text(tmp_path, TEXTS + SEQ.replace("seq_cls", "SEQ_CLS")).spec.task_type == "seq_cls"


def test_runs_of_other_tasks_or_classes_share_no_pack(tmp_path: Path):
    texts = load_text(tmp_path, TEXTS + SEQ).spec
    others = [
        load_text(tmp_path, TEXTS + SEQ.replace("b]", "b, c]")).spec,
        load_text(tmp_path, WORDS + SEQ.replace("seq_cls", "token_cls")).spec,
        load_text(tmp_path, PAIRS + "task_type: seq_cls\nrl: reward").spec,
        load_text(tmp_path, IMAGES + IMAGE).spec,
        load_text(tmp_path, BASE + "datasets: [{path: rows.jsonl}]").spec,
        load_text(tmp_path, FROM + TO).spec,
    ]
    assert len({pack_key(spec) for spec in (texts, *others)}) == 7
