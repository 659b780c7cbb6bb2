"""A hub dataset, from a hub and from its cache: what a machine without a network reads."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import socketserver
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
from datasets.packaged_modules.json.json import Json

from raylora.data.prepare import prepare
from raylora.data.sources.examples import ClassifiedFile
from raylora.data.sources.rows import read_row
from raylora.data.sources.source import open_source
from raylora.data.tokens.row_files import with_files
from raylora.errors import DataError, UnusableStoreError
from raylora.spec.fields.data import DatasetSpec
from tests.servers.hub import Hub
from tests.unit.data.made_rows import run_spec
from tests.unit.data.small_tokenizer import saved, small_tokenizer
from tests.unit.store.disks import fill, mounted


@pytest.fixture
def commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put `owner/name` into the hub's cache, as its download would have, and return the commit."""
    hub = tmp_path / "hub"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", hub)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"row {number}", "n": number}) + "\n" for number in range(5)))
    builder = Json(dataset_name="name", hash="0" * 40, data_files={"train": [str(rows)]}, cache_dir=str(hub))
    builder.download_and_prepare()
    shutil.move(Path(builder.cache_dir).parents[1], hub / "owner___name" / "default")
    return "0" * 40


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_hub_dataset_is_read_and_known_by_its_commit(commit: str, tmp_path: Path, num_proc: int):
    tokenizer = small_tokenizer()
    spec = run_spec(
        datasets=[{"path": "owner/name", "type": "text"}], dataset_num_proc=num_proc, base_model="base", seed=0
    )
    rows = prepare(spec, saved(tokenizer, tmp_path / "base"), tmp_path / "cache").train
    assert [tokenizer.decode(rows.tokens(row)[0]) for row in range(len(rows))] == [
        f"row {number}<|im_end|>" for number in range(5)
    ]
    assert rows.place(4) == "owner/name, split 'train', row 5"


def test_its_digest_says_which_rows_they_are(commit: str, tmp_path: Path):
    def digest(**fields: str) -> str:
        return open_source(DatasetSpec(path="owner/name", **fields), tmp_path).digest

    assert digest() == digest(type="text") != digest(split="test")


def test_a_split_that_is_not_there_is_named(commit: str, tmp_path: Path):
    source = open_source(DatasetSpec(path="owner/name", split="tset"), tmp_path)
    with pytest.raises(DataError, match=r"owner/name, split 'tset': Unknown split .* \['train'\]"):
        list(source.read())


def test_a_hub_dataset_is_downloaded_at_its_revision(tmp_path: Path, hub_env: Hub):
    for name in ("v1", "main"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "train.jsonl").write_text(json.dumps({"text": f"of {name}"}) + "\n")
        hub_env.commit("datasets/owner/rows", tmp_path / name, name)

    def rows(**fields: str) -> list[str]:
        return [row for _, _, row in open_source(DatasetSpec(path="owner/rows", **fields), tmp_path).read()]

    assert rows(revision="v1") == ['{"text": "of v1"}']
    assert rows() == rows(revision="main") == ['{"text": "of main"}']
    with pytest.raises(DataError, match=r"owner/rows: .* Revision 'v2' doesn't exist for dataset 'owner/rows'"):
        rows(revision="v2")
    with pytest.raises(DataError, match=r"owner/other: .* Dataset 'owner/other' doesn't exist on the Hub"):
        open_source(DatasetSpec(path="owner/other"), tmp_path)


def test_images_of_a_hub_dataset_are_the_bytes_of_their_files(tmp_path: Path, hub_env: Hub):
    (tmp_path / "files" / "data").mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    row = {"image": {"bytes": b"of an image", "path": None}, "label": 3}
    rows = datasets.Dataset.from_list([row], features=features)
    rows.to_parquet(tmp_path / "files" / "data" / "train-00000.parquet")
    hub_env.commit("datasets/owner/images", tmp_path / "files", "main")
    source = open_source(DatasetSpec(path="owner/images", type="image"), tmp_path)
    ((file, _, text),) = source.read()
    assert read_row(json.loads(text), "image", {}) == ClassifiedFile("image", b"of an image", 3)
    assert source.folder(file) is None
    assert with_files(source, tmp_path) is source, "its commit says what they are"


