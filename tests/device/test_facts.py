"""What readings of boards mean. The texts follow the documented formats; one from this machine is in test_agent_client."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ramp_edge.device.facts import BoardFacts, LoadReading
from ramp_edge.device.facts_parse import busy_cores, parse_facts, parse_load
from ramp_edge.device.raw_facts import COMMANDS, FILES, RawFacts, commands_for

CPU = "/sys/devices/system/cpu"
PI5 = RawFacts(
    files={
        "/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "/proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
        "/proc/cpuinfo": "".join(
            f"processor\t: {i}\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n"
            "CPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\n"
            for i in range(4)
        ),
        "/proc/meminfo": "MemTotal:        8255000 kB\nMemAvailable:    7000000 kB\nSwapTotal:        102396 kB\nSwapFree:         102000 kB\n",
        "/proc/loadavg": "0.08 0.03 0.01 1/150 1234\n",
        "/proc/stat": "cpu  1000 10 500 90000 50 5 15 0 0 0\ncpu0 1 1\ncpu1 1 1\ncpu2 1 1\ncpu3 1 1\nintr 5\n",
        "/proc/uptime": "250.00 900.00\n",
        "/proc/vmstat": "nr_free_pages 5\npswpin 10\npswpout 30\n",
        "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian"\n',
        **{f"{CPU}/cpu{i}/cpufreq/scaling_governor": "ondemand\n" for i in range(4)},
        **{f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": f"{1500 + i}000\n" for i in range(4)},
        **{f"{CPU}/cpu{i}/cpufreq/cpuinfo_max_freq": "2400000\n" for i in range(4)},
        "/sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "/sys/class/thermal/thermal_zone0/temp": "48450\n",
        "/sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "/sys/class/thermal/cooling_device0/cur_state": "2\n",
        "/sys/class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
        "/sys/class/thermal/cooling_device1/cur_state": "0\n",
    },
    commands={
        "system": "Linux\n",
        "machine": "aarch64\n",
        "kernel": "6.6.31+rpt-rpi-2712\n",
        "nproc": "4\n",
        "lscpu": "Architecture: aarch64\nVendor ID: ARM\nModel name: Cortex-A76\nModel: 1\n",
        "get_throttled": "throttled=0x50000\n",
        "measure_temp": "temp=48.3'C\n",
    },
)
JETSON = RawFacts(
    files={
        "/proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "/proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
        "/proc/cpuinfo": "Features\t: fp asimd asimddp asimdhp\n",
        "/sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "/sys/class/thermal/thermal_zone1/temp": "-256000\n",
        "/sys/class/thermal/cooling_device3/type": "cpu-throttle-alert\n",
        "/sys/class/thermal/cooling_device3/cur_state": "1\n",
    },
    commands={
        "nvpmodel": "NV Power Mode: 25W\n1\n",
        "tegrastats": "11-26-2026 07:00:00 RAM 2400/7620MB CPU [1%@729] VDD_IN 4500mW/4500mW\n11-26-2026\n",
    },
)
MAC = RawFacts(
    files={},
    commands={
        "system": "Darwin",
        "machine": "arm64",
        "sysctl": "hw.model: Mac14,2\nhw.memsize: 8589934592\nhw.ncpu: 8\nmachdep.cpu.brand_string: Apple M2\n"
        "hw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 1\nhw.optional.arm.FEAT_SME: 0\n"
        "vm.loadavg: { 1.52 1.30 1.20 }\nvm.swapusage: total = 2048.00M  used = 512.50M  free = 1535.50M  (encrypted)\n",
        "sw_vers": "ProductName:\t\tmacOS\nProductVersion:\t\t14.5\nBuildVersion:\t\t23F79\n",
        "pmset": "Note: No thermal warning level has been recorded\nCPU_Speed_Limit \t= 80\n",
        "powermetrics": "**** Thermal pressure ****\n\nCurrent pressure level: Moderate\n",
    },
)
EMPTY = RawFacts(files={}, commands={})


def test_a_raspberry_pi() -> None:
    facts = parse_facts(PI5)
    assert facts == BoardFacts(
        system="Linux",
        machine="aarch64",
        kernel="6.6.31+rpt-rpi-2712",
        distribution="Debian GNU/Linux 12 (bookworm)",
        board_model="Raspberry Pi 5 Model B Rev 1.0",
        cpu_model="Cortex-A76",
        gpu_model=None,
        isa=("dotprod", "fp16", "neon"),
        cores=4,
        usable_cores=4,
        memory_total_bytes=8255000 * 1024,
        memory_available_bytes=7000000 * 1024,
        swap_total_bytes=102396 * 1024,
        swap_used_bytes=396 * 1024,
        swapped_pages=40,
        governors=("ondemand",),
        cpu_hz=(1_500_000_000, 1_501_000_000, 1_502_000_000, 1_503_000_000),
        cpu_max_hz=(2_400_000_000,) * 4,
        temperatures_c={"thermal_zone0 cpu-thermal": 48.45, "vcgencmd": 48.3},
        throttle_flags=0x50000,
        throttle_events=None,
        thermal_caps=(),
        power_mode=None,
        tegrastats=None,
        load_average=0.08,
        busy_cores=None,
    )
    assert facts.throttled_now is None
    assert replace(facts, throttle_flags=0x50005).throttled_now == "under-voltage, throttled"


def test_a_jetson() -> None:
    facts = parse_facts(JETSON)
    assert facts.board_model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert facts.isa == ("dotprod", "fp16", "neon", "sm_87")
    assert facts.power_mode == "25W"
    assert facts.tegrastats is not None and facts.tegrastats.endswith("VDD_IN 4500mW/4500mW")
    assert facts.temperatures_c == {}  # no board is that cold
    assert facts.throttled_now == "cpu-throttle-alert at step 1"


def test_a_mac() -> None:
    facts = parse_facts(MAC)
    assert (facts.board_model, facts.cpu_model, facts.distribution) == ("Mac14,2", "Apple M2", "macOS 14.5")
    assert facts.isa == ("dotprod", "i8mm", "neon")
    assert (facts.cores, facts.memory_total_bytes, facts.load_average) == (8, 8 << 30, 1.52)
    assert (facts.swap_total_bytes, facts.swap_used_bytes) == (2 << 30, 537_395_200)
    assert facts.thermal_caps == ("CPU_Speed_Limit 80 %", "thermal pressure Moderate")


def test_an_x86_machine() -> None:
    raw = RawFacts(
        files={
            "/proc/cpuinfo": "model name\t: Intel(R) N150\nflags\t\t: fpu avx avx2 fma f16c\n\nmodel name\t: Intel(R) N150\n"
            "flags\t\t: fpu avx avx2 fma f16c avx512f\n",
            "/sys/class/dmi/id/sys_vendor": "ACME\n",
            "/sys/class/dmi/id/product_name": "Box 3\n",
            f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n",
            f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "4\n",
            "/sys/class/hwmon/hwmon0/name": "coretemp\n",
            "/sys/class/hwmon/hwmon0/temp1_input": "51000\n",
            "/sys/class/hwmon/hwmon0/temp1_label": "Package id 0\n",
            "/sys/class/hwmon/hwmon0/temp2_input": "50000\n",
        },
        commands={"nvidia_smi": "NVIDIA GeForce RTX 3060, 8.6\n", "lscpu": "Model name: -\n"},
    )
    facts = parse_facts(raw)
    assert (facts.board_model, facts.cpu_model, facts.gpu_model) == (
        "ACME Box 3",
        "Intel(R) N150",
        "NVIDIA GeForce RTX 3060",
    )
    # What only some cores can do is of no use.
    assert facts.isa == ("avx", "avx2", "f16c", "fma", "sm_86")
    assert facts.throttle_events == 7
    assert facts.temperatures_c == {"hwmon0 coretemp Package id 0": 51.0, "hwmon0 coretemp temp2": 50.0}


def test_an_arm_core_that_lscpu_does_not_know() -> None:
    raw = RawFacts(files={"/proc/cpuinfo": "CPU implementer\t: 0x41\nCPU part\t: 0xd03\n" * 4}, commands={})
    assert parse_facts(raw).cpu_model == "implementer 0x41 part 0xd03"


def test_nothing_is_invented() -> None:
    facts = parse_facts(EMPTY, EMPTY)
    values = [getattr(facts, name) for name in facts.__dataclass_fields__]
    assert all(value in (None, (), {}) for value in values)
    assert facts.throttled_now is None


def test_cores_kept_busy() -> None:
    before = parse_load(PI5)
    assert before == LoadReading(busy_s=15.3, uptime_s=250.0)
    assert busy_cores(before, LoadReading(busy_s=18.3, uptime_s=252.0)) == 1.5
    assert busy_cores(before, LoadReading(busy_s=15.2, uptime_s=252.0)) == 0.0
    assert busy_cores(before, before) is None
    assert busy_cores(before, LoadReading(busy_s=None, uptime_s=252.0)) is None


def test_each_system_is_asked_what_it_knows() -> None:
    assert "vcgencmd" not in {argv[0] for argv in commands_for("Darwin").values()}
    assert "sysctl" not in {argv[0] for argv in commands_for("Linux").values()}
    assert commands_for(None) == COMMANDS
    assert all(" " not in pattern for pattern in FILES)


texts = st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda b: b.decode("utf-8", "replace")))
numbers = st.one_of(texts, st.integers(-(10**20), 10**20).map(str))
KNOWN = sorted(
    {
        *PI5.files,
        *JETSON.files,
        f"{CPU}/cpu9/thermal_throttle/core_throttle_count",
        "/sys/class/hwmon/hwmon0/temp1_input",
    }
)


@given(
    st.dictionaries(st.sampled_from(KNOWN), st.one_of(texts, numbers)),
    st.dictionaries(st.sampled_from(sorted(COMMANDS)), texts),
)
def test_any_reading_gives_facts(files: dict[str, str], commands: dict[str, str]) -> None:
    raw = RawFacts(files=files, commands=commands)
    facts = parse_facts(raw, raw)
    for text in (facts.board_model, facts.kernel, facts.cpu_model, facts.distribution, *facts.thermal_caps):
        assert text is None or (text.isprintable() and len(text) <= 220)


@given(st.sampled_from(sorted(PI5.files)), st.integers(0, 3000), texts)
def test_damaged_readings_of_a_real_board(path: str, at: int, junk: str) -> None:
    whole = PI5.files[path]
    at %= len(whole)
    damaged = RawFacts(files={**PI5.files, path: whole[:at] + junk + whole[at + 1 :]}, commands=PI5.commands)
    assert parse_facts(damaged).machine == "aarch64"
