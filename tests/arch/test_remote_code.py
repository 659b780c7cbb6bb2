"""No code that comes with a model is run: whoever lets transformers choose a class says so, at every call."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.arch.planted import plant
from tests.arch.source_tree import PACKAGE, module_paths

LOADERS = {"from_pretrained", "from_config"}
"""Of transformers' Auto classes, which take code from a model's folder where they are allowed to."""


def loads(package: Path) -> dict[str, bool]:
    """Places that load with an Auto class, and whether each forbids the model's own code."""
    return {
        f"{module}:{node.lineno}": _forbids(node)
        for module, path in module_paths(package).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _is_auto(node.func)
    }


def trusting(package: Path) -> list[str]:
    return [place for place, forbids in loads(package).items() if not forbids]


def _is_auto(called: ast.expr) -> bool:
    if not isinstance(called, ast.Attribute) or called.attr not in LOADERS:
        return False
    return ast.unparse(called.value).rpartition(".")[2].startswith("Auto")


def _forbids(call: ast.Call) -> bool:
    said = [word.value for word in call.keywords if word.arg == "trust_remote_code"]
    return len(said) == 1 and isinstance(said[0], ast.Constant) and said[0].value is False


def test_no_code_of_a_model_is_run():
    assert loads(PACKAGE), "nothing to look at: the rule has lost its subject"
    assert trusting(PACKAGE) == []


@pytest.mark.parametrize(
    ("call", "num_found"),
    [
        ("AutoConfig.from_pretrained(folder)", 1),
        ("AutoTokenizer.from_pretrained(folder, trust_remote_code=True)", 1),
        ("AutoTokenizer.from_pretrained(folder, trust_remote_code=is_trusted)", 1),
        ("AutoModel.from_pretrained(folder, trust_remote_code=0)", 1),
        ("transformers.AutoModelForCausalLM.from_config(config)", 1),
        ("AutoConfig.from_pretrained(folder, **options)", 1),
        ("AutoConfig.from_pretrained(folder, trust_remote_code=False)", 0),
        ("transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)", 0),
        ("LlamaConfig.from_pretrained(folder)", 0),
        ("AutoConfig.for_model('llama')", 0),
    ],
)
def test_a_call_that_leaves_it_open_is_found(tmp_path: Path, call: str, num_found: int):
    package = plant(tmp_path, {"a.py": f"def load(folder):\n    return {call}\n"})
    assert len(trusting(package)) == num_found
