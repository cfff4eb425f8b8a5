"""Files as `octavo.tflite` handles them: opened, mapped, written; and the bytes of constants, made when asked for."""

from __future__ import annotations

import importlib
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from graphs import Builder
from octavo import tflite
from octavo.errors import GraphError, ModelFileError
from octavo.graph import DType, Tensor
from octavo.graph import constants as held
from octavo.graph.constants import Deferred, MappedFile, note_reading
from octavo.tflite import files, schema
from octavo.tflite.check import LayoutError, check_layout
from octavo.tflite.files import left_behind, open_source, temporary_name, write_whole


def refusal(make: Any) -> str:
    with pytest.raises(ModelFileError) as caught:
        make()
    return str(caught.value)


class TestOpening:
    def test_bytes_arent_copied_and_cant_be_written(self) -> None:
        data = bytearray(b"\x01\x02\x03\x04")
        view, label = open_source(memoryview(data).cast("H"), "mine")
        data[0] = 9
        assert (bytes(view), view.readonly, label) == (b"\x09\x02\x03\x04", True, "mine")
        assert open_source(b"x")[1] == "model"

    def test_a_view_with_gaps_is_refused(self) -> None:
        gaps = memoryview(b"abcdef")[::2]
        assert refusal(lambda: open_source(gaps)) == "model: the memoryview isn't contiguous; pass bytes(view)"
        assert refusal(lambda: open_source(gaps, "net")).startswith("net: the memoryview isn't")

    def test_what_is_neither_a_path_nor_bytes(self) -> None:
        given: Any = 7
        assert refusal(lambda: open_source(given)) == "a model is a path or bytes, not int"

    def test_what_isnt_a_file(self, tmp_path: Path) -> None:
        missing = tmp_path / "none.tflite"
        assert refusal(lambda: open_source(missing)) == f"{missing}: no such file"
        assert refusal(lambda: open_source(tmp_path)) == f"{tmp_path}: this is a folder; name a .tflite file"
        (tmp_path / "saved_model.pb").touch()
        saved = f"{tmp_path}: this is a TensorFlow SavedModel folder; convert it first; name a .tflite file"
        assert refusal(lambda: open_source(tmp_path)) == saved
        assert refusal(lambda: open_source("a\0b", "net")) == "net: can't be read: embedded null byte"

    def test_a_file_that_may_not_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "net.tflite"
        path.touch()

        def refuse(self: Path, mode: str) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        assert refusal(lambda: open_source(path)) == f"{path}: can't be read: Permission denied"

    def test_an_empty_file_is_no_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        assert bytes(open_source(tmp_path / "empty")[0]) == b""
        assert "empty" in refusal(lambda: tflite.read(tmp_path / "empty"))


