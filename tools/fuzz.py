"""Damage files in many ways and read them: each is taken, or refused with an OctavoError, soon and in little memory.

    python tools/fuzz.py --files 100000                # seeds that the tests make
    python tools/fuzz.py --files 20000 models/         # with the .tflite files of a folder as seeds, too
    python tools/fuzz.py --kinds npz --first 4711 --files 1 --keep bad/   # one case again, its file kept

A case is told by its kind and its number alone, so each can be made again. Exit status: 0 all held, 1 not.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import io
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np

import octavo
from octavo import tflite
from octavo.datasets import npz
from octavo.tflite import metadata, schema

TESTS = Path(__file__).parent.parent / "tests"
SECONDS = 10.0  # that one file may take
MEMORY = 1 << 30  # bytes that one file may take
# How many of 1,000 files are of each kind: what is hostile most often comes most often. Keras takes 100 ms a file.
SHARES = {"tflite": 780, "npz": 100, "recipe": 60, "metadata": 50, "keras": 10}
WORDS = (
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    1 << 20,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
NUMBERS = (-(1 << 63), -(1 << 31), -129, -2, -1, 0, 1, 2, 7, 127, 255, 1 << 16, (1 << 31) - 1, (1 << 63) - 1)
FLOATS = (0.0, -0.0, 1e-45, 1e-30, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "\0", "x" * 5000, "../../x", "\x1b[31m", "é\u202e", "<script>", "integer", "float32")


# ---------------------------------------------------------------- damage


def damage_bytes(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """One to eight changes that know nothing of the format."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        size = len(made)
        at = rng.randrange(size) if size else 0
        end = min(size, at + rng.choice((1, 2, 4, 16, 200)))
        match rng.randrange(8):
            case 0:
                made[at:end] = rng.randbytes(end - at)
            case 1 | 2:  # a word, mostly where words of flatbuffers stand
                at -= at % rng.choice((1, 4, 4))
                made[at : at + 4] = struct.pack("<I", rng.choice((*WORDS, size, rng.getrandbits(32))))
            case 3 if size:
                made[at] ^= 1 << rng.randrange(8)
            case 4:
                del made[at : at + rng.choice((1, 4, 64, size))]
            case 5:
                made[at:at] = made[at:end]
            case 6:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                made[at:end] = other[start : start + rng.choice((4, 64, 1000))]
            case _ if size >= 8:  # a pointer or count that is off by a little
                at = min(at - at % 4, size - 4)
                (value,) = struct.unpack_from("<I", made, at)
                struct.pack_into("<I", made, at, (value + rng.choice((-4, -1, 1, 4, 16))) % (1 << 32))
            case _:
                pass
    return bytes(made)


def damage_value(value: Any, rng: random.Random) -> Any:
    """Another value: mostly one of the same type."""
    if rng.random() < 0.1:
        return rng.choice((None, True, 3, -1.5, "x", [], {}, [[]], {"x": None}))
    if isinstance(value, bool) or value is None:
        return rng.choice((True, False, None, 1))
    if isinstance(value, int):
        return rng.choice((*NUMBERS, value + 1, value - 1, -value))
    if isinstance(value, float):
        return rng.choice(FLOATS)
    if isinstance(value, str):
        return rng.choice((*TEXTS, value[:-1], value * 2, value.upper()))
    if isinstance(value, bytes):
        return damage_bytes(value, rng, [value or b"x"])
    return value


