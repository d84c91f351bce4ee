"""What of a build goes to a board."""

from __future__ import annotations

from pathlib import Path

from ramp_edge.device.release import LocalFile
from ramp_edge.errors import ArtifactMismatchError, UsageError
from ramp_edge.pipeline.output_folder import MODEL_FILE, RECORD_FILE
from ramp_edge.pipeline.record import read_record
from ramp_edge.profile.load import load_target
from ramp_edge.records import DeviceTarget


def files_of_build(output: Path) -> dict[str, LocalFile]:
    """The model and its record, by the names that they have on the board.

    Raises UsageError where the folder holds no build, ArtifactMismatchError where the model is not the one that was built.
    """
    record_path = output / RECORD_FILE
    if not record_path.is_file():
        raise UsageError(
            f"{output} holds no build: there is no {RECORD_FILE}", hint="give a folder that `ramp-edge build` wrote"
        )
    record = read_record(record_path)
    name, sha256 = record.get("file_name"), record.get("file_sha256")
    if not isinstance(name, str) or not isinstance(sha256, str) or Path(name).name != name:
        raise UsageError(f"{record_path} is the record of a dry run: there is no model", hint="build without --dry-run")
    model = LocalFile.of(output / name)
    if model.sha256 != sha256:
        raise ArtifactMismatchError(
            f"{model.path} is not the file that was built: sha256 {model.sha256[:16]}..., "
            f"and {RECORD_FILE} says {sha256[:16]}...",
            hint="build again, or deploy a folder as `ramp-edge build` left it",
        )
    return {MODEL_FILE: model, RECORD_FILE: LocalFile.of(record_path)}


def device_of_build(output: Path) -> DeviceTarget:
    """The device that a build was made for, by the profile that its record names. Raises ProfileError where that is gone."""
    device = read_record(output / RECORD_FILE).get("device")
    if not isinstance(device, dict) or "profile_path" not in device:
        raise UsageError(
            f"{output / RECORD_FILE} names no device",
            hint="give the target a profile in targets.yaml, or --runtime none",
        )
    path = Path(str(device["profile_path"]))
    return load_target(str(path)) if path.is_file() else load_target(str(device.get("name")))