@pytest.mark.parametrize("is_full", [False, True], ids=["too little room", "no room"])
def test_a_disk_without_room_for_a_hub_dataset_is_told_as_such(
    tmp_path: Path, hub_env: Hub, monkeypatch: pytest.MonkeyPatch, is_full: bool
):
    (tmp_path / "files" / "data").mkdir(parents=True)
    row = json.dumps({"text": "of a row " * 100}) + "\n"
    (tmp_path / "files" / "data" / "train.jsonl").write_text(row * 1000)
    hub_env.commit("datasets/owner/large", tmp_path / "files", "main")
    with mounted(tmp_path / "disk", 1 << 18) as disk:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", disk)
        if is_full:
            fill(disk)
        with pytest.raises(UnusableStoreError, match=r"^owner/large: no copy of it could be kept .*HF_HOME"):
            list(open_source(DatasetSpec(path="owner/large", type="text"), tmp_path).read())


def tarred(data: bytes) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        about = tarfile.TarInfo("rows.jsonl")
        about.size = len(data)
        archive.addfile(about, io.BytesIO(data))
    return file.getvalue()


def zipped(data: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("rows.jsonl", data)
    return file.getvalue()


PACKED = {"gzip": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zip": zipped, "tar": tarred}


def publish(hub: Hub, folder: Path, files: dict[str, bytes]) -> DatasetSpec:
    """A dataset of the hub with these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    hub.commit("datasets/owner/rows", folder, "main")
    return DatasetSpec(path="owner/rows")


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.txt", "train.jsonl.gz"])
@pytest.mark.parametrize("kind", PACKED)
def test_what_is_packed_is_refused_and_not_unpacked(
    tmp_path: Path, hub_env: Hub, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
):
    """Whatever its name says: `datasets` looks at the first bytes, and unpacks a tar of any size."""
    downloads = tmp_path / "downloads"
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", downloads)
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", downloads / "extracted")
    spec = publish(hub_env, tmp_path / "files", {name: PACKED[kind](b'{"text": "row"}\n')})
    with pytest.raises(DataError, match=rf"owner/rows@\w+/{name}: is packed \({kind}\). Allowed: files as they are"):
        list(open_source(spec, tmp_path).read())
    assert not (downloads / "extracted").exists()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [("train.tar", tarred(b"row"), "webdataset"), ("a.png", b"", "imagefolder"), ("a.h5", b"", "hdf5")],
)
def test_other_kinds_of_files_are_refused(tmp_path: Path, hub_env: Hub, name: str, content: bytes, kind: str):
    spec = publish(hub_env, tmp_path / "files", {name: content})
    with pytest.raises(DataError, match=f"owner/rows: `datasets` reads its files as {kind}. Allowed: JSON lines"):
        open_source(spec, tmp_path)


@pytest.mark.parametrize(
    "place", ["{here}/private.jsonl", "zip://private.jsonl::{here}/private.zip", "file://{here}/private.jsonl"]
)
def test_a_readme_names_no_files_elsewhere(tmp_path: Path, hub_env: Hub, place: str):
    row = b'{"text": "of this machine"}\n'
    (tmp_path / "private.jsonl").write_bytes(row)
    with zipfile.ZipFile(tmp_path / "private.zip", "w") as archive:
        archive.writestr("private.jsonl", row)
    readme = f"---\nconfigs:\n- config_name: default\n  data_files: {place.format(here=tmp_path)}\n---\n"
    spec = publish(hub_env, tmp_path / "files", {"README.md": readme.encode(), "train.jsonl": b'{"text": "row"}\n'})
    with pytest.raises(DataError, match=r"owner/rows: .*Data files don't belong to owner/rows"):
        open_source(spec, tmp_path)


@pytest.fixture
def hub_that_hangs_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A hub that cannot be reached: it ends each connection at once. Collects a number for each."""
    calls: list[int] = []

    class HangsUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            calls.append(len(calls))

    with socketserver.TCPServer(("127.0.0.1", 0), HangsUp) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield calls
        server.shutdown()


def test_a_hub_that_cannot_be_reached_is_asked_once(hub_that_hangs_up: list[int], tmp_path: Path):
    with pytest.raises(DataError, match=r"owner/nowhere: .*the hub cannot be reached: http://127\.0\.0\.1"):
        open_source(DatasetSpec(path="owner/nowhere"), tmp_path)
    assert hub_that_hangs_up == [0]
    assert not datasets.config.HF_HUB_OFFLINE, "the next one is asked for again"


def test_a_hub_that_cannot_be_reached_leaves_what_is_cached(commit: str, hub_that_hangs_up: list[int], tmp_path: Path):
    assert len(list(open_source(DatasetSpec(path="owner/name"), tmp_path).read())) == 5
    assert hub_that_hangs_up == [0]


def test_a_folder_here_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "rows.jsonl").write_text('{"text": "here"}\n')
    assert [row for _, _, row in open_source(DatasetSpec(path="owner/name"), tmp_path).read()] == ['{"text": "here"}']
