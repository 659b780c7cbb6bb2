"""Files of other tools, as their users write them."""

from __future__ import annotations

LLAMA_FACTORY = """\
model_name_or_path: org/model
trust_remote_code: true
quantization_bit: 4
quantization_method: bnb
double_quantization: false
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_alpha: 16
lora_target: q_proj, v_proj
dataset: org/rows,more.jsonl
cutoff_len: 2048
preprocessing_num_workers: 4
overwrite_cache: true
output_dir: saves/model
logging_steps: 10
save_steps: 500
plot_loss: true
report_to: none
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 18000
resume_from_checkpoint: null
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
"""
