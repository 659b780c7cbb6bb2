"""The card beside an exported adapter: what it is, where it comes from, how it is loaded where it was exported to.

Facts enter, the text of a ``README.md`` leaves. Called by `served_folder`. Nothing in it names a place on this machine:
the commands speak of the folder by its own name.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from raylora.adapters.serving.servers import SERVERS, largest_rank_setting

LINEAGE = {
    "base_digest": "digest of the base (SHA-256 of its tensors)",
    "quantization": "base held as",
    "dtype": "computed in",
    "adapter": "kind",
    "data_digest": "digest of the data",
    "tokenizer_digest": "digest of the tokenizer",
    "seed": "seed",
    "spec_digest": "digest of the configuration",
    "run_id": "run",
    "combined_from": "combined of",
    "method": "combined by",
    "weights": "weights of those",
    "density": "part of their values that was kept",
    "max_rank": "rank that was asked for",
    "eval_loss": "validation loss",
    "rank_errors": "lost by a smaller rank before",
    "raylora": "raylora",
}
"""What of a manifest is told, and what a person calls it."""


AUTO_CLASSES = {
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "IMAGE_CLS": "AutoModelForImageClassification",
    "AUDIO_CLS": "AutoModelForAudioClassification",
}
"""Of transformers by PEFT's word for a task other than the next token, and by ours where it has none."""


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Args:
        word: Server, a key of `SERVERS`.
        name: Under which the server is to know the adapter, and the name of its folder or file.
        base_name: Logical id of the base.
        base_revision: Its commit, where it has one.
        r: Rank as written; ``None`` where the adapter has none.
        about: The manifest's lineage.
        rank_error: Mean and largest relative error of a smaller rank, ``None`` where the rank was left alone.
        has_own_template: Whether it was trained with a chat template that is not the base's.
        task_type: What it was trained for, a key of `AUTO_CLASSES` where it has a head.
        num_labels: Outputs of its head, where it has one.
    """

    word: str
    name: str
    base_name: str
    base_revision: str | None
    r: int | None
    about: Mapping[str, Any]
    rank_error: Mapping[str, float] | None = None
    has_own_template: bool = False
    task_type: str | None = None
    num_labels: int | None = None


def card(facts: CardFacts) -> str:
    """Write the card.

    Args:
        facts: What it tells.

    Returns:
        Markdown with a front matter that model hubs read.
    """
    told = {name: facts.about[name] for name in LINEAGE if facts.about.get(name) is not None}
    rows: list[tuple[str, object]] = [
        ("base", _code(facts.base_name)),
        ("revision of the base", _code(facts.base_revision)),
        ("rank", facts.r),
    ]
    if facts.has_own_template:
        rows.append(("chat template", "the run's own, not the base's: give it to the server"))
    rows += [(LINEAGE[name], _told(name, value)) for name, value in told.items()]
    if facts.rank_error is not None:
        lost = f"mean {facts.rank_error['mean']:.2%}, largest {facts.rank_error['max']:.2%}"
        rows.append(("lost by the smaller rank, of each layer's update", lost))
    table = "".join(f"| {what} | {value} |\n" for what, value in rows if value is not None)
    language, command = _commands(facts)
    return (
        f"---\n{_front_matter(facts, told)}---\n\n# Adapter for {facts.base_name}\n\n"
        f"| what | value |\n|---|---|\n{table}\n"
        f"## With {SERVERS[facts.word].title}\n\nIn the folder that `{facts.name}` lies in:\n\n"
        f"```{language}\n{command}\n```\n"
    )


def _front_matter(facts: CardFacts, told: Mapping[str, Any]) -> str:
    is_gguf = facts.word == "gguf"
    fields: dict[str, Any] = {
        "base_model": facts.base_name,
        "base_model_relation": "adapter",
        "library_name": "gguf" if is_gguf else "peft",
        "tags": ["lora", "raylora", *(["gguf"] if is_gguf else [])],
    }
    if told:
        fields["raylora"] = dict(told)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _code(value: object) -> str | None:
    if value is None:
        return None
    return f"`{json.dumps(value) if isinstance(value, list | dict) else value}`"


def _told(name: str, value: object) -> str | None:
    """What a manifest says; what an adapter was combined of by runs, where they are known, and digests of tensors."""
    if name != "combined_from" or not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return _code(value)  # whatever it is: a manifest is a text that anybody can write
    named = [(each.get("run_id"), each.get("digest")) for each in value]
    return "; ".join(f"run `{run}`, SHA-256 `{digest}`" if run else f"SHA-256 `{digest}`" for run, digest in named)


def _commands(facts: CardFacts) -> tuple[str, str]:
    """Language and text of what loads the adapter."""
    server, name, base = SERVERS[facts.word], facts.name, shlex.quote(facts.base_name)
    place = shlex.quote(f"./{name}")
    revision = f" --revision {shlex.quote(facts.base_revision)}" if facts.base_revision else ""
    largest = largest_rank_setting(server, facts.r or 0)
    match facts.word:
        case "vllm":
            options = f"--enable-lora --max-lora-rank {largest} --lora-modules {shlex.quote(f'adapter=./{name}')}"
            return "bash", f"vllm serve {base}{revision} {options}"
        case "sglang":
            # It takes the names of layers from the adapter, and by --lora-target-modules fewer of them.
            options = f"--enable-lora --max-lora-rank {largest} --lora-paths {shlex.quote(f'adapter=./{name}')}"
            return "bash", f"python -m sglang.launch_server --model-path {base}{revision} {options}"
        case "lorax":
            return "bash", _lorax(name, f"{base}{revision}")
        case "ray-serve":
            return "bash", _ray_serve(facts, largest)
        case "gguf":
            return "bash", f"llama-server --model BASE.gguf --lora {place}  # BASE.gguf: {base} as GGUF"
    return "python", _peft(facts)


def _peft(facts: CardFacts) -> str:
    called = repr(facts.base_name) + (f", revision={facts.base_revision!r}" if facts.base_revision else "")
    if facts.num_labels is not None:
        called += f", num_labels={facts.num_labels}"
    if facts.task_type in ("IMAGE_CLS", "AUDIO_CLS"):  # such bases are published with a head of other classes
        called += ", ignore_mismatched_sizes=True"
    auto = AUTO_CLASSES.get(facts.task_type or "", "AutoModelForCausalLM")
    return (
        f"from peft import PeftModel\nfrom transformers import {auto}\n\n"
        f"model = PeftModel.from_pretrained({auto}.from_pretrained({called}), {f'./{facts.name}'!r})"
    )


def _lorax(name: str, base: str) -> str:
    asked = {"inputs": "Hello", "parameters": {"adapter_id": f"/data/{name}", "adapter_source": "local"}}
    image = "ghcr.io/predibase/lorax:main"
    return (
        f'docker run --gpus all --shm-size 1g -p 8080:80 -v "$PWD":/data {image} --model-id {base}\n'
        f"curl localhost:8080/generate -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(asked))}"
    )


def _ray_serve(facts: CardFacts, largest: int) -> str:
    """The bucket is the user's: Ray Serve loads adapters from object storage alone."""
    name, base = facts.name, facts.base_name
    revision = f', "revision": {json.dumps(facts.base_revision)}' if facts.base_revision else ""
    return (
        f"aws s3 sync {shlex.quote(f'./{name}')} {shlex.quote(f's3://BUCKET/loras/{name}')}\n"
        "python - <<'END'\n"
        "from ray import serve\nfrom ray.serve.llm import LLMConfig, build_openai_app\n\n"
        "config = LLMConfig(\n"
        f'    model_loading_config={{"model_id": "{base}", "model_source": "{base}"}},\n'
        '    lora_config={"dynamic_lora_loading_path": "s3://BUCKET/loras"},\n'
        f'    engine_kwargs={{"enable_lora": True, "max_lora_rank": {largest}{revision}}},\n'
        ")\n"
        f'# Requests name the model "{base}:{name}".\n'
        'serve.run(build_openai_app({"llm_configs": [config]}), blocking=True)\n'
        "END"
    )
