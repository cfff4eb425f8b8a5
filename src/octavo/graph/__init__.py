"""The graph: what the rest of octavo reads and edits."""

from octavo.graph.model import DType, Graph, Op, Program, Signature, Tensor, raw_bytes

__all__ = ["DType", "Graph", "Op", "Program", "Signature", "Tensor", "raw_bytes"]
