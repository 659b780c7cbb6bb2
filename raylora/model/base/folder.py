"""What makes a folder a usable base: config.json, safetensors and a tokenizer, in a form that runs no foreign code.

A folder (or the listing of one that is still remote) enters; its weight files and its logical name leave, or a
`ModelError` that says what to do. Called by `source`, `remote`, `convert` and `digest`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from transformers import PretrainedConfig

from raylora.errors import ModelError
from raylora.model.base.meta import NO_CONFIG, read_config
from raylora.model.base.task_class import task_class
from raylora.spec.fields.task import OF_VALUES, TaskType

INDEX = "model.safetensors.index.json"

FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    INDEX,
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "preprocessor_config.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
"""Files of a remote folder that are fetched: weights, config, tokenizer and processor, and never code or pickles."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt")

LOGICAL_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
"""A hub id or a bare name; an absolute path or one that climbs is neither."""


def check_listing(names: Collection[str], where: str, task: TaskType = "causal_lm") -> None:
    """Refuse a folder by the names of its files, before anything is downloaded or read.

    Args:
        names: File names directly in the folder.
        where: The folder as the user knows it.
        task: What is to be learned.

    Raises:
        ModelError: No config.json, pickle files only, no weights, or no tokenizer, of a base that reads no texts
            no processor.
    """
    if "config.json" not in names:
        raise ModelError(NO_CONFIG.format(where))
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(name for name in names if name.endswith(PICKLES))
        got = f"weights as pickle files only ({', '.join(pickles[:3])})" if pickles else "no weights"
        raise ModelError(
            f"base_model: {where} has {got}. Allowed: *.safetensors, since reading a pickle can run code. "
            "Use a revision with safetensors, or convert it where you trust it: load it with transformers and "
            "save_pretrained it."
        )
    if task in OF_VALUES:
        if "preprocessor_config.json" not in names:
            raise ModelError(
                f"base_model: {where} has no image processor or feature extractor (preprocessor_config.json). "
                "Save that of this model into the same folder with its save_pretrained."
            )
    elif not any(name.startswith(("tokenizer", "vocab")) or name.endswith(".model") for name in names):
        raise ModelError(
            f"base_model: {where} has no tokenizer (tokenizer.json, tokenizer.model or vocab files). "
            "Save the tokenizer of this model into the same folder with its save_pretrained."
        )


def check_folder(folder: Path, task: TaskType = "causal_lm") -> None:
    """Refuse a local folder that cannot be the frozen base of a task.

    Args:
        folder: Local folder.
        task: What is to be learned.

    Raises:
        ModelError: As `check_listing`; a shard is missing; code comes with it; it is no model for the task; or it is
            quantized already.
    """
    check_listing([path.name for path in folder.iterdir()], str(folder), task)
    weight_files(folder)
    check_config(read_config(folder), str(folder), task)


def check_config(config: PretrainedConfig, where: str, task: TaskType = "causal_lm") -> None:
    """Refuse a config whose model cannot be the frozen base of a task.

    Args:
        config: The model's config.
        where: The model as the user knows it.
        task: What is to be learned.

    Raises:
        ModelError: It is no model for the task, or it is quantized already.
    """
    task_class(config, task)
    quantized = getattr(config, "quantization_config", None)
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else type(quantized).__name__
        raise ModelError(
            f"base_model: {where} is quantized already ({method}). Allowed: float weights, which raylora quantizes "
            "itself as load_in_4bit or load_in_8bit ask. Use the unquantized version of this model."
        )


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files that make up the model, sorted by name.

    Args:
        folder: Local folder; where it has an index, only the files the index names count.

    Raises:
        ModelError: The index names a file that is not there, or cannot be read.
    """
    index = folder / INDEX
    if not index.is_file():
        single = folder / "model.safetensors"
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if outside := [name for name in names if Path(name).name != name or name == ".."]:
            raise ValueError(f"it names {outside[0]!r}, outside of the folder")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"base_model: {index} is no index of safetensors ({error}). Copy the folder again.") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"base_model: {folder} lacks {len(missing)} of the {len(names)} weight files its index names, first "
            f"{missing[0]}. Copy the folder again."
        )
    return [folder / name for name in names]


def logical_name(folder: Path, fallback: str) -> str:
    """Return the name under which other tools know this base: what config.json says, or `fallback`; never a path.

    Args:
        folder: Local folder with config.json.
        fallback: Name where config.json has none.
    """
    declared = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
    return declared if isinstance(declared, str) and LOGICAL_NAME.fullmatch(declared) else fallback
