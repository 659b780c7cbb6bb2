"""No file crashes raylora: whatever its bytes, it is read, or refused with an error of raylora's own."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raylora.adapters.stored import CONFIG as CONFIG_FILE
from raylora.adapters.stored import TENSORS, read_adapter
from raylora.data.prepare import prepare
from raylora.data.sources.formats import FORMATS, read_rows
from raylora.errors import CorruptObjectError, ModelError, RayloraError
from raylora.model.adapter.bank import Adapter
from raylora.model.base.folder import INDEX, weight_files
from raylora.model.base.meta import read_config
from raylora.model.export import publish_adapter
from raylora.model.source.digest import tensors_in
from raylora.model.source.gguf_header import general_facts
from raylora.spec.reading.load import load_spec
from raylora.spec.run import RunSpec
from raylora.spec.sweeps.load import load_sweep
from raylora.store.blob import Store, open_store
from raylora.store.checkpoint import Checkpoint, load_latest, save_checkpoint
from raylora.store.manifest import MANIFEST, fetch, publish, read_manifest, read_verified
from raylora.store.runs import new_run, read_run, write_run
from raylora.store.sweeps import list_sweeps, read_sweep, write_sweep
from tests.unit.data.small_tokenizer import saved, small_tokenizer
from tests.unit.hostile.edits import NESTED, edited
from tests.unit.hostile.reading import many, put, readable_or_refused
from tests.unit.spec.specs import LEAST
from tests.unit.sweep.made_sweeps import large_sweep
from tests.unit.train.tiny_run import save_base

pytestmark = pytest.mark.slow

CONFIG = (
    LEAST + "lora_r: 8\ndistributed: {strategy: fsdp, num_workers: [1, 2]}\nsample_prompts: ['a', \"b\"]\n"
).encode()
SWEEP = (
    b"run: {base_model: org/model, datasets: [{path: rows.jsonl}], val_set_size: 0.1, max_steps: 50}\n"
    b"num_trials: 4\nspace:\n  lora_r: {choice: [4, 8]}\n  lora_alpha: {ratio: 2, of: lora_r}\n"
)
ROWS = [{"text": "one\ntwo", "n": 1}, {"text": 'é "quoted", 🙂', "n": 2}]
JSON_LINES = "\n".join(json.dumps(row) for row in ROWS).encode()


def columns(ending: str) -> bytes:
    """A valid file of a column format."""
    table, sink = pa.Table.from_pylist(ROWS), pa.BufferOutputStream()
    if ending == ".parquet":
        pa.parquet.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


VALID = {
    ".jsonl": JSON_LINES,
    ".json": json.dumps(ROWS).encode(),
    ".csv": b'text,n\n"one\ntwo",1\nthree,2\n',
    ".parquet": columns(".parquet"),
    ".arrow": columns(".arrow"),
}
GGUF = struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + b"".join(
    struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, 4) + b"text" for key in (b"general.name", b"general.url")
)


def test_every_format_is_put_to_the_test():
    assert VALID.keys() == FORMATS.keys()


@many
@given(edited(CONFIG))
def test_configurations(tmp_path: Path, data: bytes):
    readable_or_refused(lambda: load_spec(put(tmp_path, "run.yaml", data)))


@many
@given(edited(SWEEP))
def test_sweeps(tmp_path: Path, data: bytes):
    readable_or_refused(lambda: load_sweep(put(tmp_path, "sweep.yaml", data)))


@pytest.mark.parametrize("ending", FORMATS)
def test_rows(tmp_path: Path, ending: str):
    @many
    @given(edited(VALID[ending]))
    def read(data: bytes) -> None:
        file = put(tmp_path, f"rows{ending}", data)
        readable_or_refused(lambda: list(read_rows(file, file.name, ending)))

    read()


@many
@given(edited(GGUF))
def test_headers_of_gguf_files(tmp_path: Path, data: bytes):
    readable_or_refused(lambda: general_facts(put(tmp_path, "model.gguf", data)))


def test_arrays_in_arrays_in_a_gguf_header(tmp_path: Path):
    key = b"general.tags"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<I", 9)
    data = head + struct.pack("<IQ", 9, 1) * 100_000
    with pytest.raises(RayloraError, match="no GGUF file"):
        general_facts(put(tmp_path, "model.gguf", data))


@many
@given(st.data())
def test_bases(tmp_path: Path, data: st.DataObject):
    """Configuration, index and headers of a base in a folder; whatever is wrong is wrong with `base_model`."""
    folder = save_base(tmp_path / "base") if not (tmp_path / "base").exists() else tmp_path / "base"
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole = {path: path.read_bytes() for path in (weights, config)}
    index = json.dumps({"weight_map": {"a": "model.safetensors"}}).encode()
    broken = data.draw(st.sampled_from([weights, config, folder / INDEX]))
    header = whole[weights][:2048]
    content = {weights: edited(header), config: edited(whole[config]), folder / INDEX: edited(index)}[broken]
    try:
        broken.write_bytes(data.draw(content))
        readable_or_refused(lambda: (read_config(folder), [tensors_in(file) for file in weight_files(folder)]))
    finally:
        (folder / INDEX).unlink(missing_ok=True)
        for path, before in whole.items():
            path.write_bytes(before)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", ".."])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path: Path, name: str):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="outside of the folder"):
        weight_files(tmp_path)


@many
@given(st.data())
def test_manifests(tmp_path: Path, data: st.DataObject):
    store = open_store(str(tmp_path / "store"))
    publish(store, "group", {"a": b"bytes"}, {"step": 3})
    store.write(f"group/{MANIFEST}", data.draw(edited(store.read(f"group/{MANIFEST}").replace(b" ", b""))))
    readable_or_refused(lambda: read_manifest(store, "group"))


def write_fitting(store: Store, prefix: str, name: str, content: bytes) -> None:
    """Replace a file of a group, and its digest in the manifest."""
    store.write(f"{prefix}/{name}", content)
    manifest = json.loads(store.read(f"{prefix}/{MANIFEST}"))
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    store.write(f"{prefix}/{MANIFEST}", json.dumps(manifest).encode())


@many
@given(st.data(), st.sampled_from(["state.safetensors", "state.json"]))
def test_checkpoints_whose_digests_were_made_to_fit(tmp_path: Path, data: st.DataObject, name: str):
    """Whoever may write to a store without a signing key can make digests fit; nothing is unpickled or crashes."""
    store = open_store(str(tmp_path / "store"))
    prefix = "checkpoints/step-00000001"
    save_checkpoint(store, Checkpoint(1, {"w": torch.ones(3, 2), "b": torch.zeros(2)}, {"step": 1}), keep=1)
    write_fitting(store, prefix, name, data.draw(edited(store.read(f"{prefix}/{name}"))))
    with suppress(CorruptObjectError):
        assert load_latest(store) is not None


@many
@given(st.data())
def test_records_of_runs(tmp_path: Path, data: st.DataObject):
    store = open_store(str(tmp_path / "store"))
    record = write_run(store, new_run(load_spec(put(tmp_path, "run.yaml", CONFIG)).spec))
    key = f"runs/{record.run_id}/run.json"
    store.write(key, data.draw(edited(store.read(key))))
    readable_or_refused(lambda: read_run(store, record.run_id))


@many
@given(st.data())
def test_records_of_sweeps(tmp_path: Path, data: st.DataObject):
    store = open_store(str(tmp_path / "store"))
    record = write_sweep(store, large_sweep(1))
    key = f"sweeps/{record.sweep_id}/sweep.json"
    store.write(key, data.draw(edited(store.read(key))))
    readable_or_refused(lambda: read_sweep(store, record.sweep_id))
    assert [found.sweep_id for found in list_sweeps(store)] in ([], [record.sweep_id])


@many
@given(st.data())
def test_adapters(tmp_path: Path, data: st.DataObject):
    """A damaged file of an adapter is refused, and not left where it was to be copied; so is a damaged manifest."""
    store, here = open_store(str(tmp_path / "store")), tmp_path / "here"
    tensors = {"base_model.model.q_proj.lora_A.weight": torch.ones(2, 4)}
    publish_adapter(store, Adapter(tensors, {"r": 2, "peft_type": "LORA"}), {"run": "r1"})
    manifest = read_manifest(store, "adapter")
    name = data.draw(st.sampled_from([*manifest.files, MANIFEST]))
    before = store.read(f"adapter/{name}")
    after = data.draw(edited(before))
    store.write(f"adapter/{name}", after)
    shutil.rmtree(here, ignore_errors=True)
    if name == MANIFEST:
        readable_or_refused(lambda: fetch(store, "adapter", here))
    elif after != before:
        with pytest.raises(CorruptObjectError, match=name):
            fetch(store, "adapter", here)
        with pytest.raises(CorruptObjectError, match=name):
            read_verified(store, "adapter", name, manifest)
        assert not (here / name).exists()


@many
@given(st.data(), st.sampled_from([CONFIG_FILE, TENSORS]), st.booleans())
def test_adapters_whose_digests_were_made_to_fit_or_that_have_none(
    tmp_path: Path, data: st.DataObject, name: str, is_ours: bool
):
    store = open_store(str(tmp_path / "store"))
    tensors = {"base_model.model.q_proj.lora_A.weight": torch.ones(2, 4)}
    uri = publish_adapter(store, Adapter(tensors, {"r": 2, "peft_type": "LORA"}), {"run": "r1"})
    write_fitting(store, "adapter", name, data.draw(edited(store.read(f"adapter/{name}"))))
    if not is_ours:
        store.delete(f"adapter/{MANIFEST}")
    readable_or_refused(lambda: read_adapter(uri))


@pytest.mark.parametrize("name", ["../a", "/", "a/../../b", "", "\0", "\ud800", "a\\b"])
def test_a_manifest_names_no_file_outside_of_its_group(tmp_path: Path, name: str):
    store = open_store(str(tmp_path / "store"))
    publish(store, "group", {"a": b"bytes"}, {})
    document = json.loads(store.read(f"group/{MANIFEST}"))
    document["files"][name] = document["files"]["a"]
    store.write(f"group/{MANIFEST}", json.dumps(document).encode())
    with pytest.raises(CorruptObjectError, match="not a manifest"):
        fetch(store, "group", tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("data", NESTED, ids=["lists", "objects", "both"])
@pytest.mark.parametrize("what", ["run.yaml", "sweep.yaml", "rows.json", "rows.jsonl", MANIFEST])
def test_what_is_nested_too_deep_is_refused(tmp_path: Path, what: str, data: bytes):
    file = put(tmp_path, what, data)
    store = open_store(str(tmp_path))
    with pytest.raises(RayloraError):
        match what:
            case "run.yaml":
                load_spec(file)
            case "sweep.yaml":
                load_sweep(file)
            case "rows.json" | "rows.jsonl":
                dataset = {"path": str(file), "type": "text"}
                spec = RunSpec.model_validate({"base_model": "org/model", "datasets": [dataset]})
                prepare(spec, saved(small_tokenizer(), tmp_path / "base"), tmp_path / "cache")
            case _:
                store.write(f"group/{MANIFEST}", data)
                read_manifest(store, "group")
