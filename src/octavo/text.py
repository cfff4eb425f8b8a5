"""Names from model files, made fit for one line of a terminal or a message."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """`text` with control, invisible and line-breaking characters written as Python writes them in a string."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else c
        for c in text
    )
