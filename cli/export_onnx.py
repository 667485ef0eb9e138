"""What the options of ``tomoscribe export --from-onnx`` say of a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tomoscribe.export.foreign_description import ForeignDescription

__all__ = ["describe"]


def describe(file: Path, options: Mapping[str, Any]) -> ForeignDescription:
    """Return the description of a network from the command's options, None where one was not given.

    Args:
        file: the ONNX file, whose name is the model's by default.
        options: by the names of the description's attributes; channels and voxel sizes as they were typed.

    Raises:
        ParameterError: the channels or the voxel size are missing, or a value cannot be.
    """
    from tomoscribe.engine.errors import ParameterError
    from tomoscribe.export.foreign_description import ForeignDescription

    given = {name: value for name, value in options.items() if value is not None}
    for name, option, example in (
        ("channels", "--classes", "background,ribosome,membrane"),
        ("voxel_size", "--voxel-size", "10,15"),
    ):
        if name not in given:
            raise ParameterError(f"{option}: expected it with --from-onnx, found nothing; add {option} {example}")
    channels = tuple(channel.strip() for channel in given.pop("channels").split(","))
    voxel_size = _parse_voxel_size(given.pop("voxel_size"))
    return ForeignDescription(**{"name": file.stem, **given}, channels=channels, voxel_size=voxel_size)


def _parse_voxel_size(text: str) -> tuple[float, float]:
    from tomoscribe.engine.errors import ParameterError

    try:
        smallest, *others = (float(number) for number in text.split(","))
        (largest,) = others or [smallest]
    except ValueError as error:
        raise ParameterError(f"--voxel-size: expected Å as in 13.5 or 10,15, found {text!r}") from error
    return smallest, largest
