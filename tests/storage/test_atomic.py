import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from fedrouter.storage import atomic
from fedrouter.storage.atomic import replace_folder, write_bytes, write_json, write_tensors


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def disk_full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_write_bytes_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("failing", ["fsync", "write"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    if failing == "fsync":
        monkeypatch.setattr(atomic.os, "fsync", disk_full)
    else:
        monkeypatch.setattr(Path, "replace", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    write_bytes(tmp_path / "atomic", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_json_is_readable_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"über": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"über": [1, 2.5, None]}
    assert "über" in path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"über": [1, 2.5, None]}


def test_write_tensors_keeps_values_dtypes_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "labels": np.array([3, 1], np.int64),
        "empty": np.zeros((0, 4), np.float16),
        "scalar": np.array(2.5, np.float32),
    }
    write_tensors(path, arrays, {"key": "value"})
    loaded = load_file(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"key": "value"}


def test_write_tensors_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    first = {"a": np.ones(3, np.float32), "b": np.zeros(2, np.float32)}
    second = dict(reversed(first.items()))
    write_tensors(tmp_path / "1", first)
    write_tensors(tmp_path / "2", second)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_replace_folder_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with replace_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "old").write_text("1")
        assert not path.exists()
    assert (path / "inner" / "old").read_text() == "1"
    with replace_folder(path) as folder:
        (folder / "new").write_text("2")
        assert (path / "inner" / "old").exists()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["checkpoint"]


def test_a_block_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(KeyboardInterrupt), replace_folder(path) as folder:
        (folder / "half").write_text("2")
        raise KeyboardInterrupt
    assert names(path) == ["old"]
    assert names(tmp_path) == ["checkpoint"]


def test_a_swap_that_fails_halfway_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "old").write_text("1")
    rename = Path.rename

    def fail_for_new(self: Path, target: Path) -> Path:
        return disk_full() if self.suffix == ".tmp" else rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="No space"), replace_folder(path) as folder:
        (folder / "new").write_text("2")
    assert names(path) == ["old"]
    assert names(tmp_path) == ["checkpoint"]


def test_leftovers_of_a_killed_process_do_not_get_in(tmp_path: Path) -> None:
    leftover = tmp_path / f".checkpoint.{os.getpid()}.tmp"
    leftover.mkdir()
    (leftover / "stale").write_text("")
    with replace_folder(tmp_path / "checkpoint") as folder:
        (folder / "fresh").write_text("")
    assert names(tmp_path / "checkpoint") == ["fresh"]
