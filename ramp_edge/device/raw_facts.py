"""What is read on a board to learn what it is: file patterns and commands, and their contents as they came.

Both agents bring this home unread; `facts_parse.py` says what it means, so that a board with Python and one without it are
described by the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

LOAD_FILES = ("/proc/stat", "/proc/uptime")
"""Read twice, `LOAD_WINDOW_S` apart."""
LOAD_WINDOW_S = 1.0
_CPU = "/sys/devices/system/cpu/cpu[0-9]*/"
_THERMAL = "/sys/class/thermal/"
FILES = (
    *LOAD_FILES,
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/vmstat",
    "/proc/device-tree/model",
    "/proc/device-tree/compatible",
    "/sys/class/dmi/id/sys_vendor",
    "/sys/class/dmi/id/product_name",
    "/etc/os-release",
    _CPU + "cpufreq/scaling_governor",
    _CPU + "cpufreq/scaling_cur_freq",
    _CPU + "cpufreq/cpuinfo_max_freq",
    _CPU + "thermal_throttle/*_throttle_count",
    _THERMAL + "thermal_zone*/type",
    _THERMAL + "thermal_zone*/temp",
    _THERMAL + "cooling_device*/type",
    _THERMAL + "cooling_device*/cur_state",
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/temp*_label",
    "/sys/class/hwmon/hwmon*/temp*_input",
)
"""Patterns of a POSIX shell; none has a space in it."""
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "system": ("uname", "-s"),
    "machine": ("uname", "-m"),
    "kernel": ("uname", "-r"),
    "nproc": ("nproc",),
    "lscpu": ("env", "LC_ALL=C", "lscpu"),
    "get_throttled": ("vcgencmd", "get_throttled"),
    "measure_temp": ("vcgencmd", "measure_temp"),
    "nvpmodel": ("nvpmodel", "-q"),
    "tegrastats": ("timeout", "2", "tegrastats", "--interval", "1000"),
    "nvidia_smi": ("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"),
    "sysctl": ("sysctl", "hw", "machdep.cpu", "vm.loadavg", "vm.swapusage"),
    "sw_vers": ("sw_vers",),
    "pmset": ("pmset", "-g", "therm"),
    "powermetrics": ("powermetrics", "-n", "1", "-i", "100", "--samplers", "thermal"),
}
_LINUX_ONLY = ("nproc", "lscpu", "get_throttled", "measure_temp", "nvpmodel", "tegrastats")
_DARWIN_ONLY = ("sysctl", "sw_vers", "pmset", "powermetrics")


def commands_for(system: str | None) -> dict[str, tuple[str, ...]]:
    """The commands worth trying there."""
    skipped = _DARWIN_ONLY if system == "Linux" else _LINUX_ONLY if system == "Darwin" else ()
    return {name: argv for name, argv in COMMANDS.items() if name not in skipped}


@dataclass(frozen=True, kw_only=True, slots=True)
class RawFacts:
    """What was read."""

    files: dict[str, str]
    """Path -> contents, those that could be read."""
    commands: dict[str, str]
    """Name -> output, those that exist there and succeeded."""

    def file(self, path: str) -> str | None:
        """Contents without blanks and NULs around them; None where there is nothing."""
        return clean(self.files.get(path))

    def command(self, name: str) -> str | None:
        """Output without blanks around it; None where there is nothing."""
        return clean(self.commands.get(name))

    def below(self, prefix: str, suffix: str) -> Iterator[tuple[str, str]]:
        """(path, contents) of the files that begin and end so, in order."""
        for path in sorted(self.files):
            if path.startswith(prefix) and path.endswith(suffix) and (text := self.file(path)):
                yield path, text


def clean(text: str | None) -> str | None:
    """Device-tree strings end in a NUL; whatever cannot be printed becomes a blank, line ends aside."""
    if text is None:
        return None
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text).strip() or None
