"""What lies beside a base's weights, copied beside weights that were made from them.

Two folders enter, and a chat template in place of the base's; config, tokenizer and chat template leave, no code and no
weights. Called by merging and `publish_model`.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

from raylora.model.base.folder import FILES, INDEX
from raylora.store.files import copy

CONFIG = "config.json"
DTYPE_FIELDS = ("dtype", "torch_dtype")
"""What config.json calls the dtype of the weights, now and before transformers 5."""

TOKENIZER, TEMPLATE, TEMPLATES = "tokenizer_config.json", "chat_template.jinja", "chat_template*"


def copy_model_files(base: Path, folder: Path, dtype: str, chat_template: str | None = None) -> None:
    """Copy the files that make weights a model.

    The name of the base is left out of its config: what is trained on the copy was not trained on the base.

    Args:
        base: A base's folder.
        folder: Where to.
        dtype: Of the weights in `folder`, for config.json.
        chat_template: Jinja text in place of the base's own.
    """
    for path in base.iterdir():
        if path.is_file() and _lies_beside_weights(path.name):
            copy(path, folder / path.name)
    fields = json.loads((base / CONFIG).read_text(encoding="utf-8"))
    fields.pop("_name_or_path", None)
    said = [name for name in DTYPE_FIELDS if name in fields] or [DTYPE_FIELDS[0]]
    text = json.dumps(fields | dict.fromkeys(said, dtype), indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    if chat_template is not None:
        _put_template(folder, chat_template)


def _put_template(folder: Path, chat_template: str) -> None:
    """Leave one chat template in a folder, wherever others were said."""
    for path in folder.glob(TEMPLATES):
        path.unlink()
    (folder / TEMPLATE).write_text(chat_template, encoding="utf-8")
    told = folder / TOKENIZER
    if told.is_file():
        fields = json.loads(told.read_text(encoding="utf-8"))
        fields.pop("chat_template", None)
        told.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _lies_beside_weights(name: str) -> bool:
    if name in (CONFIG, INDEX) or name.endswith(".safetensors"):
        return False
    return any(fnmatchcase(name, pattern) for pattern in FILES)
