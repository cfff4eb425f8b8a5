"""Names from model files, made fit for one line of a terminal or a message."""

from __future__ import annotations

import re
import unicodedata


def printable(text: str) -> str:
    """`text` with control, invisible and line-breaking characters written as Python writes them in a string."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else c
        for c in text
    )


def first_line(error: Exception) -> str:
    """An exception's kind and the first line of its text that says something; Keras colours and introduces its own."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in str(error).splitlines()]
    telling = (line for line in lines if line and not line.startswith("Exception encountered when calling"))
    return printable(f"{type(error).__name__}: {next(telling, '')}"[:300])
