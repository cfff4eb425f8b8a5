"""TFLite Metadata: what a model is, its labels, and how its input was normalised, inside the `.tflite` file.

https://ai.google.dev/edge/litert/conversion/tensorflow/metadata. Android's and MediaPipe's task libraries read it.
Quantization keeps it: a quantized model has the normalization of its float model (metadata_schema.fbs says so).
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from octavo import tflite
from octavo.errors import DataError, ModelFileError, RecipeError
from octavo.graph import Program, Tensor
from octavo.model import Model
from octavo.text import printable
from octavo.tflite.appended import rebase_zip
from octavo.tflite.metadata import GRAYSCALE, LABELS, NAME, RGB, decode, encode

_FILE_BYTES = 64 << 20  # a packed file that says it is larger isn't unpacked
_PARSER = "1.0.0"  # the version of the schema that has all that is written here
_DAY_ONE = (1980, 1, 1, 0, 0, 0)  # a zip holds a date for each file: always the same, so that files can be compared


@dataclass(frozen=True)
class TensorMetadata:
    """What the metadata says of one input or output.

    Attributes:
      name: for people; "" if it says none.
      description: likewise.
      mean: of the normalization x = (value - mean) / std, one number or one for each channel; empty if there is none.
      std: likewise.
      labels: names of the classes along the last dimension.
    """

    name: str = ""
    description: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.description] if self.description else []
        if self.mean and self.std:
            parts.append(f"mean {_listed(self.mean)}, std {_listed(self.std)}")
        if self.labels:
            few = ", ".join(self.labels[:3])
            parts.append(f"{len(self.labels)} labels: {few}" + (", ..." if len(self.labels) > 3 else ""))
        return f"{self.name or 'unnamed'}: {'; '.join(parts) or 'nothing said'}"


@dataclass(frozen=True)
class Metadata:
    """What a model says of itself.

    Attributes:
      name: of the model.
      description: what it does.
      version: of the model.
      author: who made it.
      license: terms of use.
      inputs: one for each input of the model that is described, in order.
      outputs: likewise.
      files: packed files, by name.
    """

    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    inputs: tuple[TensorMetadata, ...] = ()
    outputs: tuple[TensorMetadata, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        texts = [getattr(self, key) for key in ("name", "description", "version", "author", "license")]
        lines = ["; ".join(filter(None, texts)) or "metadata"]
        lines += [f"  input {entry}" for entry in self.inputs] + [f"  output {entry}" for entry in self.outputs]
        return "\n".join(printable(line) for line in lines)


def read_metadata(model: Model | str | os.PathLike[str] | bytes) -> Metadata | None:
    """What a model says of itself; None if it says nothing.

    Raises:
      ModelFileError: the metadata is damaged, or of another kind.
    """
    program = _program(model)
    record, files = _record(program), _files(program)
    if record is None:
        return None
    graph: dict[str, Any] = next(iter(record.get("subgraph_metadata", ())), {})
    texts = {key: record.get(key, "") for key in ("name", "description", "version", "author", "license")}
    inputs, outputs = (
        tuple(_tensor(entry, files) for entry in graph.get(f"{side}_tensor_metadata", ()))
        for side in ("input", "output")
    )
    return Metadata(**texts, inputs=inputs, outputs=outputs, files=files)


def write_metadata(
    model: Model | str | os.PathLike[str] | bytes,
    *,
    name: str | None = None,
    description: str | None = None,
    version: str | None = None,
    author: str | None = None,
    license: str | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> Model:
    """The model with metadata; what isn't given stays as it is.

    Args:
      model: any model.
      name: of the model.
      description: what it does.
      version: of the model.
      author: who made it.
      license: terms of use.
      labels: a text file with one class a line, or the classes themselves: for the output that has as many.
      mean: of the first input's normalization x = (value - mean) / std: one number or one for each channel.
      std: likewise; both or none.

    Raises:
      DataError: labels that can't be read or fit no output.
      RecipeError: one of mean and std without the other.
      ModelFileError: metadata that is there already can't be changed.
    """
    source = model if isinstance(model, Model) else Model(tflite.read(model))
    program = source.program.clone()
    record, files = _record(program) or {}, _files(program)
    given = {"name": name, "description": description, "version": version, "author": author, "license": license}
    record.update({key: value for key, value in given.items() if value is not None})
    record.setdefault("min_parser_version", _PARSER)
    _fill(record, program)
    if (mean is None) != (std is None):
        raise RecipeError("a normalization has a mean and a std: give both")
    if mean is not None and std is not None:
        _normalise(record, program, 0, mean, std)
    if labels is not None:
        _label(record, program, files, _lines(labels))
    _store(program, record, files)
    return Model(program, source.decisions, source.notes, source.path)


def update_normalization(program: Program, index: int, mean: Any, std: Any) -> None:
    """Bring the metadata of input `index`, if the model has any, in line with what the input takes now."""
    record = _record(program)
    if record is not None:
        _fill(record, program)
        _normalise(record, program, index, mean, std)
        _store(program, record, None)


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _program(model: Model | str | os.PathLike[str] | bytes) -> Program:
    return model.program if isinstance(model, Model) else tflite.read(model)


def _record(program: Program) -> dict[str, Any] | None:
    data = dict(program.metadata).get(NAME)
    return None if data is None else decode(data.tobytes(), program.source or "the model")


def _store(program: Program, record: dict[str, Any], files: Mapping[str, bytes] | None) -> None:
    """Write the record, and the packed files unless they are None: then they stay as they are."""
    stored = np.frombuffer(encode(record), np.uint8)
    others = [(name, data) for name, data in program.metadata if name != NAME]
    program.metadata = [*others, (NAME, stored)]
    if files:
        program.extra["appendedZip"] = np.frombuffer(_packed(files), np.uint8)


def _fill(record: dict[str, Any], program: Program) -> None:
    """One entry for each input and output of the main subgraph."""
    graphs = record["subgraph_metadata"] = record.get("subgraph_metadata") or [{}]
    named = {t: n for s in program.signatures if s.graph is program.main for n, t in [*s.inputs, *s.outputs]}
    for side, tensors in (("input", program.main.inputs), ("output", program.main.outputs)):
        entries = graphs[0].setdefault(f"{side}_tensor_metadata", [])
        entries += [{"name": named.get(tensor, tensor.name)} for tensor in tensors[len(entries) :]]


def _normalise(record: dict[str, Any], program: Program, index: int, mean: Any, std: Any) -> None:
    entry, tensor = record["subgraph_metadata"][0]["input_tensor_metadata"][index], program.main.inputs[index]
    units = [unit for unit in entry.get("process_units", []) if not _is_normalization(unit)]
    values = {key: np.asarray(v, np.float32).reshape(-1).tolist() for key, v in (("mean", mean), ("std", std))}
    entry["process_units"] = [*units, {"options": {"table": "NormalizationOptions", **values}}]
    entry.setdefault("content", {}).setdefault("content_properties", _content(tensor))


def _content(tensor: Tensor) -> dict[str, Any]:
    """An image if it looks like one."""
    space = {3: RGB, 1: GRAYSCALE}.get(tensor.shape[-1] if len(tensor.shape) == 4 else 0)
    return {"table": "FeatureProperties"} if space is None else {"table": "ImageProperties", "color_space": space}


def _is_normalization(unit: dict[str, Any]) -> bool:
    return unit.get("options", {}).get("table") == "NormalizationOptions"


def _label(record: dict[str, Any], program: Program, files: dict[str, bytes], lines: Sequence[str]) -> None:
    sizes = [tensor.shape[-1] if tensor.shape else 1 for tensor in program.main.outputs]
    if len(lines) not in sizes:
        listed = ", ".join(f"{t.name!r} {n}" for t, n in zip(program.main.outputs, sizes, strict=True))
        raise DataError(f"{len(lines)} labels fit no output: along their last dimension they have: {printable(listed)}")
    entry = record["subgraph_metadata"][0]["output_tensor_metadata"][sizes.index(len(lines))]
    others = [known for known in entry.get("associated_files", []) if known.get("type") != LABELS]
    name = "labels.txt"
    entry["associated_files"] = [*others, {"name": name, "type": LABELS, "description": "Names of the classes."}]
    files[name] = "".join(f"{line}\n" for line in lines).encode()


def _lines(labels: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    if isinstance(labels, str | os.PathLike):
        try:
            lines = Path(labels).read_text("utf-8").splitlines()
        except OSError as error:
            raise DataError(f"{os.fspath(labels)}: can't be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise DataError(f"{os.fspath(labels)}: labels are a UTF-8 text file with one class a line") from None
        while lines and not lines[-1].strip():
            lines.pop()
    else:
        lines = [str(label) for label in labels]
    wrong = [number for number, line in enumerate(lines) if not line.strip() or len(line.splitlines()) != 1]
    if wrong or not lines:
        where = f"label {wrong[0]} is" if wrong else "they are"
        raise DataError(f"labels: {where} empty or more than one line; give one class a line")
    return lines


def _tensor(entry: dict[str, Any], files: Mapping[str, bytes]) -> TensorMetadata:
    options = next((unit["options"] for unit in entry.get("process_units", []) if _is_normalization(unit)), {})
    names = [known.get("name", "") for known in entry.get("associated_files", []) if known.get("type") == LABELS]
    text = next((files[name] for name in names if name in files), b"").decode("utf-8", "replace")
    return TensorMetadata(
        entry.get("name", ""),
        entry.get("description", ""),
        tuple(options.get("mean", ())),
        tuple(options.get("std", ())),
        tuple(text.splitlines()),
    )


def _files(program: Program) -> dict[str, bytes]:
    """The packed files.

    Raises:
      ModelFileError: the archive is damaged, or says that it holds more than fits in memory.
    """
    archive = program.extra.get("appendedZip")
    if archive is None:
        return {}
    label = program.source or "the model"
    try:
        with zipfile.ZipFile(io.BytesIO(rebase_zip(archive, 0))) as packed:
            if sum(info.file_size for info in packed.infolist()) > _FILE_BYTES:
                raise ModelFileError(f"{label}: its packed files are larger than {_FILE_BYTES >> 20} MiB")
            return {info.filename: packed.read(info) for info in packed.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ModelFileError(f"{label}: its packed files can't be read: {error}") from None


def _packed(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for name, data in files.items():
            packed.writestr(zipfile.ZipInfo(name, _DAY_ONE), data)
    return archive.getvalue()
