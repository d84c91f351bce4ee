"""Names from records become harmless where they come in: whoever made a record decides what it says, not what a terminal or CI does."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Text without anything that moves the cursor, breaks the line, turns its direction or cannot be encoded.

    Such characters are written out (`\\n`, `\\x1b`); a line break could else begin a workflow command of GitHub.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)