def damage_tree(node: Any, rng: random.Random) -> Any:
    """JSON with one place changed, taken away, or put twice."""
    places: list[tuple[Any, Any]] = []
    pending = [node]
    while pending:
        held = pending.pop()
        items = list(held.items()) if isinstance(held, dict) else list(enumerate(held))
        places += [(held, key) for key, _ in items]
        pending += [value for _, value in items if isinstance(value, dict | list)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        held, key = rng.choice(places)
        match rng.randrange(6):
            case 0 if isinstance(held, dict):
                held.pop(key, None)
            case 1 if isinstance(held, dict):
                held[rng.choice((*TEXTS, "scheme", "to", "class_name", "config"))] = rng.choice(places)[0]
            case 2 if isinstance(held, list):
                held.extend(held[:3])
            case _ if isinstance(held, dict) or key < len(held):
                held[key] = damage_value(held[key] if isinstance(held, list) else held.get(key), rng)
            case _:
                pass
    return node


def damage_json(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    if rng.random() < 0.3:
        return damage_bytes(data, rng, others)
    try:
        return json.dumps(damage_tree(json.loads(data), rng)).encode("utf-8", "surrogatepass")
    except ValueError:  # it came to hold itself
        return damage_bytes(data, rng, others)


def damage_model(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Bytes changed; or a well-formed flatbuffer in which one or a few fields say something else."""
    if rng.random() < 0.5:
        return damage_bytes(data, rng, others)
    model = schema.module().ModelT.InitFromPackedBuf(bytearray(data))
    records: list[Any] = []
    pending: list[Any] = [model]
    while pending:
        record = pending.pop()
        if isinstance(record, list):
            pending += record
        elif getattr(record, "__dict__", None):
            records.append(record)
            pending += vars(record).values()
    for _ in range(rng.choice((1, 1, 2, 5))):
        record = rng.choice(records)
        name = rng.choice(list(vars(record)))
        setattr(record, name, _other_field(getattr(record, name), rng, records))
    try:
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
    except Exception:  # what can't be told in the format can't come in a file either
        return damage_bytes(data, rng, others)


def _other_field(value: Any, rng: random.Random, records: list[Any]) -> Any:
    if isinstance(value, np.ndarray) and value.size:
        made = value.copy()
        if rng.random() < 0.4:
            return made[: rng.randrange(len(made) + 1)] if rng.random() < 0.5 else np.concatenate([made, made])
        numbers = FLOATS if made.dtype.kind == "f" else NUMBERS
        with np.errstate(all="ignore"):
            made.flat[rng.randrange(made.size)] = np.array(rng.choice(numbers)).astype(made.dtype)
        return made
    if isinstance(value, list) and value:
        made = list(value)
        like = [record for record in records if type(record) is type(made[0])]
        match rng.randrange(3):
            case 0:
                del made[rng.randrange(len(made))]
            case 1:
                made.append(rng.choice(like or made))
            case _:
                rng.shuffle(made)
        return made
    if hasattr(value, "__dict__"):
        return rng.choice([None, *(record for record in records if type(record) is type(value))])
    return damage_value(value, rng)


def damage_zip(data: bytes, rng: random.Random, others: list[bytes], damage: Any, name: str = "") -> bytes:
    """Bytes of the archive changed; or those of one member, in an archive whose checksums are right."""
    if rng.random() < 0.4:
        return damage_bytes(data, rng, others)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {member: archive.read(member) for member in archive.namelist()}
    chosen = name or rng.choice(list(files))
    files[chosen] = damage(files[chosen], rng, list(files.values()))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return stream.getvalue()


def damage_npz(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return damage_zip(data, rng, others, _damage_npy)


def _damage_npy(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    if rng.random() < 0.5:
        return damage_bytes(data[:128], rng, others) + data[128:]  # the header
    shape = rng.choice(
        ["()", "(-1,)", "(4,)", "(99999999999, 9)", "(0,)", "(4, True)", "4", "((4,),)", "(1,) * 9" * 99]
    )
    kind = rng.choice(["<f4", "|O", ">i8", "<U9", "|V8", "<M8[s]", "<c8", "|S4", "[('a','<f4')]", "x", "", "<f9"])
    text = f"{{'descr': '{kind}', 'fortran_order': {rng.random() < 0.5}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text) % 65536) + text + data[128:]


def damage_keras(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    if rng.random() < 0.7:
        return damage_zip(data, rng, others, damage_json, "config.json")
    return damage_zip(data, rng, others, damage_bytes)


# ---------------------------------------------------------------- what is done with a file


def try_model(data: bytes, folder: Path) -> None:
    """Read, ask all that can be asked without running it, write, and read what was written."""
    model = octavo.load(data)
    model.describe()
    octavo.check(model, ("tflm", "edgetpu", "ethosu55", "xnnpack", "gpu", "hexagon")[len(data) % 6], "2.14")
    with contextlib.suppress(octavo.OctavoError):  # damaged metadata hides nothing else
        octavo.read_metadata(model)
    tflite.read(tflite.write(model.program))


def try_metadata(data: bytes, folder: Path) -> None:
    metadata.encode(metadata.decode(data, "record"))


def try_recipe(data: bytes, folder: Path) -> None:
    (folder / "recipe.json").write_bytes(data)
    octavo.save_recipe(octavo.load_recipe(folder / "recipe.json"), folder / "again.json")


def try_npz(data: bytes, folder: Path) -> None:
    path = folder / "data.npz"
    path.write_bytes(data)
    problems = []
    for ask in (npz.load_npz, npz.length, lambda p: npz.load_npz_inputs(p, ["x", "other"]), _stream):
        try:
            ask(path)
        except octavo.OctavoError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def _stream(path: Path) -> None:
    found, _ = npz.headers(path, ["x"])
    rows = npz.Rows(path, found["x"].key)
    try:
        for start in range(min(found["x"].shape[0], 8)):
            rows[start : start + 1]
    finally:
        rows.close()


def try_keras(data: bytes, folder: Path) -> None:
    from octavo.frontends.keras_files import load

    (folder / "model.keras").write_bytes(data)
    load(folder / "model.keras")


@dataclass(frozen=True)
class Kind:
    """How files of one kind are damaged and tried."""

    seeds: Callable[[], dict[str, bytes]]
    damage: Callable[[bytes, random.Random, list[bytes]], bytes]
    attempt: Callable[[bytes, Path], None]


def kinds(seeds: Any) -> dict[str, Kind]:
    """All kinds; `seeds` is the module of that name."""
    return {
        "tflite": Kind(seeds.models, damage_model, try_model),
        "npz": Kind(seeds.archives, damage_npz, try_npz),
        "recipe": Kind(seeds.recipes, damage_json, try_recipe),
        "metadata": Kind(seeds.records, damage_bytes, try_metadata),
        "keras": Kind(seeds.keras_files, damage_keras, try_keras),
    }


# ---------------------------------------------------------------- the run


@dataclass
class Tally:
    """What became of the files of one kind."""

    taken: int = 0
    refused: int = 0
    slowest: float = 0.0  # seconds
    grown: int = 0  # bytes by which the process's greatest size grew at most, over one file
    failures: list[str] = field(default_factory=list)

    @property
    def files(self) -> int:
        return self.taken + self.refused + len(self.failures)


class TooLongError(BaseException):
    """A file took longer than it may. No Exception: what is under test catches those."""


def _alarm(*_: Any) -> None:
    raise TooLongError


def run(name: str, kind: Kind, numbers: range, seeds: Mapping[str, bytes], keep: Path | None = None) -> Tally:
    """Make and try these cases of one kind."""
    tally, chosen = Tally(), sorted(seeds)
    previous = signal.signal(signal.SIGALRM, _alarm)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            resource.setrlimit(resource.RLIMIT_AS, (_virtual() + 2 * MEMORY, limits[1]))
            for number in numbers:
                rng = random.Random(f"{name} {number}")
                data = kind.damage(seeds[rng.choice(chosen)], rng, list(seeds.values()))
                problem = _attempt(kind, data, Path(folder), tally)
                if problem:
                    tally.failures.append(f"{name} {number}: {problem}")
                    if keep is not None:
                        (keep / f"{name}-{number}").write_bytes(data)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, previous)
    return tally


def _virtual() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _attempt(kind: Kind, data: bytes, folder: Path, tally: Tally) -> str:
    """Try one file; what is wrong with how it went, "" if nothing is."""
    before, start, problem = _peak(), time.perf_counter(), ""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        kind.attempt(data, folder)
        tally.taken += 1
    except octavo.OctavoError as error:
        if "\n" in str(error) or not str(error).isprintable():
            problem = f"the message can't go on one line: {str(error)!r}"
        else:
            tally.refused += 1
    except TooLongError:
        problem = f"took longer than {SECONDS} s"
    except BaseException:
        signal.setitimer(signal.ITIMER_REAL, 0)
        problem = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    tally.slowest = max(tally.slowest, time.perf_counter() - start)
    grown = _peak() - before
    tally.grown = max(tally.grown, grown)
    return problem or (f"took {grown >> 20} MiB" if grown > MEMORY else "")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="*", type=Path, help="folders with more .tflite files to start from")
    parser.add_argument("--files", type=int, default=3000, help="how many to make")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each kind")
    parser.add_argument("--kinds", nargs="+", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--keep", type=Path, help="folder for the files that were not handled well")
    args = parser.parse_args()
    faulthandler.enable()
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(TESTS))
    known = kinds(importlib.import_module("fuzz_seeds"))
    whole, start, tallies = sum(SHARES[name] for name in args.kinds), time.perf_counter(), {}
    titles = ("files", "taken", "refused", "failed", "slowest ms", "most MiB", "seconds")
    print("kind".ljust(10) + "".join(title.rjust(11) for title in titles))
    for name in args.kinds:
        began, seeds = time.perf_counter(), known[name].seeds()
        if name == "tflite":
            seeds |= {
                str(path): path.read_bytes() for folder in args.folder for path in sorted(folder.glob("*.tflite"))
            }
        count = max(1, args.files * SHARES[name] // whole)
        tally = tallies[name] = run(name, known[name], range(args.first, args.first + count), seeds, args.keep)
        print(
            f"{name:10}{tally.files:11,}{tally.taken:11,}{tally.refused:11,}{len(tally.failures):11}"
            f"{1000 * tally.slowest:11.0f}{tally.grown >> 20:11}{time.perf_counter() - began:11.0f}",
            flush=True,
        )
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    files = sum(tally.files for tally in tallies.values())
    print(f"{files:,} files in {time.perf_counter() - start:.0f} s: {len(failures)} not handled well")
    for kind, count in Counter(failure.strip().splitlines()[-1] for failure in failures).most_common(20):
        print(f"  {count} x {kind}")
    for failure in failures[:5]:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
