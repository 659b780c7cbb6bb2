"""Rows of images: paths and bytes, what is refused and where, and digests that cover the files."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import load_image

from raylora.data.prepare import Prepared
from raylora.data.sources.examples import ClassifiedFile
from raylora.data.sources.formats import read_rows, to_json
from raylora.data.sources.source import open_source
from raylora.data.tokens import row_files
from raylora.data.tokens.row_files import with_content, with_files
from raylora.errors import DataError, ModelError
from raylora.spec.fields.data import DatasetSpec
from tests.unit.data.prepared_files import prepared_files, values_of
from tests.unit.train.tiny_images import digit, image_spec, save_images, save_vit

ROW = {"image": "images/3.png", "label": 3}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return save_images(tmp_path, num_rows=6)


def prepared(home: Path, rows: list[dict[str, Any]] | Path | None = None, **fields: Any) -> Prepared:
    return prepared_files(image_spec, home, "image", home / "digits.jsonl" if rows is None else rows, **fields)


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_an_image_is_the_same_by_path_by_bytes_and_as_a_column_of_datasets(home: Path):
    content = png(digit(3))
    by_path = values_of(prepared(home, [ROW]))
    encoded = {"image": {"bytes": base64.b64encode(content).decode(), "path": None}, "label": "3"}
    absolute = {"image": {"path": str(home / "images" / "3.png")}, "label": 3}
    table = Dataset.from_list(
        [{"image": {"bytes": content, "path": "lost.png"}, "label": 3}],
        features=Features({"image": ImageFeature(), "label": Value("int64")}),
    )
    table.to_parquet(home / "rows.parquet")
    for rows in ([encoded], [absolute], home / "rows.parquet"):
        assert np.array_equal(values_of(prepared(home, rows)), by_path)
    assert by_path.shape == (1, 3, 8, 8)
    grey = np.asarray(digit(3), dtype=np.float64)
    assert np.allclose(by_path[0], (grey / 255 - 0.5) / 0.5, atol=1e-6)


@pytest.mark.parametrize("path", ["link.png", "linked/3.png", "{outside}/3.png", "../{outside.name}/3.png"])
def test_a_path_does_not_lead_out_of_the_folder_of_its_rows(home: Path, path: str):
    """Nor into one whose name begins as that folder's."""
    outside = home.with_name(f"{home.name}2")
    outside.mkdir(exist_ok=True)
    digit(3).save(outside / "3.png")
    (home / "link.png").symlink_to(outside / "3.png")
    (home / "linked").symlink_to(outside)
    assert (home / path.format(outside=outside)).is_file()
    with pytest.raises(DataError, match=r"asked.jsonl, line 1: image: .*3?.png leads out of"):
        prepared(home, [{"image": path.format(outside=outside), "label": 3}])


def test_a_path_may_take_a_way_that_ends_in_the_folder(home: Path, tmp_path_factory: pytest.TempPathFactory):
    """Also where the folder itself is reached by a link."""
    (home / "inside.png").symlink_to(home / "images" / "3.png")
    by_path = values_of(prepared(home, [ROW]))
    (elsewhere := tmp_path_factory.mktemp("elsewhere") / "home").symlink_to(home)
    for path in ("inside.png", "images/../images/3.png", str(home / "inside.png")):
        assert np.array_equal(values_of(prepared(home, [{"image": path, "label": 3}])), by_path)
        source = {"path": str(elsewhere / "asked.jsonl"), "type": "image"}
        assert np.array_equal(values_of(prepared(home, datasets=[source])), by_path)


def test_a_column_may_have_another_name(home: Path):
    source = {"path": str(home / "named.jsonl"), "type": "image", "columns": {"image": "picture", "label": "digit"}}
    (home / "named.jsonl").write_text(json.dumps({"picture": "images/3.png", "digit": 3}))
    assert np.array_equal(values_of(prepared(home, datasets=[source])), values_of(prepared(home, [ROW])))


def test_tokens_are_counted_as_patches_whatever_sequence_len_says(home: Path):
    found = prepared(home, sequence_len=3, excess_length_strategy="raise")
    assert found.train.lengths.tolist() == [17] * 6
    assert found.report.train[0].num_label_tokens == 6
    assert [labels.tolist() for _, labels in found.train.labelled(3)] == [[3] + [-100] * 16]


def test_equal_images_are_kept_on_one_side_of_a_split(home: Path):
    found = prepared(home, [ROW, ROW, {"image": "images/5.png", "label": 5}])
    contents = found.train.column("content")
    assert contents[0] == contents[1] != contents[2]


