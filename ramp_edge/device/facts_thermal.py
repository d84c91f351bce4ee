"""How hot a board is, and whether it slows itself down for it."""

from __future__ import annotations

import re

from ramp_edge.device.raw_facts import RawFacts

_ZONES = "/sys/class/thermal/thermal_zone"
_COOLERS = "/sys/class/thermal/cooling_device"
_SLOWING = re.compile(r"cpufreq|devfreq|throttl|^processor$", re.IGNORECASE)
"""Cooling devices that slow something down; fans do not."""


def temperatures(raw: RawFacts) -> dict[str, float]:
    """Sensor -> degrees Celsius; readings that no board can have are left out."""
    found: dict[str, float] = {}
    for path, text in raw.below(_ZONES, "/temp"):
        zone = path.removesuffix("/temp")
        _put(found, f"{zone.rpartition('/')[2]} {raw.file(zone + '/type') or ''}".strip(), text, 1000)
    for path, text in raw.below("/sys/class/hwmon/", "_input"):
        folder, _, sensor = path.removesuffix("_input").rpartition("/")
        words = (
            folder.rpartition("/")[2],
            raw.file(folder + "/name"),
            raw.file(f"{folder}/{sensor}_label") or sensor,
        )
        _put(found, " ".join(word for word in words if word), text, 1000)
    if match := re.search(r"temp=(-?[\d.]+)'C", raw.command("measure_temp") or ""):
        _put(found, "vcgencmd", match[1], 1)
    return found


def _put(found: dict[str, float], name: str, text: str, divisor: int) -> None:
    if re.fullmatch(r"-?\d{1,9}(\.\d{1,6})?", text):
        value = float(text) / divisor
        if -60.0 < value < 200.0:
            found[name] = value


def throttle_flags(raw: RawFacts) -> int | None:
    """`throttled=0x50000` -> 0x50000."""
    match = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", raw.command("get_throttled") or "")
    return int(match[1], 16) if match else None


def throttle_events(raw: RawFacts) -> int | None:
    """Sum of the x86 counters."""
    counts = [text for _, text in raw.below("/sys/devices/system/cpu/cpu", "_throttle_count") if text.isdecimal()]
    return sum(int(text[:18]) for text in counts) if counts else None


def thermal_caps(raw: RawFacts) -> tuple[str, ...]:
    """What slows something down now, in the board's own words."""
    caps = []
    for path, text in raw.below(_COOLERS, "/type"):
        state = raw.file(path.removesuffix("/type") + "/cur_state") or ""
        if _SLOWING.search(text) and state.isdecimal() and int(state[:9]) > 0:
            caps.append(f"{text} at step {state[:9]}")
    speed = re.search(r"CPU_Speed_Limit\s*=\s*(\d{1,3})\b", raw.command("pmset") or "")
    if speed and int(speed[1]) < 100:
        caps.append(f"CPU_Speed_Limit {speed[1]} %")
    pressure = re.search(r"pressure level:\s*(\w+)", raw.command("powermetrics") or "")
    if pressure and pressure[1] != "Nominal":
        caps.append(f"thermal pressure {pressure[1]}")
    return tuple(caps)
