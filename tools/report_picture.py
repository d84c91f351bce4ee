#!/usr/bin/env python3
"""Photograph the top of a report for the README, in Chromium, as its readers see it.

python tools/report_picture.py out/report.html -o docs/report.webp
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


def photograph(report: Path, *, width: int, height: int, scale: float, theme: str, chromium: str) -> bytes:
    """A PNG of the page's upper part."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(
            viewport={"width": width, "height": height}, device_scale_factor=scale, color_scheme=theme
        )
        page.goto(report.resolve().as_uri())
        data: bytes = page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})
        browser.close()
    return data


def main(argv: list[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="a report.html")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .webp or .png file")
    parser.add_argument("--width", type=int, default=1120)
    parser.add_argument("--height", type=int, default=1480)
    parser.add_argument("--scale", type=float, default=1.5, help="pixels per CSS pixel")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args(argv)
    if options.chromium is None:
        print("no chromium here: apt-get install chromium, or --chromium PATH", file=sys.stderr)
        return 1
    from PIL import Image

    data = photograph(
        options.report, width=options.width, height=options.height, scale=options.scale, theme=options.theme,
        chromium=options.chromium,
    )  # fmt: skip
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    if options.output.suffix == ".webp":
        picture.save(options.output, lossless=True, quality=100, method=6)
    else:
        picture.quantize(256).save(options.output, optimize=True)
    print(f"{options.output}: {picture.width} x {picture.height}, {options.output.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
