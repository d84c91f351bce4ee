"""Raw readings of a board -> `BoardFacts`. A reading that is missing or makes no sense gives None, never an error."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ramp_edge.device.facts import BoardFacts, LoadReading
from ramp_edge.device.facts_processor import cpu_model, gpu_model, instruction_sets
from ramp_edge.device.facts_thermal import temperatures, thermal_caps, throttle_events, throttle_flags
from ramp_edge.device.raw_facts import RawFacts

JIFFIES_S = 0.01
"""/proc/stat counts hundredths of a second on every Linux (USER_HZ)."""
_LONGEST = 200


def parse_facts(raw: RawFacts, earlier: RawFacts | None = None) -> BoardFacts:
    """The facts; `earlier` holds the load files of a moment before, for what the cores do now."""
    swap_total, swap_used = _swap(raw)
    return BoardFacts(
        system=short(raw.command("system")),
        machine=short(raw.command("machine")),
        kernel=short(raw.command("kernel")),
        distribution=_distribution(raw),
        board_model=_board_model(raw),
        cpu_model=short(cpu_model(raw)),
        gpu_model=short(gpu_model(raw)),
        isa=instruction_sets(raw),
        cores=_cores(raw),
        usable_cores=number(raw.command("nproc")),
        memory_total_bytes=_kib(raw.file("/proc/meminfo"), "MemTotal") or number(sysctl(raw, "hw.memsize")),
        memory_available_bytes=_kib(raw.file("/proc/meminfo"), "MemAvailable"),
        swap_total_bytes=swap_total,
        swap_used_bytes=swap_used,
        swapped_pages=_sum(_word_after(raw.file("/proc/vmstat"), name) for name in ("pswpin", "pswpout")),
        governors=tuple(sorted({text for _, text in raw.below(CPU, "/scaling_governor")})),
        cpu_hz=_frequencies(raw, "/scaling_cur_freq"),
        cpu_max_hz=_frequencies(raw, "/cpuinfo_max_freq"),
        temperatures_c=temperatures(raw),
        throttle_flags=throttle_flags(raw),
        throttle_events=throttle_events(raw),
        thermal_caps=thermal_caps(raw),
        power_mode=short(_power_mode(raw)),
        tegrastats=short((raw.command("tegrastats") or "").partition("\n")[0] or None, 500),
        load_average=_load_average(raw),
        busy_cores=None if earlier is None else busy_cores(parse_load(earlier), parse_load(raw)),
    )


CPU = "/sys/devices/system/cpu/cpu"


def short(text: str | None, limit: int = _LONGEST) -> str | None:
    """One line, not endless."""
    return None if text is None else " ".join(text.split())[:limit] or None


def number(text: str | None) -> int | None:
    """A whole number that is not negative."""
    text = (text or "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def sysctl(raw: RawFacts, name: str) -> str | None:
    """A value of macOS's sysctl."""
    found = re.search(rf"^{re.escape(name)}: (.*)$", raw.command("sysctl") or "", re.MULTILINE)
    return found[1].strip() if found else None


def parse_load(raw: RawFacts) -> LoadReading:
    """All columns of /proc/stat but idle, iowait and the guests, which are counted as user already."""
    words = (raw.file("/proc/stat") or "").partition("\n")[0].split()
    busy_s = None
    if words[:1] == ["cpu"] and len(words) >= 9 and all(re.fullmatch(r"[0-9]{1,18}", w) for w in words[1:9]):
        user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
        busy_s = (user + nice + system + irq + softirq + steal) * JIFFIES_S
    return LoadReading(busy_s=busy_s, uptime_s=_first_float(raw.file("/proc/uptime")))


def busy_cores(before: LoadReading, after: LoadReading) -> float | None:
    """Cores kept busy between two readings."""
    if before.busy_s is None or after.busy_s is None or before.uptime_s is None or after.uptime_s is None:
        return None
    if after.uptime_s <= before.uptime_s:
        return None
    return round(max(0.0, after.busy_s - before.busy_s) / (after.uptime_s - before.uptime_s), 2)


def _board_model(raw: RawFacts) -> str | None:
    if tree := raw.file("/proc/device-tree/model"):
        return short(tree)
    vendor, product = raw.file("/sys/class/dmi/id/sys_vendor"), raw.file("/sys/class/dmi/id/product_name")
    return short(" ".join(text for text in (vendor, product) if text) or sysctl(raw, "hw.model"))


def _distribution(raw: RawFacts) -> str | None:
    if found := re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', raw.file("/etc/os-release") or "", re.MULTILINE):
        return short(found[1])
    versions = dict(re.findall(r"^(\w+):\s*(.+)$", raw.command("sw_vers") or "", re.MULTILINE))
    names = [versions[key] for key in ("ProductName", "ProductVersion") if key in versions]
    return short(" ".join(names) or None)


def _cores(raw: RawFacts) -> int | None:
    online = len(re.findall(r"^cpu\d+ ", raw.file("/proc/stat") or "", re.MULTILINE))
    return online or number(sysctl(raw, "hw.ncpu"))


def _frequencies(raw: RawFacts, suffix: str) -> tuple[int, ...]:
    found = [(path, number(text)) for path, text in raw.below(CPU, suffix)]
    # cpu10 comes after cpu9.
    ordered = sorted((len(path), path, khz) for path, khz in found if khz is not None)
    return tuple(1000 * khz for _, _, khz in ordered)


def _swap(raw: RawFacts) -> tuple[int | None, int | None]:
    memory = raw.file("/proc/meminfo")
    total, free = _kib(memory, "SwapTotal"), _kib(memory, "SwapFree")
    if total is not None and free is not None:
        return total, max(0, total - free)
    found = re.search(r"total = ([\d.]+)M\s+used = ([\d.]+)M", sysctl(raw, "vm.swapusage") or "")
    return (round(float(found[1]) * 2**20), round(float(found[2]) * 2**20)) if found else (None, None)


def _kib(text: str | None, key: str) -> int | None:
    found = re.search(rf"^{key}:\s+(\d{{1,15}}) kB$", text or "", re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def _word_after(text: str | None, key: str) -> int | None:
    found = re.search(rf"^{key} (\d{{1,18}})$", text or "", re.MULTILINE)
    return int(found[1]) if found else None


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(v for v in known if v is not None)


def _first_float(text: str | None) -> float | None:
    found = re.match(r"\d{1,15}(\.\d{1,9})?", text or "")
    return float(found[0]) if found else None


def _load_average(raw: RawFacts) -> float | None:
    if text := raw.file("/proc/loadavg"):
        return _first_float(text)
    return _first_float((sysctl(raw, "vm.loadavg") or "").lstrip("{ "))


def _power_mode(raw: RawFacts) -> str | None:
    found = re.search(r"NV Power Mode:\s*(.+)", raw.command("nvpmodel") or "")
    return found[1] if found else None
