"""`.tflite` bytes to `octavo.graph.Program` and back, losing nothing on the way."""

from octavo.tflite.read import read
from octavo.tflite.write import save, size, write

__all__ = ["read", "save", "size", "write"]
