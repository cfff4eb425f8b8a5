"""A transformer-like float model of any size, for seeing what octavo does with models that outgrow memory.

    python tools/large_model.py large.tflite --gigabytes 3

Its weights are random and are made as they are written, so that making the file takes no memory to speak of.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from octavo import tflite
from octavo.graph import DType, Graph, Op, Program, Signature, Tensor
from octavo.graph.constants import BLOCK_BYTES, Deferred


def program(nbytes: int, width: int = 2048, tokens: int = 16) -> Program:
    """An embedding of 16,000 words and as many blocks of attention-like and feed-forward products as fill `nbytes`."""
    maker = _Maker(tokens)
    words = maker.constant("embedding", 16_000, width)
    ids = maker.graph.add_tensor(Tensor("tokens", DType.INT32, (tokens,)))
    maker.graph.inputs.append(ids)
    x = maker.op("EMBEDDING_LOOKUP", [ids, words], "embedded", width)
    layer = 0
    while maker.nbytes < nbytes:
        x = maker.block(x, f"layer{layer}", width)
        layer += 1
    maker.graph.outputs.append(x)
    return Program([maker.graph], [Signature("serving_default", [("tokens", ids)], [("hidden", x)], maker.graph)])


class _Maker:
    def __init__(self, tokens: int) -> None:
        self.graph = Graph("main")
        self.tokens = tokens
        self.nbytes = 0

    def constant(self, name: str, *shape: int) -> Tensor:
        seed, size = len(self.graph.tensors), 4 * int(np.prod(shape))
        self.nbytes += size
        return self.graph.add_tensor(
            Tensor(name, DType.FLOAT32, shape, Deferred(size, lambda: _random(seed, size // 4, shape[-1] ** -0.5)))
        )

    def op(self, code: str, inputs: list[Tensor | None], name: str, units: int, options: str | None = None) -> Tensor:
        made = self.graph.add_tensor(Tensor(name, DType.FLOAT32, (self.tokens, units)))
        self.graph.ops.append(Op(code, inputs, [made], {} if options else None, options))
        return made

    def dense(self, x: Tensor, name: str, units: int) -> Tensor:
        kernel = self.constant(f"{name}/kernel", units, x.shape[1])
        return self.op("FULLY_CONNECTED", [x, kernel, self.constant(f"{name}/bias", units)], name, units,
                       "FullyConnectedOptions")  # fmt: skip

    def block(self, x: Tensor, name: str, width: int) -> Tensor:
        """Two gated products and a feed-forward of four times the width, each added to what came in."""
        gate = self.op("LOGISTIC", [self.dense(x, f"{name}/gate", width)], f"{name}/gated", width)
        value = self.dense(x, f"{name}/value", width)
        mixed = self.op("MUL", [gate, value], f"{name}/mixed", width, "MulOptions")
        x = self.op("ADD", [x, self.dense(mixed, f"{name}/project", width)], f"{name}/attended", width, "AddOptions")
        wide = self.op("GELU", [self.dense(x, f"{name}/up", 4 * width)], f"{name}/active", 4 * width, "GeluOptions")
        return self.op("ADD", [x, self.dense(wide, f"{name}/down", width)], f"{name}/out", width, "AddOptions")


def _random(seed: int, count: int, deviation: float) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, count, BLOCK_BYTES // 4):
        values = rng.standard_normal(min(BLOCK_BYTES // 4, count - start), np.float32)
        yield (values * np.float32(deviation)).view(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--width", type=int, default=2048)
    arguments = parser.parse_args()
    written = tflite.save(program(int(arguments.gigabytes * 1e9), arguments.width), arguments.path)
    print(f"{arguments.path}: {written:,} bytes")


if __name__ == "__main__":
    main()
