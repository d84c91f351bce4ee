"""llama.cpp's command-line tools, run and timed: the yardstick that ramp-edge is measured against."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


class ToolError(RuntimeError):
    """A tool is missing or failed; the message ends with its last lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolScore:
    """What `llama-perplexity` printed."""

    ppl: float
    ppl_std_error: float
    mean_kl: float | None = None
    kl_std_error: float | None = None
    median_kl: float | None = None
    same_top: float | None = None


_ATTEMPTS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaTools:
    """A folder with llama-imatrix, llama-quantize, llama-perplexity and llama-bench."""

    folder: Path
    threads: int

    def run(self, name: str, *arguments: str | Path, log: Path) -> float:
        """Run one tool with its output in `log`; returns wall seconds."""
        program = self.folder / name
        if not program.is_file():
            raise ToolError(f"{program} does not exist")
        environment = dict(os.environ)
        paths = [str(self.folder), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(p for p in paths if p)
        start_s = time.perf_counter()
        with log.open("wb") as output:
            done = subprocess.run(
                [program, *arguments], stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
            )
        if done.returncode:
            tail = log.read_text(errors="replace").splitlines()[-5:]
            raise ToolError(f"{name} failed with {done.returncode}: " + " | ".join(tail))
        return time.perf_counter() - start_s

    def _run_until_whole(self, *arguments: str | Path, last: str, log: Path) -> str:
        """llama-perplexity's log, with the line that `last` finds: now and then its last lines are lost, and it runs again."""
        for _ in range(_ATTEMPTS):
            self.run("llama-perplexity", *arguments, log=log)
            text = log.read_text(errors="replace")
            if re.search(last, text):
                return text
        raise ToolError(f"{log} holds no {last!r} after {_ATTEMPTS} runs")

    def imatrix(self, model: Path, text: Path, output: Path, *, n_ctx: int) -> float:
        """Importance matrix of a text; seconds."""
        size = str(n_ctx)
        return self.run(
            "llama-imatrix", "-m", model, "-f", text, "-o", output, "-c", size, "-b", size,
            "-t", str(self.threads), "--no-ppl", log=output.with_suffix(".log"),
        )  # fmt: skip

    def quantize(self, model: Path, output: Path, preset: str, *, imatrix: Path, embedding_type: str | None) -> float:
        """A preset's file; seconds."""
        extra = [] if embedding_type is None else ["--token-embedding-type", embedding_type.lower()]
        return self.run(
            "llama-quantize", "--imatrix", imatrix, *extra, model, output, preset, str(self.threads),
            log=output.with_suffix(".quantize.log"),
        )  # fmt: skip

    def perplexity(self, model: Path, text: Path, *, n_ctx: int, windows: int, base: Path, log: Path) -> ToolScore:
        """Score the reference and write its base file."""
        final = r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)"
        said = self._run_until_whole(
            "-m", model, "-f", text, "-c", str(n_ctx), "-b", str(n_ctx), "--chunks", str(windows),
            "-t", str(self.threads), "--kl-divergence-base", base, last=final, log=log,
        )  # fmt: skip
        found = re.search(final, said)
        assert found is not None
        return ToolScore(ppl=float(found[1]), ppl_std_error=float(found[2]))

    def divergence(self, model: Path, *, n_ctx: int, base: Path, log: Path) -> ToolScore:
        """Score a model against a base file."""
        text = self._run_until_whole(
            "-m", model, "-c", str(n_ctx), "-b", str(n_ctx), "-t", str(self.threads),
            "--kl-divergence-base", base, "--kl-divergence", last=r"Same top p *:", log=log,
        )  # fmt: skip

        def pair(pattern: str) -> tuple[float, float]:
            found = re.search(pattern + r"\s*:\s*([\d.-]+)(?: ±\s*([\d.]+))?", text)
            if found is None:
                raise ToolError(f"{log} holds no {pattern!r}")
            return float(found[1]), float(found[2] or 0.0)

        ppl, ppl_std_error = pair(r"Mean PPL\(Q\)")
        mean_kl, kl_std_error = pair("Mean    KLD")
        return ToolScore(
            ppl=ppl,
            ppl_std_error=ppl_std_error,
            mean_kl=mean_kl,
            kl_std_error=kl_std_error,
            median_kl=pair("Median  KLD")[0],
            same_top=pair("Same top p")[0] / 100,
        )

    def bench(self, model: Path, *, prompt_tokens: int, generated_tokens: int, log: Path) -> tuple[float, float]:
        """(prefill, decode) tokens/s of one run of llama-bench after its own warm-up."""
        self.run(
            "llama-bench", "-m", model, "-t", str(self.threads), "-p", str(prompt_tokens), "-n", str(generated_tokens),
            "-r", "1", "-o", "jsonl", "-oe", "none", log=log,
        )  # fmt: skip
        found = [json.loads(line) for line in log.read_text(errors="replace").splitlines() if line.startswith("{")]
        speeds = {bool(entry["n_gen"]): float(entry["avg_ts"]) for entry in found}
        if len(speeds) != 2:
            raise ToolError(f"{log} holds no result of llama-bench")
        return speeds[False], speeds[True]