def test_a_file_that_has_changed_is_read_again(home: Path):
    before = prepared(home)
    digit(9).save(home / "images" / "3.png")
    after = prepared(home)
    assert before.report.digest != after.report.digest
    assert not np.array_equal(values_of(before)[3], values_of(after)[3])
    assert np.array_equal(values_of(before)[2], values_of(after)[2])


def test_files_are_digested_once_until_one_has_changed(home: Path, monkeypatch: pytest.MonkeyPatch):
    """As it was at first, also where one is put back with its size and times: the system says when that was."""
    source, read = open_source(DatasetSpec(path=str(home / "digits.jsonl"), type="image"), home), list[str]()

    def reading(row: ClassifiedFile, folder: Path | None) -> ClassifiedFile:
        read.append(str(row.content))
        return with_content(row, folder)

    monkeypatch.setattr(row_files, "with_content", reading)

    def digest() -> str:
        read.clear()
        return with_files(source, home / "digests").digest

    first = digest()
    assert len(read) == 6
    assert digest() == first and not read
    file, about = home / "images" / "3.png", (home / "images" / "3.png").stat()
    content = file.read_bytes()
    file.write_bytes(content[::-1])
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert digest() != first and len(read) == 6
    file.write_bytes(content)
    assert digest() == first
    file.unlink()
    assert digest() != first
    assert all(with_files(source, home / name).digest == digest() for name in ("digests", "others"))


def test_rows_that_hold_bytes_are_read_for_a_digest_once(home: Path, monkeypatch: pytest.MonkeyPatch):
    file, spec = home / "rows.jsonl", DatasetSpec(path=str(home / "rows.jsonl"), type="image")
    file.write_text(to_json({"image": {"bytes": png(digit(3))}, "label": 3}))
    first = with_files(open_source(spec, home), home / "digests").digest
    read = with_files(open_source(spec, home), home / "elsewhere").digest
    monkeypatch.setattr(row_files, "read_row", None)
    assert with_files(open_source(spec, home), home / "digests").digest == first == read


def test_two_columns_of_files_have_two_digests(home: Path):
    def in_base64(number: int) -> dict[str, str]:
        return {"bytes": base64.b64encode(png(digit(number))).decode()}

    (home / "both.jsonl").write_text(json.dumps({"a": in_base64(3), "b": in_base64(5), "label": 3}))
    specs = [DatasetSpec(path=str(home / "both.jsonl"), type="image", columns={"image": name}) for name in "ab"]
    assert len({with_files(open_source(spec, home), home / "digests").digest for spec in specs}) == 2


def test_an_image_lies_as_its_camera_says_and_in_whatever_colours(home: Path):
    """Turned by its EXIF; a palette, alpha and CMYK become what transformers makes of them."""
    image, exif = digit(3).convert("RGB"), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(home / "turned.jpg", exif=exif)
    for name, mode in (("palette.png", "P"), ("grey-alpha.png", "LA"), ("alpha.png", "RGBA"), ("ink.jpg", "CMYK")):
        image.convert(mode).save(home / name)
    names = ["turned.jpg", "palette.png", "grey-alpha.png", "alpha.png", "ink.jpg"]
    process = AutoImageProcessor.from_pretrained(home / "vit")
    theirs = process([load_image(str(home / name)) for name in names], return_tensors="np")["pixel_values"]
    assert np.array_equal(values_of(prepared(home, [{"image": name, "label": 3} for name in names])), theirs)
    assert not np.allclose(theirs[0], process(image, return_tensors="np")["pixel_values"][0], atol=0.3)


BAD: dict[str, tuple[Any, str]] = {
    "no file": ("images/none.png", r"image: images/none.png cannot be read \(No such file or directory\)"),
    "a folder": ("images", r"image: images is no plain file"),
    "a way out": ("images/../../3.png", "image: images/../../3.png leads out of"),
    "another folder": ("/etc/passwd", "image: /etc/passwd leads out of"),
    "a pipe": ("pipe.png", "image: pipe.png is no plain file"),
    "too large": ("large.png", "image: has 9,000 x 9,000 pixels; allowed: 67,108,864"),
    "no image": ("digits.jsonl", "image: no image that can be read"),
    "cut off": ("cut.png", "image: no image that can be read"),
    "another kind": ("of.gif", r"image: no image that can be read .*Allowed: PNG, JPEG, WEBP, BMP"),
    "16 bits": ("deep.png", "image: a file of mode I;16 with 1 channels; the base takes 3"),
    "a number": (7, "column 'image' holds the path of a file"),
    "no path": ({"bytes": None, "path": None}, "column 'image' holds the path of a file"),
    "no base64": ({"bytes": "%%%"}, "column 'image' holds the path of a file"),
    "no bytes": ({"bytes": ""}, "image: no image that can be read"),
    "a null": ("images/\0.png", r"image: images/\x00.png cannot be read \(embedded null byte\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_image_is_told_with_its_row(home: Path, case: str):
    (home / "cut.png").write_bytes(png(digit(3))[:60])
    digit(3).save(home / "of.gif")
    if not (home / "pipe.png").exists():
        os.mkfifo(home / "pipe.png")
    Image.new("1", (9000, 9000)).save(home / "large.png")
    Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(home / "deep.png")
    value, said = BAD[case]
    with pytest.raises(DataError, match=rf"asked.jsonl, line 2: {said}"):
        prepared(home, [ROW, {"image": value, "label": 1}])


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (10, "label: got 10; allowed by labels: 0, 1,"),
        ("ten", "label: got 'ten'"),
        (None, "label: a class by its name"),
    ],
)
def test_a_wrong_class_is_told_with_its_row(home: Path, label: Any, said: str):
    with pytest.raises(DataError, match=rf"asked.jsonl, line 1: {said}"):
        prepared(home, [ROW | {"label": label}])


