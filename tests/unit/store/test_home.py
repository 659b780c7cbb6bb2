from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raylora.store import home


def test_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "h"))
    assert home.home() == tmp_path / "h"
    assert home.cache_dir() == tmp_path / "h" / "cache"
    assert home.default_store_uri() == f"{tmp_path}/h/store"
    assert home.default_mlflow_uri() == f"sqlite:///{tmp_path}/h/mlflow.db"
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize(("command", "verb"), [(home.resume_command, "resume"), (home.chat_command, "chat")])
def test_a_run_elsewhere_is_found_there(command: Callable[[str, str | None], str], verb: str):
    assert command("r", None) == command("r", home.default_store_uri()) == f"raylora {verb} r"
    assert command("r", "s3://b/raylora") == f"raylora {verb} r --store s3://b/raylora"


def test_home_is_below_the_users_home_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("RAYLORA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.home() == tmp_path / ".raylora"
    monkeypatch.setenv("RAYLORA_HOME", "~/x")
    assert home.home() == tmp_path / "x"
