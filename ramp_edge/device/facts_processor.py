"""What a board computes with: names and instruction sets of its processors."""

from __future__ import annotations

import re

from ramp_edge.device.raw_facts import RawFacts

_X86 = {
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
}
_ARM = {
    "asimd": "neon",
    "neon": "neon",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
    "asimdhp": "fp16",
    "bf16": "bf16",
}
_DARWIN = {
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.neon": "neon",
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.f16c": "f16c",
    "hw.optional.avx512f": "avx512",
}
_TEGRA = {
    "nvidia,tegra210": "sm_53",
    "nvidia,tegra186": "sm_62",
    "nvidia,tegra194": "sm_72",
    "nvidia,tegra234": "sm_87",
}
"""Jetson's nvidia-smi does not tell the compute capability of its GPU; the chip's name does."""


def cpu_model(raw: RawFacts) -> str | None:
    """Every kind of core once, e.g. `Cortex-A76`."""
    info = raw.file("/proc/cpuinfo") or ""
    for pattern, text in ((r"^Model name:\s*(.+)$", raw.command("lscpu")), (r"^model name\s*:\s*(.+)$", info)):
        # lscpu writes a dash for a name that it does not know.
        names = [name for name in re.findall(pattern, text or "", re.MULTILINE) if name.strip() != "-"]
        if names:
            return " + ".join(dict.fromkeys(name.strip() for name in names))
    parts = re.findall(r"^CPU part\s*:\s*(\w+)$", info, re.MULTILINE)
    makers = re.findall(r"^CPU implementer\s*:\s*(\w+)$", info, re.MULTILINE)
    if parts and len(parts) == len(makers):
        return " + ".join(dict.fromkeys(f"implementer {m} part {p}" for m, p in zip(makers, parts, strict=True)))
    found = re.search(r"^machdep\.cpu\.brand_string: (.+)$", raw.command("sysctl") or "", re.MULTILINE)
    return found[1] if found else None


def instruction_sets(raw: RawFacts) -> tuple[str, ...]:
    """In the profiles' words, sorted; empty where the board tells nothing."""
    found: set[str] = set()
    info = raw.file("/proc/cpuinfo") or ""
    for key, words in (("flags", _X86), ("Features", _ARM)):
        # Cores differ: only what all of them can do is usable.
        lines = [set(line.split()) for line in re.findall(rf"^{key}\s*:(.*)$", info, re.MULTILINE)]
        if lines:
            found |= {words[flag] for flag in set.intersection(*lines) if flag in words}
    for line in (raw.command("sysctl") or "").splitlines():
        name, _, value = line.partition(": ")
        if name in _DARWIN and value.strip() == "1":
            found.add(_DARWIN[name])
    return tuple(sorted(found | _compute_capability(raw)))


def gpu_model(raw: RawFacts) -> str | None:
    """Of the first NVIDIA GPU."""
    return (raw.command("nvidia_smi") or "").partition("\n")[0].rpartition(",")[0].strip() or None


def _compute_capability(raw: RawFacts) -> set[str]:
    if found := re.search(r",\s*(\d+)\.(\d+)\s*$", raw.command("nvidia_smi") or "", re.MULTILINE):
        return {f"sm_{found[1]}{found[2]}"}
    # NUL between the names: already blanks.
    names = (raw.file("/proc/device-tree/compatible") or "").split()
    return {_TEGRA[name] for name in names if name in _TEGRA}
