"""The places where a detector keeps its calibrations: the header of its file, and a tag of its registered version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline import tracking
from pipeline.detector.header import copy_with_metadata, read_header
from pipeline.errors import InputError
from pipeline.evaluation.calibration import METADATA_KEY, TAG, Calibration, with_calibration
from pipeline.storage import Folder


@dataclass(frozen=True)
class CalibrationTarget:
    """A detector with its places for calibrations."""

    file: str
    """Location of its safetensors file; empty if that is an artifact of MLflow."""
    version: tracking.Version | None
    tracking_uri: str

    @classmethod
    def find(cls, uri: str, tracking_uri: str) -> CalibrationTarget:
        """Find a detector file or a registered version.

        Raises:
            InputError: no such version is registered, or the server does not respond.
        """
        if uri.startswith("s3://"):
            return cls(uri, None, tracking_uri)
        if not uri.startswith("models:"):
            return cls(str(Path(uri).resolve()), None, tracking_uri)  # a link stays a link
        version = tracking.find_version(tracking_uri, uri)
        source = version.source.removeprefix("file://")
        return cls(source if source.startswith(("s3://", "/")) else "", version, tracking_uri)

    def check(self, calibration: Calibration) -> None:
        """Check that a calibration can be stored with the detector, before anything is written.

        Raises:
            InputError: the detector has other weights, or its file cannot be used.
        """
        if self.version is not None:
            _check_weights(self.version.uri, self.version.digest, calibration)
            tracking.check_tag(self.version, TAG, self._tag(calibration))
        if self.file:
            self._metadata(calibration)

    def store(self, calibration: Calibration) -> Iterator[str]:
        """Store a calibration in every place of the detector, beside those for other windows and precisions.

        Yields:
            Where it is stored now, one line each.

        Raises:
            InputError: a place cannot be written.
        """
        if self.file:
            old, new = self._metadata(calibration)
            if new != old:
                _write_metadata(self.file, new)
            yield f"stored in the metadata of {self.file}"
        if self.version is not None:
            text = self._tag(calibration)
            if text != self.version.tags.get(TAG):
                tracking.set_version_tag(self.tracking_uri, self.version, TAG, text)
            yield f"stored in the tag {TAG} of {self.version.uri}"

    def _tag(self, calibration: Calibration) -> str:
        assert self.version is not None
        return with_calibration(self.version.tags.get(TAG), calibration, f"tag {TAG} of {self.version.uri}")

    def _metadata(self, calibration: Calibration) -> tuple[str | None, str]:
        """The calibrations in the file of the detector: as they are, and with another one."""
        folder, name = Folder.of_file(self.file)
        try:
            header = read_header(lambda start, end: folder.read(name, start, end))
            num_bytes = folder.info(name).size
        except FileNotFoundError as error:
            raise InputError(f"{self.file}: no such detector") from error
        except InputError:
            raise  # a kind of ValueError
        except ValueError as error:
            raise InputError(
                f"{self.file}: not a safetensors file ({error}); without --detector, give the calibration to "
                "`bonafide score --calibration`"
            ) from error
        if num_bytes != header.num_bytes:
            raise InputError(
                f"{self.file}: damaged: {num_bytes} bytes instead of {header.num_bytes}; copy the file again"
            )
        _check_weights(self.file, header.metadata.get("digest"), calibration)
        stored = header.metadata.get(METADATA_KEY)
        return stored, with_calibration(stored, calibration, f"metadata of {self.file}")


def _check_weights(detector: str, digest: str | None, calibration: Calibration) -> None:
    if digest is None:
        raise InputError(
            f"{detector}: does not state the digest of its weights, so the calibration cannot be stored with it; "
            "give its file to `bonafide score --calibration`"
        )
    if digest != calibration.weights_digest:
        raise InputError(
            f"{detector}: has the weights {digest[:12]}, and the scores are of {calibration.weights_digest[:12]}; "
            "name the detector that was scored"
        )


def _write_metadata(location: str, text: str) -> None:
    """Replace the calibrations in the header of a safetensors file; readers see the old file or the new one."""
    folder, name = Folder.of_file(location)
    before = folder.info(name)
    with folder.open(name, before.size) as source, folder.staged(name) as target:
        copy_with_metadata(source, target, {METADATA_KEY: text})
        if folder.info(name).version != before.version:
            raise InputError(f"{location}: was replaced while it was copied; run the same command again")
