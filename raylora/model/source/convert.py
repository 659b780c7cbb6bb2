"""A GGUF file -> the same model as a folder of safetensors, made once and kept in the cache.

Called by `source`. transformers reads GGUF by undoing its quantization. The tensors stay float32: an undone value
(scale x code + offset, where scale and offset have 16 bits) needs more bits than any 16-bit float has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from raylora.errors import ModelError
from raylora.model.base.task_class import causal_lm_class
from raylora.model.source.digest import file_digest
from raylora.model.source.gguf_header import general_facts, published_name
from raylora.store.once import build_once


def gguf_folder(file: Path, cache: Path) -> Path:
    """Return the folder that holds a GGUF file's model, converting it the first time.

    Args:
        file: A ``.gguf`` file.
        cache: Where converted bases are kept, by the digest of the file.

    Raises:
        ModelError: It is no GGUF file, of an architecture that cannot be converted, or tensors are missing.
        StoreError: The disk is full, or the cache cannot be written.
    """
    name = published_name(file)
    folder = cache / "bases" / f"gguf-{file_digest(file, cache)[:32]}"
    return build_once(folder, f"converted {file.name}", lambda empty: _convert(file, name, empty))


def gguf_config(file: Path) -> PretrainedConfig:
    """Read the config of a GGUF file's model without its tensors: seconds, for the tokenizer lies before it.

    Args:
        file: A ``.gguf`` file.

    Raises:
        ModelError: It is no GGUF file, or of an architecture that cannot be converted.
    """
    general_facts(file)
    with _refusing(file):
        config: PretrainedConfig = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    return config


def _convert(file: Path, name: str, folder: Path) -> None:
    config = gguf_config(file)
    with _refusing(file):
        # Handed the config, neither of the two reads the header for it once more.
        # What lies beside the file is read too (tokenizer_config.json): no code that it names is run or asked about.
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, config=config, trust_remote_code=False
        )
        _save_weights(file, config, folder)
    tokenizer.save_pretrained(folder)
    _name(folder / "config.json", name)


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    """Say what transformers raises about a file in raylora's words."""
    if find_spec("gguf") is None:
        raise ModelError("base_model: reading .gguf needs the package gguf; run: pip install gguf")
    try:
        yield
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(
            f"base_model: {file} cannot be converted ({error}). Allowed: GGUF of an architecture that transformers "
            "reads, beside no tokenizer_config.json that names Python code. Move it to a folder of its own, or use the "
            "model's original safetensors."
        ) from error


def _save_weights(file: Path, config: PretrainedConfig, folder: Path) -> None:
    config.architectures, config.dtype = [causal_lm_class(config).__name__], torch.float32
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
    )
    model, report = loaded
    # transformers fills what is missing with random numbers.
    if report["missing_keys"] or report["mismatched_keys"]:
        absent = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
        raise ModelError(
            f"base_model: {file} lacks {len(absent)} of the tensors of {config.architectures[0]}, first {absent[0]}. "
            "Use a whole file; a model split into several .gguf files is not read."
        )
    tied = model.all_tied_weights_keys
    # Not the model's own save_pretrained: it refuses a model read from GGUF, and imports DeepSpeed, seconds of work.
    save_torch_state_dict({name: tensor for name, tensor in model.state_dict().items() if name not in tied}, folder)
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def _name(config_file: Path, name: str) -> None:
    fields = json.loads(config_file.read_text(encoding="utf-8"))
    fields["_name_or_path"] = name
    config_file.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
