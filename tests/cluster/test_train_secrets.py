"""Secrets that real servers ask for, a hub's token and the password of an MLflow server, are found nowhere afterwards.

The hub answers nobody without the token. The MLflow server is behind a door that wants HTTP basic authentication, as
its own does with `mlflow[auth]`; what the server keeps is looked through behind that door.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.cluster.command import Command, Ended
from tests.cluster.conftest import GRID
from tests.cluster.made_sweeps import whole, write
from tests.cluster.secrets_found import files_with, holds
from tests.conftest import served
from tests.servers.fault_proxy import fault_proxy
from tests.servers.hub import Hub
from tests.servers.mlflow import MlflowServer
from tests.servers.ray import RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(900)]

TOKEN = "hf_token-of-a-hub-nobody-may-print"
USER, PASSWORD = "tracker", "password-of-a-server-nobody-may-print"
WRONG = "wrong-one-that-nobody-may-print-either"
SECRETS = [TOKEN, PASSWORD, b64encode(f"{USER}:{PASSWORD}".encode()).decode(), WRONG]
SWEEP = GRID | {
    "run": GRID["run"] | {"base_model": "owner/tiny-llama", "save_steps": 2},
    "budget": {"steps": 6},
    "slots": 2,
    "space": {"learning_rate": {"choice": [5e-3, 1e30]}, "lora_r": {"choice": [8]}},
}
"""Two trials, one of which fails: its error goes through Ray to the driver, the record and MLflow."""


@dataclass(frozen=True)
class Place:
    """Servers that want secrets, and a command that has them.

    Args:
        hub: A hub with a base.
        mlflow: MLflow behind the door.
        command: Has the token and the password.
    """

    hub: Hub
    mlflow: MlflowServer
    command: Command

    def without(self, **wrong: str) -> Command:
        """The command with an empty cache, and other secrets."""
        home = self.command.folder / f"home-{'-'.join(wrong)}"
        env = {**self.command.env, "HF_HOME": str(home / "hf"), **wrong}
        return Command(self.command.folder, home, env)


@pytest.fixture(scope="module")
def place(
    workplace: Path, ray_head: RayHead, new_home: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "mlflow").mkdir()
    write(folder, "sweep.yaml", SWEEP)
    (folder / "rows.jsonl").write_bytes((workplace / "rows.jsonl").read_bytes())
    for hub in served(Hub(folder / "hub", TOKEN)):
        assert isinstance(hub, Hub)
        hub.commit("models/owner/tiny-llama", workplace / "base", "main")
        for mlflow in served(MlflowServer(folder / "mlflow")):
            assert isinstance(mlflow, MlflowServer)
            with fault_proxy(mlflow.uri, (USER, PASSWORD)) as door:
                of_mlflow = {"MLFLOW_TRACKING_URI": door.endpoint, "MLFLOW_TRACKING_USERNAME": USER}
                of_hub = {**hub.env, "HF_HOME": str(folder / "hf")}
                env = {**ray_head.env, **of_hub, **of_mlflow, "HF_TOKEN": TOKEN, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
                yield Place(hub, mlflow, Command(folder, new_home(), env))


@pytest.fixture(scope="module")
def swept(place: Place) -> Ended:
    return place.command.run("sweep", "sweep.yaml", "--json")


@pytest.fixture(scope="module")
def refused(place: Place) -> list[Ended]:
    """By the hub, and by MLflow: errors of their clients, which know what they were sent with."""
    words = ("sweep", "sweep.yaml", "--json")
    return [
        place.without(HF_TOKEN=WRONG).run(*words),
        place.without(MLFLOW_TRACKING_PASSWORD=WRONG).run(*words),
    ]


def test_the_servers_were_asked_and_let_nobody_else_in(place: Place, swept: Ended, refused: list[Ended]):
    """What is searched below is of commands that needed the secrets, and not only of those that went well."""
    result: dict[str, Any] = whole(swept)
    assert sorted(trial["status"] for trial in result["trials"]) == ["failed", "succeeded"]
    assert any("safetensors" in asked for asked in place.hub.asked)
    mlflow = MlflowClient(place.mlflow.uri)
    for trial in result["trials"]:
        steps = [point.step for point in mlflow.get_metric_history(trial["mlflow_run_id"], "train_loss")]
        assert steps == list(range(1, trial["steps"] + 1))
    assert [ended.code for ended in refused] == [2, 1], [ended.err for ended in refused]
    assert "owner/tiny-llama" in refused[0].error
    assert "MLflow at http://127.0.0.1" in refused[1].error


@pytest.mark.parametrize("secret", SECRETS, ids=["token", "password", "password as it is sent", "wrong ones"])
def test_none_of_their_secrets_is_found(
    place: Place, swept: Ended, refused: list[Ended], ray_head: RayHead, secret: str
):
    """In what commands print and write, on disk and in MLflow's database, or in Ray's session, its logs and tables."""
    for ended in (swept, *refused):
        assert not holds((ended.out + ended.err).encode(), secret)
    for folder in (place.command.home, place.command.folder, ray_head.session):
        assert files_with(secret, folder) == []
    assert not holds(ray_head.tables(), secret)
