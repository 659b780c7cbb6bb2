"""The base's tokenizer with the run's chat template.

Enters: the base's folder and the specification's `chat_template`. Leaves: a fast tokenizer, and a digest of all that
decides which tokens a text becomes. Called by prepare, and by whoever needs the same tokenizer (samples, export).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jinja2
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from raylora.data.tokens.in_time import check_no_powers
from raylora.errors import DataError, ModelError


def load_tokenizer(folder: Path, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Load a tokenizer; nothing is fetched and no code of the folder is run.

    Args:
        folder: Folder with the tokenizer's files.
        chat_template: Jinja text, or the path of a file with it, in place of the tokenizer's own.

    Raises:
        ModelError: The folder has no tokenizer, or one that cannot say which characters a token covers.
        DataError: The chat template cannot be read, is no Jinja, or raises to a power.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BaseException as error:  # tokenizers raises Exception itself, and what panics in Rust is not even one
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())
        raise ModelError(
            f"base_model: {folder} has no tokenizer that can be loaded ({said}). Allowed: one that transformers "
            "contains, in files that are whole. Save the tokenizer of this model into the same folder with its "
            "save_pretrained"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"base_model: the tokenizer of {folder}, {type(tokenizer).__name__}, cannot say which characters a token "
            "covers. Allowed: a fast tokenizer (tokenizer.json). Convert it"
        )
    if chat_template is not None:
        tokenizer.chat_template = read_template(chat_template)
    own = tokenizer.chat_template or ""  # several by name, in tokenizers of some bases
    for template in own.values() if isinstance(own, dict) else [own]:
        check_no_powers(template)
    return tokenizer


def read_template(chat_template: str) -> str:
    """Return a chat template's text.

    Args:
        chat_template: As for :func:`load_tokenizer`.

    Raises:
        DataError: It cannot be read, is no Jinja, or raises to a power.
    """
    text = _template_text(chat_template)
    check_no_powers(text)  # first: Jinja reckons with constants as it reads
    _check_syntax(text)
    return text


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 over vocabulary, rules, special tokens and chat template."""
    about = [tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _template_text(chat_template: str) -> str:
    if any(mark in chat_template for mark in ("{{", "{%", "\n")):
        return chat_template
    try:
        return Path(chat_template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"chat_template: {chat_template} is neither Jinja text nor a file that can be read ({error}); "
            "give the path of a UTF-8 file, or leave chat_template out for the tokenizer's own"
        ) from error


def _check_syntax(template: str) -> None:
    try:
        render_jinja_template(conversations=[], chat_template=template)
    except Exception as error:  # Jinja's own, or Python's where the template is nested deeper than either can read
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, jinja2.TemplateSyntaxError):
            said = f"{error.message}, line {error.lineno} of it"
        raise DataError(
            f"chat_template: no Jinja that can be read ({said}); correct it, or leave chat_template out for the "
            "tokenizer's own"
        ) from error
