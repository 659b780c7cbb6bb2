"""Rows of recordings: paths and bytes, and what is refused and where."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoFeatureExtractor

from raylora.data.prepare import Prepared
from raylora.data.tokens.audio import AudioProcessor
from raylora.errors import DataError, ModelError
from tests.unit.data.prepared_files import prepared_files, values_of
from tests.unit.train.tiny_audio import RATE, audio_spec, save_recordings, vowel, write_wav

ROW = {"audio": "audio/3.wav", "label": "a"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return save_recordings(tmp_path, num_rows=6)


def prepared(home: Path, rows: list[dict[str, Any]] | Path | None = None, **fields: Any) -> Prepared:
    return prepared_files(audio_spec, home, "audio", home / "vowels.jsonl" if rows is None else rows, **fields)


def test_a_recording_is_the_same_by_path_and_as_a_column_of_datasets(home: Path):
    """In `datasets` a column of recordings is bytes and a path, too."""
    by_path = values_of(prepared(home, [ROW]))
    content = (home / "audio" / "3.wav").read_bytes()
    Dataset.from_list([{"audio": {"bytes": content, "path": None}, "label": 0}]).to_parquet(home / "rows.parquet")
    assert np.array_equal(values_of(prepared(home, home / "rows.parquet")), by_path)
    extract = AutoFeatureExtractor.from_pretrained(home / "ast")
    samples = vowel("a", 3).astype(np.float32) / 2**15
    assert np.array_equal(by_path[0], extract(samples, sampling_rate=RATE, return_tensors="np")["input_values"][0])


def test_tokens_are_counted_as_patches_whatever_sequence_len_says(home: Path):
    found = prepared(home, sequence_len=3, excess_length_strategy="raise")
    assert found.train.lengths.tolist() == [2 + 7 * 4] * 6
    assert values_of(found).shape == (6, 32, 32)


def test_a_file_that_has_changed_is_read_again(home: Path):
    before = prepared(home)
    write_wav(home / "audio" / "3.wav", vowel("u", 9))
    after = prepared(home)
    assert before.report.digest != after.report.digest
    assert not np.array_equal(values_of(before)[3], values_of(after)[3])


def test_a_long_recording_is_read_as_far_as_the_base_hears(home: Path):
    """Its spectrogram is that of the whole, by the base's own extractor; its other samples are left alone."""
    samples = np.concatenate([vowel("a", seed) for seed in range(40)])
    write_wav(home / "hour.wav", samples)
    whole = samples.astype(np.float32) / 2**15
    extract = AutoFeatureExtractor.from_pretrained(home / "ast")
    processor = AudioProcessor(home / "ast")
    given: list[int] = []

    def made(samples: np.ndarray, **asked: Any) -> Any:
        given.append(len(samples))
        return extract(samples, **asked)

    made.sampling_rate = RATE  # type: ignore[attr-defined]  # in the place of an object that has one
    processor._process = made
    found = processor.values((home / "hour.wav").read_bytes())
    assert np.array_equal(found, extract(whole, sampling_rate=RATE, return_tensors="np")["input_values"][0])
    assert 160 * 31 + 400 <= given[0] < len(whole) / 10


def test_values_of_another_release_are_made_anew(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With torchaudio, transformers makes other spectrograms than without it; each is kept by itself."""
    kept = home / "cache" / "tokens"
    prepared(home)
    (before,) = (each for each in kept.iterdir() if each.is_dir())
    digest = AudioProcessor(home / "ast").digest
    for number, release in enumerate(("2.9.0", "2.9.1"), start=1):
        folder = tmp_path / release / f"torchaudio-{release}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torchaudio\nVersion: {release}\n")
        monkeypatch.syspath_prepend(folder.parent)
        assert AudioProcessor(home / "ast").digest != digest
        digest = AudioProcessor(home / "ast").digest
        prepared(home)
        assert len({each for each in kept.iterdir() if each.is_dir()} - {before}) == number


BAD = {
    "no file": ("audio/none.wav", r"audio: audio/none.wav cannot be read \(No such file or directory\)"),
    "no recording": ("vowels.jsonl", "audio: no recording that can be read"),
    "a header alone": ("header.wav", "audio: no recording that can be read"),
    "cut off": ("cut.wav", "audio: holds 200 samples, and says"),
    "a part longer than the whole": ("long.wav", "audio: no recording that can be read"),
    "empty": ("empty.wav", "audio: holds 0 samples, and says 0"),
    "two channels": ("stereo.wav", "audio: has 2 channels of 16 bits. Allowed: one of 16"),
    "8 bits": ("coarse.wav", "audio: has 1 channels of 8 bits. Allowed: one of 16"),
    "another rate": ("slow.wav", "audio: has 8,000 samples a second; the base takes 16,000. Resample"),
    "too short": ("short.wav", "audio: holds 399 samples, less than a frame of 400"),
    "too large": ("large.wav", "audio: large.wav has 268,435,457 bytes; allowed: 268,435,456"),
    "another folder": ("/etc/passwd", "audio: /etc/passwd leads out of"),
    "a number": (7, "column 'audio' holds the path of a file"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_recording_is_told_with_its_row(home: Path, case: str):
    samples, whole = vowel("a", 3), (home / "audio" / "3.wav").read_bytes()
    (home / "header.wav").write_bytes(whole[:20])
    (home / "cut.wav").write_bytes(whole[: 44 + 400])
    (home / "long.wav").write_bytes(whole[:4] + (20).to_bytes(4, "little") + whole[8:])
    write_wav(home / "empty.wav", samples[:0])
    write_wav(home / "stereo.wav", samples, num_channels=2)
    write_wav(home / "coarse.wav", samples.astype(np.uint8))
    write_wav(home / "slow.wav", samples, rate=8_000)
    write_wav(home / "short.wav", samples[:399])
    (home / "large.wav").touch()
    os.truncate(home / "large.wav", 2**28 + 1)  # which takes no room
    value, said = BAD[case]
    with pytest.raises(DataError, match=rf"asked.jsonl, line 2: {said}"):
        prepared(home, [ROW, {"audio": value, "label": "a"}])


def test_a_wrong_class_is_told_with_its_row(home: Path):
    with pytest.raises(DataError, match=r"asked.jsonl, line 1: label: got 'o'; allowed by labels: a, i, u"):
        prepared(home, [ROW | {"label": "o"}])


def test_another_spectrogram_than_the_base_takes_is_told(home: Path):
    base = shutil.copytree(home / "ast", home / "changed")
    told = json.loads((base / "preprocessor_config.json").read_text())
    (base / "preprocessor_config.json").write_text(json.dumps(told | {"max_length": 24}))
    with pytest.raises(DataError, match=r"line 1: audio: becomes 24 x 32 by the base's preprocessor_config.json"):
        prepared(home, base_model=str(base))
    (base / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="has no processor of recordings that can be loaded"):
        prepared(home, base_model=str(base))
