"""Where the data files that travel with the package lie: inside the wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE_DIR = Path(__file__).resolve().parent


def shipped_dir(name: str) -> Path:
    """The folder `device_profiles` or `runtimes`, wherever this installation keeps it."""
    for base in (_PACKAGE_DIR / "_shipped", _PACKAGE_DIR.parent):
        if (base / name).is_dir():
            return base / name
    raise FileNotFoundError(f"this installation of ramp-edge lacks its {name} folder")


def cache_dir() -> Path:
    """The user's cache folder, `RAMP_EDGE_CACHE` or the platform's own."""
    import os

    import platformdirs

    override = os.environ.get("RAMP_EDGE_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("ramp-edge"))


def config_dir() -> Path:
    """The user's configuration folder, `RAMP_EDGE_CONFIG` or the platform's own."""
    import os

    import platformdirs

    override = os.environ.get("RAMP_EDGE_CONFIG")
    return Path(override) if override else Path(platformdirs.user_config_dir("ramp-edge"))