class TestWriting:
    def test_all_or_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "net.tflite"
        assert write_whole(path, [b"one", memoryview(b"two")], overwrite=False) == 6
        assert path.read_bytes() == b"onetwo"
        exists = f"{path}: exists already; choose another name or allow overwriting"
        assert refusal(lambda: write_whole(path, [b"x"], overwrite=False)) == exists

        def pieces() -> Iterator[bytes]:
            yield b"half"
            raise OSError(28, "No space left on device")

        full = f"{path}: can't be written: No space left on device"
        assert refusal(lambda: write_whole(path, pieces(), overwrite=True)) == full
        assert path.read_bytes() == b"onetwo" and list(tmp_path.iterdir()) == [path]
        assert write_whole(path, [], overwrite=True) == 0 and path.read_bytes() == b""

    def test_places_that_cant_be_written(self, tmp_path: Path) -> None:
        folder = f"{tmp_path}: is a folder; name a file in it"
        assert refusal(lambda: write_whole(tmp_path, [b"x"], overwrite=True)) == folder
        inside = tmp_path / "none" / "net"
        missing = f"{inside}: its folder {inside.parent} doesn't exist; make it first"
        assert refusal(lambda: write_whole(inside, [b"x"], overwrite=True)) == missing

    def test_what_is_left_behind_of_whom(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        target = tmp_path / "net.tflite"
        name = temporary_name(target, "tmp").name
        start = name.split(f"{os.getpid()}-")[0]
        for process in ("1000", "2000", "3000", "x", str(2**70)):
            (tmp_path / f"{start}{process}-aa.tmp").touch()
        (tmp_path / f"{start}1000-bb.other").touch()

        def kill(process: int, signal: int) -> None:
            assert signal == 0, "asks only whether it is there"
            if process == 2000:
                raise PermissionError(1, "Operation not permitted")  # another user's
            if process == 2**70:
                raise OverflowError
            if process != 3000:
                raise ProcessLookupError

        monkeypatch.setattr(os, "kill", kill)
        assert left_behind(target, "tmp") == [tmp_path / f"{start}1000-aa.tmp"]
        assert left_behind(target, "other") == [tmp_path / f"{start}1000-bb.other"]
        write_whole(target, [b"x"], overwrite=False)
        assert not (tmp_path / f"{start}1000-aa.tmp").exists() and (tmp_path / f"{start}2000-aa.tmp").exists()
        assert left_behind(tmp_path / "none" / "net", "tmp") == []
        monkeypatch.setattr(files.os, "name", "nt")  # where a signal would end the process
        assert left_behind(target, "other") == []


class TestConstants:
    def test_a_mapped_file_lets_go_of_what_was_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "large"
        path.write_bytes(bytes(1 << 20))
        with path.open("rb") as file:
            mapped = MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)
        released = []
        monkeypatch.setattr(MappedFile, "release", lambda self: released.append(self.read_bytes))
        monkeypatch.setattr(held, "_KEPT_BYTES", 3 << 18)
        data = np.frombuffer(memoryview(mapped), np.uint8)
        for _ in range(4):
            note_reading(data[: 1 << 18].reshape(2, -1))
        assert released == [1 << 18]  # the fourth quarter was one too many, and counts anew
        note_reading(data[:100])  # small ones don't count
        note_reading(np.zeros(1 << 18, np.uint8))  # nor what isn't mapped
        assert mapped.read_bytes == 1 << 18

    def test_pages_come_back(self, tmp_path: Path) -> None:
        path = tmp_path / "large"
        path.write_bytes(bytes(range(256)) * 1024)
        with path.open("rb") as file:
            mapped = MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.release()
        assert mapped[255] == 255 and mapped[-1] == 255

    def test_deferred_bytes_are_made_each_time(self) -> None:
        made = []

        def pieces() -> Iterator[np.ndarray]:
            made.append(1)
            yield np.array([1, 2, 3], np.uint8)
            yield np.array([4], np.uint8)

        tensor = Tensor("c", DType.INT32, (1,), data=Deferred(4, pieces))
        assert tensor.values.tolist() == [0x04030201] and tensor.values.tolist() == [0x04030201]
        assert len(made) == 2 and not tensor.values.flags.writeable

    def test_deferred_bytes_of_unknown_origin_are_stored_each_by_itself(self) -> None:
        """Their bytes would have to be made to be compared. Those of one and the same object are equal."""
        b = Builder()
        one, other = (Deferred(64, lambda: iter([np.ones(64, np.uint8)])) for _ in range(2))
        for number, data in enumerate((one, other, one)):
            b.graph.add_tensor(Tensor(f"c{number}", DType.FLOAT32, (16,), data=data))
        x = b.input("x", (16,))
        total = b.op("ADD_N", [x, *b.graph.tensors[:3]], "out", (16,), "AddNOptions")
        written = tflite.read(tflite.write(b.program(total)))
        places = [t.data.__array_interface__["data"][0] for t in written.main.tensors[:3] if t.data is not None]
        assert places[0] == places[2] != places[1]

    @pytest.mark.parametrize(
        ("tensor", "words"),
        [
            (Tensor("x", DType.FLOAT32, (2,)), "'x' (float32)"),
            (Tensor("r", DType.RESOURCE, (1,), data=np.zeros(4, np.uint8)), "'r' (resource)"),
        ],
    )
    def test_what_has_no_values(self, tensor: Tensor, words: str) -> None:
        with pytest.raises(ValueError, match=re.escape(f"tensor {words} has no values that NumPy can show")):
            _ = tensor.values

    def test_how_they_are_shown(self) -> None:
        b = Builder()
        x, c = b.input("x", (2, 3)), b.const("c", np.zeros(4, np.int32))
        b.unary("ABS", x, "y")
        assert (repr(x), repr(c), repr(b.graph.ops[0])) == (
            "<'x' float32[2, 3]>",
            "<const 'c' int32[4]>",
            "<Op ABS 'y'>",
        )


