"""Keys of axolotl, TRL and LLaMA-Factory that set no field of raylora, and what to tell who writes them.

`aliases.py` asks `answer`. A key whose value asks for nothing (null, false, empty) is passed over in silence, so that
a file which spells out its tool's defaults is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylora.spec.text.show import show

_SETTLED: Mapping[str, tuple[Any, ...]] = {
    "stage": ("sft",),
    "use_peft": (True,),
    "peft_type": ("LORA",),
    "lora_task_type": ("CAUSAL_LM",),
    "bias": ("none",),
    "pissa_convert": (True,),
    "quantization_method": ("bnb", "bitsandbytes"),
    "truncation_mode": ("keep_start",),
    "loss_type": ("nll",),
    "mix_strategy": ("concat",),
    "shuffle_merged_datasets": (True,),
    "train_sampling_strategy": ("random",),
    "eval_strategy": ("steps", "no"),
    "evaluation_strategy": ("steps", "no"),
    "save_strategy": ("steps", "no"),
    "logging_strategy": ("steps",),
    "report_to": ("none", "mlflow", ["none"], ["mlflow"]),
    "use_mlflow": (True,),
    "use_ray": (True,),
    "do_train": (True,),
    "save_safetensors": (True,),
}
"""Values that say what raylora does anyway; any other is refused."""

_HARMLESS: Mapping[str, str] = {
    "raylora picks the fastest kernels that it finds": """
        attn_implementation flash_attention flash_attn sdp_attention xformers_attention flex_attention eager_attention
        tf32 torch_compile use_liger_kernel enable_liger_kernel use_unsloth use_kernels lora_mlp_kernel lora_qkv_kernel
        lora_o_kernel flash_attn_cross_entropy use_cache""",
    "the base's own files say it": """
        model_type type_of_model tokenizer_type tokenizer_use_fast use_fast_tokenizer is_llama_derived_model
        is_mistral_derived_model is_falcon_derived_model is_qwen_derived_model""",
    "raylora never runs code that comes with a model or a dataset": "trust_remote_code",
    "raylora keeps its own cache": """
        dataset_prepared_path tokenized_path cache_dir overwrite_cache preprocessing_batch_size
        dataset_keep_in_memory""",
    "it does not change what is learned": """
        pad_to_sequence_len pad_to_multiple_of eval_sample_packing eval_packing padding_free packing_strategy
        sample_packing_group_size sample_packing_bin_size multipack_real_batches gradient_checkpointing_kwargs
        pad_token""",
    "evaluation takes micro_batch_size": "per_device_eval_batch_size eval_batch_size",
    "raylora does it, or leaves it out, by itself": """
        plot_loss overwrite_output_dir logging_first_step eval_on_start do_eval logging_dir strict low_cpu_mem_usage
        dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor remove_unused_columns ddp
        ddp_find_unused_parameters gc_steps gc_collect_steps disable_tqdm log_level ray_run_name
        include_num_input_tokens_seen include_tokens_per_second""",
    "no embedding gets an adapter": "loraplus_lr_embedding",
    "a loss that is not finite stops the run": "loss_watchdog_threshold loss_watchdog_patience",
}
"""Reasons, each with the keys that are read past with a note."""

_UNSUPPORTED: Mapping[str, str] = {
    "write init_lora_weights: pissa, or pissa_niter_16 for 16 iterations": "pissa_iter",
    "write init_lora_weights: loftq, which takes one iteration, and load_in_4bit or load_in_8bit": "loftq_config",
    "write adapter: full and optimizer: galore_adamw, with galore_rank, galore_update_proj_gap and galore_scale": """
        use_galore""",
    "raylora trains LoRA, rsLoRA, LoRA+ and DoRA; remove it": """
        use_apollo use_badam use_llama_pro relora lisa_n_layers unfrozen_parameters
        modules_to_save lora_modules_to_save additional_target target_parameters lora_target_parameters lora_bias
        trainable_token_indices peft_trainable_token_indices lora_fan_in_fan_out""",
    "write the whole adapter as PEFT's own, peft: {peft_type: LORA, r: ..., rank_pattern: ...}": """
        exclude_modules rank_pattern alpha_pattern lora_rank_pattern lora_alpha_pattern layers_to_transform
        layers_pattern peft_layers_to_transform peft_layers_pattern""",
    "raylora starts from a fresh adapter; remove it": "lora_model_dir adapter_name_or_path create_new_adapter",
    "raylora learns from preferences by rl: dpo, ipo, orpo or kto and rl_beta; remove it": """
        trl process_reward_model pref_loss pref_ftx simpo_gamma rpo_alpha""",
    "write rl: reward and task_type: seq_cls": "reward_model",
    "the reference of rl: dpo, ipo and kto is the base without the adapter; remove it": "ref_model",
    "write distributed: {strategy: ddp, fsdp or deepspeed, zero_stage: ..., num_workers: ...}": """
        deepspeed fsdp fsdp_config fsdp_version fsdp_final_state_dict_type dp_shard_size dp_replicate_size
        accelerator_config parallelism_config device_map ray_init_kwargs""",
    "raylora has no tensor, context or sequence parallelism; remove it": """
        tensor_parallel_size context_parallel_size sequence_parallel_degree""",
    "reserve with distributed.cpus_per_worker, gpus_per_worker and resources_per_worker": "resources_per_worker",
    "write load_in_4bit, bnb_4bit_quant_type, bnb_4bit_use_double_quant or bnb_4bit_quant_storage": """
        bnb_config_kwargs""",
    "raylora quantizes by load_in_4bit or load_in_8bit; remove it": "gptq quantization qat model_quantization_config",
    "count in optimizer steps with eval_steps": "evals_per_epoch eval_delay",
    "count in optimizer steps with save_steps": "saves_per_epoch save_first_step",
    "raylora keeps the newest checkpoints and the last adapter; remove it": """
        load_best_model_at_end metric_for_best_model greater_is_better save_only_model""",
    "raylora tracks with MLflow only; remove it": """
        use_wandb wandb_project wandb_name wandb_entity wandb_watch wandb_log_model wandb_mode wandb_run_id use_comet
        comet_workspace comet_project_name use_swanlab swanlab_project use_tensorboard use_trackio""",
    "secrets are read from the environment only; remove it": """
        hub_token hf_hub_token ms_hub_token om_hub_token comet_api_key swanlab_api_key hf_use_auth_token""",
    "raylora keeps adapters in its store; remove it": """
        push_to_hub hub_model_id hub_strategy hub_private_repo hub_revision push_dataset_to_hub""",
    "a run goes on with: raylora resume RUN": "resume_from_checkpoint auto_resume_from_checkpoints",
    "templates have no names here: remove it for the tokenizer's own, or give chat_template Jinja or a file": """
        template default_system default_system_message tool_format""",
    "raylora keeps the tokenizer as it is; remove it": """
        tokens added_tokens_overrides add_tokens add_special_tokens resize_vocab eos_token eot_tokens tokenizer_config
        resize_token_embeddings_to_32x""",
    "give the split, the configuration or the column in datasets: [{path, split, name, columns}]": """
        dataset_config dataset_train_split dataset_test_split dataset_text_field dataset_dir""",
    "raylora has no such choice of rows; remove it": """
        max_samples streaming pretraining_dataset mask_history group_by_length curriculum_sampling interleave_probs
        dataset_exact_deduplication min_sample_len dataset_shard_num data_seed""",
    "raylora has no such setting of the optimizer or schedule; remove it": """
        lr_scheduler_kwargs cosine_min_lr_ratio cosine_constant_lr_ratio lr_groups embedding_lr optim_args
        lr_quadratic_warmup neftune_noise_alpha label_smoothing_factor auto_find_batch_size""",
    "write micro_batch_size and gradient_accumulation_steps": "batch_size",
    "raylora has no plugins; remove it": "plugins",
}
"""What to do instead, each with the keys that are refused."""

_DATASET_HARMLESS: Mapping[str, str] = {
    "the file's ending says it": "ds_type",
    "raylora never runs code that comes with a model or a dataset": "trust_remote_code",
}
_DATASET_UNSUPPORTED: Mapping[str, str] = {
    "give the file, folder or glob as path": "data_files",
    "raw text is type: text here; name its column with columns: {text: ...}": "field",
    "one template serves all datasets: write chat_template beside datasets": "chat_template chat_template_jinja",
    "a message has role and content here; convert the rows": """
        message_property_mappings message_field_role message_field_content roles conversation""",
    "the loss counts the assistant's turns; remove it": "roles_to_train train_on_eos train_on_eot",
    "a message of the assistant's says itself how much it counts, weight: 0 to 1; rename the key in the rows": """
        message_field_training message_field_training_detail""",
    "raylora reads whole sources; remove it": "shards shards_idx preprocess_shards",
}


def _by_key(reasons: Mapping[str, str]) -> dict[str, str]:
    return {key: reason for reason, keys in reasons.items() for key in keys.split()}


_RUN = (_by_key(_HARMLESS), _by_key(_UNSUPPORTED))
_DATASET = (_by_key(_DATASET_HARMLESS), _by_key(_DATASET_UNSUPPORTED))


def answer(key: str, value: Any, in_dataset: bool) -> str | None:
    """Say why a foreign key has no effect.

    Args:
        key: The key as written.
        value: Its value.
        in_dataset: Whether it stands in an entry of `datasets` rather than in the run.

    Returns:
        The reason to print; empty where there is nothing to say; None where the key is not foreign.

    Raises:
        ValueError: raylora cannot do what the key asks; carries the words for the user.
    """
    harmless, unsupported = _DATASET if in_dataset else _RUN
    settled = {} if in_dataset else _SETTLED
    if key not in harmless and key not in unsupported and key not in settled:
        return None
    if not value:
        return ""
    if key in unsupported:
        raise ValueError(f"a key of another tool that raylora does not support: {unsupported[key]}")
    if key in harmless:
        return harmless[key]
    if value not in settled[key]:
        allowed = ", ".join(str(each) for each in settled[key] if not isinstance(each, list))
        raise ValueError(f"got {show(value)}; a key of another tool of which raylora does only: {allowed}")
    return "raylora does that anyway"
