"""What is known about a board at one moment. What the board does not tell is None, never a guess."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReading:
    """How busy a board has been since its start; two of them tell how busy it was in between."""

    busy_s: float | None
    """Core seconds used by everything, steal by other virtual machines included."""
    uptime_s: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardFacts:
    """A board at one moment."""

    system: str | None
    """Linux, Darwin, ..."""
    machine: str | None
    """x86_64, aarch64, arm64, ..."""
    kernel: str | None
    distribution: str | None
    board_model: str | None
    cpu_model: str | None
    gpu_model: str | None
    isa: tuple[str, ...]
    """What decides llama.cpp's kernels, in the profiles' words: neon, dotprod, i8mm, avx2, avx512, sm_87, ..."""
    cores: int | None
    """Logical processors that are online."""
    usable_cores: int | None
    """Those that our processes may run on."""
    memory_total_bytes: int | None
    memory_available_bytes: int | None
    swap_total_bytes: int | None
    swap_used_bytes: int | None
    swapped_pages: int | None
    """Pages swapped in and out since the start of the system."""
    governors: tuple[str, ...]
    """Those in force, each once."""
    cpu_hz: tuple[int, ...]
    """Frequency of each core now."""
    cpu_max_hz: tuple[int, ...]
    temperatures_c: dict[str, float] = field(default_factory=dict)
    """Sensor -> degrees Celsius."""
    throttle_flags: int | None
    """Raspberry Pi's `get_throttled`: bits 0-3 are true now, bits 16-19 have been since the start."""
    throttle_events: int | None
    """Times that an x86 processor was slowed for its heat, summed over cores, since the start."""
    thermal_caps: tuple[str, ...]
    """Cooling devices that slow something down now."""
    power_mode: str | None
    """Jetson's `nvpmodel`."""
    tegrastats: str | None
    """One line of Jetson's own summary."""
    load_average: float | None
    """Over the last minute."""
    busy_cores: float | None
    """Cores kept busy by everything together, over one second before the other facts were read."""

    @property
    def throttled_now(self) -> str | None:
        """Why the board is slowed down at this moment, or None."""
        if self.throttle_flags is not None and self.throttle_flags & 0xF:
            said = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
            return ", ".join(text for bit, text in enumerate(said) if self.throttle_flags >> bit & 1)
        return "; ".join(self.thermal_caps) or None
