"""Values and names as C++17 source text. Names from model files never reach a source as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

_PER_LINE = 12

# Keywords of C++17 and C11 that match the shape of an identifier, and names that the sources themselves use.
_WORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class compl const
    const_cast constexpr continue decltype default delete do double dynamic_cast else enum explicit export extern false
    float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private
    protected public register reinterpret_cast restrict return short signed sizeof static static_assert static_cast
    struct switch template this thread_local throw true try typedef typeid typename union unsigned using virtual void
    volatile wchar_t while xor xor_eq main std tflite tflm arena linux unix arm
    Difference LargestDifference CheckOutput
"""
_TAKEN = frozenset(_WORDS.split())


def identifier(text: str) -> str:
    """An identifier made from any text: ASCII letters, digits and single underscores, and no word of C++.

    Underscores that C++ reserves (two in a row, one in front) are avoided.
    """
    made = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_") or "model"
    if not made[0].isalpha() or made in _TAKEN:
        made = f"model_{made}"
    return made[:64].rstrip("_")


def label(text: str) -> str:
    """Text for a comment or a README: printable ASCII that can neither end a comment nor continue its line."""
    return re.sub(r"[^A-Za-z0-9 _.,:;/()\[\]=+-]", "_", text)[:200]


def float_literal(value: float) -> str:
    """A float32 exactly: nine digits tell any two of them apart.

    Raises:
      ValueError: infinity or NaN.
    """
    if not np.isfinite(value):
        raise ValueError(f"{value} has no literal")
    text = f"{np.float32(value):.9g}"
    return (text if re.search(r"[.e]", text) else f"{text}.0") + "f"


def byte_lines(data: bytes) -> Iterator[str]:
    """The lines between the braces of an array of bytes."""
    for start in range(0, len(data), _PER_LINE):
        yield "    " + " ".join(f"0x{byte:02x}," for byte in data[start : start + _PER_LINE])


def byte_array(name: str, data: bytes, extern: bool) -> str:
    """The definition of a constant array of bytes, aligned to 16 as TFLM wants a model and its tensors."""
    kind = "" if extern else "static "
    return "\n".join([f"alignas(16) {kind}const unsigned char {name}[] = {{", *byte_lines(data), "};"])
