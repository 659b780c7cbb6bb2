from __future__ import annotations

from pathlib import Path

import pytest

from raylora.errors import InputError
from raylora.spec.fields.place import TrackingSpec
from raylora.spec.text.secrets import without_secret
from raylora.tracking.address import (
    default_artifact_uri,
    how_to_open,
    make_database_folder,
    redacted,
    tracking_uri,
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAYLORA_HOME", str(tmp_path / "home"))


def test_the_configuration_beats_the_environment_beats_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert tracking_uri(TrackingSpec()) == f"sqlite:///{tmp_path}/home/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert tracking_uri(TrackingSpec()) == "http://there:5000"
    assert tracking_uri(TrackingSpec(uri="https://here")) == "https://here"


@pytest.mark.parametrize("uri", ["./mlruns", "/data/mlruns", "file:///data/mlruns", "ftp://user:pw@host/x"])
def test_what_mlflow_refuses_is_refused_first(monkeypatch: pytest.MonkeyPatch, uri: str):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=r"no MLflow server and no database; allowed: http://.*sqlite://") as caught:
        tracking_uri(TrackingSpec())
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://user:pw@host:5000/path", "http://host:5000/path"),
        ("postgresql+psycopg://user:p%40w@db/mlflow?sslpassword=pw", "postgresql+psycopg://db/mlflow"),
        ("postgresql://user:p/w@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("postgresql://user:p?w#@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql://user:p@w@db/mlflow", "postgresql://db/mlflow"),
        ("https://token@host/path", "https://host/path"),
        ("http://host:5000/path", "http://host:5000/path"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("s3://bucket/mlflow", "s3://bucket/mlflow"),
        ("/folder", "/folder"),
    ],
)
def test_a_uri_is_shown_without_its_secrets(uri: str, shown: str):
    assert without_secret(uri) == shown


def test_an_error_is_shown_without_the_password_in_any_form():
    uri = "postgresql://user:p%40ss@db/mlflow"
    text = f"cannot connect to {uri}: password 'p@ss' (p%40ss) refused"
    assert redacted(text, uri) == "cannot connect to postgresql://db/mlflow: password '***' (***) refused"
    assert redacted("nothing to hide", "http://host") == "nothing to hide"
    slashed = "postgresql://user:p/ss@db/mlflow?sslpassword=k%20y"
    assert redacted(f"{slashed}: 'p/ss', 'k y'", slashed) == "postgresql://db/mlflow: '***', '***'"


def test_artifacts_of_a_database_are_in_the_home_and_those_of_a_server_where_it_says(tmp_path: Path):
    assert default_artifact_uri("sqlite:///x.db") == f"file://{tmp_path}/home/mlartifacts"
    assert default_artifact_uri("http://host") is None


def test_the_way_to_a_run_is_a_page_or_a_command():
    assert how_to_open("http://u:p@host:5000/", "7", "abc") == "http://host:5000/#/experiments/7/runs/abc"
    assert how_to_open("http://host:5000", None, "abc") == "http://host:5000"


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `mlflow` beside this Python, in an environment below the working folder."""
    command = tmp_path / ".venv" / "bin" / "mlflow"
    command.parent.mkdir(parents=True)
    command.touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(command.with_name("python")))
    monkeypatch.chdir(tmp_path)
    return command


def test_the_command_works_from_any_folder(tmp_path: Path, beside: Path, monkeypatch: pytest.MonkeyPatch):
    other = tmp_path / "other" / "mlflow"
    other.parent.mkdir()
    other.touch(mode=0o755)
    for path, command in ((tmp_path, beside), (other.parent, beside), (beside.parent, "mlflow")):
        monkeypatch.setenv("PATH", str(path))
        assert how_to_open("sqlite:////m.db", "7", "abc") == f"{command} ui --backend-store-uri sqlite:////m.db"


def test_the_command_of_a_python_without_one_is_whichever_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert how_to_open("sqlite:////m.db", "7", "abc").startswith("mlflow ui ")


def test_the_folder_of_an_sqlite_file_is_made(tmp_path: Path):
    make_database_folder(f"sqlite:///{tmp_path}/new/er/mlflow.db")
    make_database_folder("postgresql://host/db")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["er"]
