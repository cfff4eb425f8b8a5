"""A stand-in for the headers of TensorFlow Lite for Microcontrollers, enough to compile and run a bundle's main.

Its interpreter computes nothing: it checks what it is given and answers with the bytes that a test wrote into
stub_data.h. The methods of the resolver are spelled out, as they are in TFLM's own header.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

HEADERS = (
    "micro_allocator", "micro_interpreter", "micro_log", "micro_mutable_op_resolver", "micro_resource_variable",
    "system_setup",
)  # fmt: skip
OPS = (
    "Add", "AssignVariable", "AveragePool2D", "CallOnce", "Conv2D", "DepthwiseConv2D", "Dequantize",
    "FullyConnected", "Logistic", "Mean", "Mul", "PadV2", "Quantize", "ReadVariable", "Relu6", "Reshape",
    "Softmax", "VarHandle",
)  # fmt: skip
TYPES = {"float32": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9}

STUB = """
#pragma once
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include "stub_data.h"

#define TFLITE_SCHEMA_VERSION (3)
enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
enum TfLiteType {
  kTfLiteFloat32 = 1, kTfLiteInt32 = 2, kTfLiteUInt8 = 3, kTfLiteInt64 = 4, kTfLiteBool = 6, kTfLiteInt16 = 7,
  kTfLiteInt8 = 9
};
union TfLitePtrUnion { void* data; };
struct TfLiteTensor { TfLiteType type; TfLitePtrUnion data; std::size_t bytes; };

inline void MicroPrintf(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\\n");
}

namespace tflite {
class Model {
 public:
  std::uint32_t version() const { return TFLITE_SCHEMA_VERSION; }
};
inline const Model* GetModel(const void* data) {
  static const Model model;
  if (reinterpret_cast<std::uintptr_t>(data) % 16 != 0) std::printf("misaligned\\n");
  return std::memcmp(static_cast<const char*>(data) + 4, "TFL3", 4) == 0 ? &model : nullptr;
}
#ifdef STUB_NEW_NAMESPACE
namespace micro {
#endif
inline void InitializeTarget() {}

class MicroOpResolver {
 public:
  virtual ~MicroOpResolver() = default;
  virtual unsigned count() const = 0;
};

template <unsigned int N>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
  unsigned count() const override { return added_; }
METHODS
 private:
  TfLiteStatus Put(const char* name) {
    if (added_ >= N) return kTfLiteError;
    ++added_;
    std::printf("op %s\\n", name);
    return kTfLiteOk;
  }
  unsigned added_ = 0;
};

class MicroAllocator {
 public:
  static MicroAllocator* Create(std::uint8_t*, std::size_t) { static MicroAllocator made; return &made; }
};
class MicroResourceVariables {
 public:
  static MicroResourceVariables* Create(MicroAllocator*, int count) {
    static MicroResourceVariables made;
    std::printf("variables %d\\n", count);
    return &made;
  }
};

class MicroInterpreter {
 public:
  MicroInterpreter(const Model* model, const MicroOpResolver&, std::uint8_t* arena, std::size_t size)
      : ready_(model != nullptr && reinterpret_cast<std::uintptr_t>(arena) % 16 == 0) {
    std::printf("arena %d\\n", static_cast<int>(size));
  }
  MicroInterpreter(const Model* model, const MicroOpResolver&, MicroAllocator*, MicroResourceVariables*)
      : ready_(model != nullptr) {}
  TfLiteStatus AllocateTensors() { return ready_ ? kTfLiteOk : kTfLiteError; }
  TfLiteTensor* input(std::size_t i) { return &stub::inputs[i]; }
  TfLiteTensor* output(std::size_t i) { return &stub::outputs[i]; }
  std::size_t arena_used_bytes() const { return 1; }
  TfLiteStatus Invoke() {
    for (std::size_t i = 0; i < stub::input_count; ++i) {
      if (std::memcmp(stub::inputs[i].data.data, stub::wanted[i], stub::inputs[i].bytes) != 0) return kTfLiteError;
    }
    return kTfLiteOk;
  }

 private:
  bool ready_;
};
#ifdef STUB_NEW_NAMESPACE
}  // namespace micro
#endif
}  // namespace tflite
"""


def compiler() -> list[str]:
    """A C++ compiler: the machine's, or the one that the package ziglang brings."""
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang") is None:
        pytest.fail("no C++ compiler: install one, or the package ziglang (it is in octavo[dev])")
    return [sys.executable, "-m", "ziglang", "c++"]


def _tensors(name: str, arrays: Sequence[np.ndarray], filled: bool) -> str:
    lines = []
    for i, array in enumerate(arrays):
        values = ", ".join(map(str, array.tobytes() if filled else b"\0" * array.nbytes))
        lines.append(f"alignas(16) inline unsigned char {name}{i}[] = {{{values}}};")
    items = ", ".join(
        f"{{static_cast<TfLiteType>({TYPES[array.dtype.name]}), {{{name}{i}}}, {array.nbytes}}}"
        for i, array in enumerate(arrays)
    )
    return "\n".join([*lines, f"inline TfLiteTensor {name}[] = {{{items}}};"])


def write_stub(folder: Path, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Path:
    """Headers whose interpreter expects `inputs` and answers with `outputs`."""
    wanted = [
        f"inline const unsigned char w{i}[] = {{{', '.join(map(str, a.tobytes()))}}};" for i, a in enumerate(inputs)
    ]
    names = ", ".join(f"w{i}" for i in range(len(inputs)))
    data = [
        "namespace stub {", _tensors("inputs", inputs, False), _tensors("outputs", outputs, True), *wanted,
        f"inline const unsigned char* const wanted[] = {{{names}}};",
        f"inline constexpr std::size_t input_count = {len(inputs)};", "}  // namespace stub",
    ]  # fmt: skip
    methods = "\n".join(f'  TfLiteStatus Add{op}() {{ return Put("{op}"); }}' for op in OPS)
    micro, schema = folder / "tensorflow/lite/micro", folder / "tensorflow/lite/schema"
    for made in (micro, schema):
        made.mkdir(parents=True)
    types, rest = STUB.replace("METHODS", methods).split("union TfLitePtrUnion", 1)
    unions, after = rest.split("\ninline void MicroPrintf", 1)
    types = types.replace('#include "stub_data.h"\n', "")
    text = f"{types}union TfLitePtrUnion{unions}\n" + "\n".join(data) + f"\ninline void MicroPrintf{after}"
    for path in [*(micro / f"{name}.h" for name in HEADERS), schema / "schema_generated.h"]:
        path.write_text('#pragma once\n#include "stub.h"\n')
    (folder / "stub.h").write_text(text)
    return folder


def build_and_run(sources: Path, stub: Path, program: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Compile a bundle against the stub with warnings as errors, and run its main."""
    strict = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror", *flags]
    files = [str(path) for path in sorted(sources.glob("*.cc"))]
    command = [*compiler(), *strict, f"-I{sources}", f"-I{stub}", *files, "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)
