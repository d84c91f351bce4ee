"""Writes ramp_edge/data/bench-text.txt: a short text for perplexity on boards, by the embedded model itself, so free of any rights.

Sampling follows the rounding of the machine's kernels, so another machine writes another text of the same kind: run this only
when the embedded model changes.
"""

from __future__ import annotations

from pathlib import Path

from ramp_edge.evaluate.generate import continue_text

DATA = Path(__file__).resolve().parents[1] / "ramp_edge" / "data"
WANTED_BYTES = 8000
BEGINNINGS = ("It was", "The old man", "When the", "She said", "In the morning", "There is", "He had", "They came")


def main() -> None:
    """Write until it is long enough."""
    paragraphs: list[str] = []
    seed = 0
    while sum(map(len, paragraphs)) < WANTED_BYTES:
        beginning = BEGINNINGS[seed % len(BEGINNINGS)]
        text = (
            beginning
            + continue_text(
                DATA / "ramp-edge-default-f16.gguf", beginning, n_tokens=300, seed=seed, temperature=0.8, threads=1
            ).text
        )
        seed += 1
        words = " ".join(text.split())
        if words.isascii():
            # Up to the last whole sentence.
            paragraphs.append(words[: words.rindex(".") + 1] if "." in words else words)
    (DATA / "bench-text.txt").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