def test_a_missing_column_is_told_with_its_row(home: Path):
    with pytest.raises(DataError, match=r"line 1: no column 'image' \(type image reads image, label\)"):
        prepared(home, [{"picture": "images/3.png", "label": 3}])


def test_a_base_in_grey_takes_grey_alone(home: Path):
    base = save_vit(home / "grey", num_channels=1)
    digit(3).convert("RGB").save(home / "colour.png")
    assert values_of(prepared(home, [ROW], base_model=str(base))).shape == (1, 1, 8, 8)
    with pytest.raises(DataError, match="line 1: image: a file of mode RGB with 3 channels; the base takes 1"):
        prepared(home, [{"image": "colour.png", "label": 3}], base_model=str(base))


def test_rows_that_are_not_of_this_machine_hold_bytes():
    assert with_content(ClassifiedFile("image", b"bytes", 1), None).content == b"bytes"
    with pytest.raises(DataError, match="rows of a bucket or of the hub hold the bytes of their files"):
        with_content(ClassifiedFile("image", "images/3.png", 1), None)


def change(home: Path, file: str, **fields: Any) -> Path:
    """A copy of the base with other fields in one of its files."""
    base = shutil.copytree(home / "vit", home / "changed")
    told = json.loads((base / file).read_text())
    (base / file).write_text(json.dumps(told | fields))
    return base


def test_an_image_of_another_size_than_the_base_takes_is_told(home: Path):
    base = change(home, "preprocessor_config.json", size={"height": 4, "width": 4})
    with pytest.raises(DataError, match=r"image: becomes 3 x 4 x 4 by the base's preprocessor_config.json"):
        prepared(home, base_model=str(base))


def test_a_processor_of_other_channels_is_told(home: Path):
    base = change(home, "preprocessor_config.json", image_mean=[0.5, 0.5])
    with pytest.raises(DataError, match="line 1: image: the base's processor refuses it"):
        prepared(home, base_model=str(base))


@pytest.mark.parametrize(
    ("file", "fields", "said"),
    [
        (
            "preprocessor_config.json",
            {"image_processor_type": "NoneSuch"},
            "has no processor of images that can be",
        ),
        ("config.json", {"num_channels": 4}, "names no images that can be made. Allowed: .* of 1 or 3 channels"),
    ],
)
def test_a_base_without_a_processor_for_its_images_is_refused(home: Path, file: str, fields: Any, said: str):
    with pytest.raises(ModelError, match=said):
        prepared(home, base_model=str(change(home, file, **fields)))


@pytest.mark.parametrize("text", ["[]", "no JSON", "{}", '{"image_processor_type": 3}'])
def test_a_processor_that_is_none_is_refused(home: Path, text: str):
    base = shutil.copytree(home / "vit", home / "changed")
    (base / "preprocessor_config.json").write_text(text)
    with pytest.raises((ModelError, DataError), match=r"^base_model: .* has no processor|becomes 3 x 224 x 224"):
        prepared(home, base_model=str(base))


def test_another_processor_makes_other_pixels(home: Path):
    before = prepared(home)
    found = prepared(home, base_model=str(change(home, "preprocessor_config.json", image_mean=[0.0, 0.0, 0.0])))
    assert np.allclose(values_of(found) - 1, values_of(before), atol=1e-6)


def test_bytes_of_other_columns_stay_text(tmp_path: Path):
    pq.write_table(pa.table({"text": ["a"], "raw": [b"\x89PNG"]}), tmp_path / "rows.parquet")
    ((_, row),) = read_rows(tmp_path / "rows.parquet", "rows.parquet", ".parquet")
    assert base64.b64decode(json.loads(row)["raw"]) == b"\x89PNG"