def test_a_signature_of_another_program_cant_be_written() -> None:
    programs = []
    for _ in range(2):
        b = Builder()
        programs.append(b.program(b.unary("ABS", b.input("x", (2,)), "y")))
    programs[0].signatures += programs[1].signatures
    with pytest.raises(GraphError, match="the graph of signature 'serving_default' isn't in the program"):
        tflite.write(programs[0])


def test_what_cant_be_written_is_named() -> None:
    b = Builder()
    program = b.program(b.reshape(b.input("x", (2, 3)), "y", (6,)))
    program.source = "net"
    program.main.ops[0].options = {"newShape": ["six"]}
    option = "net: op RESHAPE 'y': option newShape can't be ['six']: "
    assert refusal(lambda: tflite.write(program)).startswith(option)
    program.main.ops[0].options = {}
    given: Any = "two"
    program.main.ops[0].version = given
    assert refusal(lambda: tflite.write(program)).startswith("net: can't be written as .tflite: '<=' not supported")


def test_lists_of_strings_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """No table of the schema has one yet."""
    builder = flatbuffers.Builder()
    name = builder.CreateString("name")
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(name)
    names = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, names, 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    data = bytearray(builder.Output())
    monkeypatch.setattr(schema, "layout", lambda table: [schema.Field("Names", 4, schema.Kind.STRINGS)])
    check_layout(memoryview(data))
    data[data.index(b"name") - 4] = 200  # the length of the string
    with pytest.raises(LayoutError, match=r"^Model\.names points outside of the file"):
        check_layout(memoryview(data))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8])
def test_a_file_of_a_few_bytes(size: int) -> None:
    message = refusal(lambda: tflite.read(b"\x14\0\0\0TFL3"[:size]))
    outside = "model: damaged or truncated: the root points outside of the file (byte 24 of 8)"
    assert message == outside if size == 8 else message.startswith("model: ")


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (100, "SubGraph.tensors has 100 tables, more than the file can hold"),
        (2, "there are more tables than the file can hold (at a SubGraph)"),
    ],
)
def test_more_tables_than_there_is_room_for_arent_unpacked(count: int, words: str) -> None:
    """A hundred subgraphs that are one table, with tensors that are one table, in a file of a kilobyte."""
    builder = flatbuffers.Builder()

    def vector(offset: int, size: int) -> int:
        builder.StartVector(4, size, 4)
        for _ in range(size):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    builder.StartObject(0)
    tensors = vector(builder.EndObject(), count)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, tensors, 0)
    graphs = vector(builder.EndObject(), 100)
    builder.StartObject(3)
    builder.PrependUOffsetTRelativeSlot(2, graphs, 0)
    builder.Finish(builder.EndObject(), b"TFL3")
    assert refusal(lambda: tflite.read(bytes(builder.Output()))) == f"model: damaged or truncated: {words}"


def test_what_no_check_has_foreseen_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    data = tflite.write(b.program(b.unary("ABS", b.input("x", (2,)), "y")))

    def stumble(self: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(importlib.import_module("octavo.tflite.read")._Reader, "program", stumble)
    assert refusal(lambda: tflite.read(data, name="net")) == "net: damaged: IndexError: list index out of range"
