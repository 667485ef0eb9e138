"""What a phantom is made of and how it is imaged, as a specification that a TOML file can hold."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np

from tomoscribe.engine.errors import ParameterError

__all__ = ["ImagingParameters", "PhantomParameters", "SampleParameters", "draw_parameters", "read_parameter_table"]


@dataclass(frozen=True)
class SampleParameters:
    """The sample.

    Attributes:
        thickness: mean thickness of the sample as a share of the volume's height in z, 0 to 1.
        thickness_variation: largest departure of either surface from its mean, as a share of the volume's height.
        microtubules: microtubules per µm² of the field of view.
        in_plane: share of microtubules that run within some 15° of the xy plane; the others point anywhere.
        ribosomes: ribosomes per µm³.
        single_membranes: closed single membranes (vesicles, tubules) per µm² of the field of view.
        single_sheets: single membranes that cross the whole field of view.
        double_membranes: closed double membranes (mitochondria, autophagosomes) per µm² of the field of view.
        double_sheets: double membranes that cross the whole field of view, as the nuclear envelope does.
        carbon_edge: chance that a carbon film with a round hole reaches into the field of view, 0 to 1.
        crowding: volume share of unlabelled proteins in the cytosol, 0 to 0.35.
        filaments: unlabelled thin filaments per µm² of the field of view.
        gold: gold beads per µm² of the field of view, on the surfaces of the sample.
    """

    thickness: float = 0.8
    thickness_variation: float = 0.08
    microtubules: float = 14.0
    in_plane: float = 0.7
    ribosomes: float = 4000.0
    single_membranes: float = 40.0
    single_sheets: float = 1.0
    double_membranes: float = 3.0
    double_sheets: float = 0.0
    carbon_edge: float = 1.0
    crowding: float = 0.12
    filaments: float = 20.0
    gold: float = 4.0


@dataclass(frozen=True)
class ImagingParameters:
    """The microscope, the tilt series and the reconstruction.

    Attributes:
        maximum_tilt: largest tilt angle on either side in degrees; the tilt axis is y.
        tilt_step: step between tilts in degrees.
        voltage: acceleration voltage in kV.
        defocus: underfocus in µm.
        spherical_aberration: in mm.
        amplitude_contrast: share of amplitude contrast, 0 to 1.
        phase_flip: whether the contrast transfer function's sign is corrected.
        signal_to_noise: variance of the signal over variance of the noise in the untilted image, over all the
            frequencies up to the image's Nyquist frequency.
        dose: total electron dose of the series in e/Å², spread evenly, in a dose-symmetric order.
        mean_free_path: inelastic mean free path of the sample in Å; unscattered signal falls with it as tilt grows.
        alignment_error: standard deviation of the shift that alignment left in each tilt, in Å.
        filter: ``ramp`` (weighted back-projection) or ``sirt`` (a ramp that is damped at high frequencies as a SIRT
            reconstruction of few iterations is).
        background: largest departure of a slow change of brightness that uneven ice and illumination leave, in
            standard deviations of the reconstruction.
        low_pass: where a Gaussian roll-off of the filter falls to 1/e, as a share of the Nyquist frequency.
    """

    maximum_tilt: float = 60.0
    tilt_step: float = 3.0
    voltage: float = 300.0
    defocus: float = 4.0
    spherical_aberration: float = 2.7
    amplitude_contrast: float = 0.08
    phase_flip: bool = True
    signal_to_noise: float = 0.3
    dose: float = 120.0
    mean_free_path: float = 3100.0
    alignment_error: float = 4.0
    background: float = 0.3
    filter: str = "ramp"
    low_pass: float = 0.9


@dataclass(frozen=True)
class PhantomParameters:
    """A whole phantom: the same parameters give the same phantom, bit for bit, on one machine.

    Attributes:
        shape: ``(z, y, x)`` in voxels, 8 to 2048 each.
        voxel_size: in Å, 5 to 40.
        seed: of everything that is drawn, 0 or more.
        sample: what is in it.
        imaging: how it was imaged.

    Raises:
        ParameterError: a value outside the range that its description states.
    """

    shape: tuple[int, int, int] = (64, 512, 512)
    voxel_size: float = 13.0
    seed: int = 0
    sample: SampleParameters = field(default_factory=SampleParameters)
    imaging: ImagingParameters = field(default_factory=ImagingParameters)

    def __post_init__(self) -> None:
        _demand(
            len(self.shape) == 3 and all(8 <= n <= 2048 for n in self.shape),
            "shape",
            "z, y, x of 8 to 2048",
            self.shape,
        )
        for part in (self, self.sample, self.imaging):
            for field_ in fields(part):
                value = getattr(part, field_.name)
                _demand(not isinstance(value, float) or math.isfinite(value), field_.name, "a finite number", value)
        _demand(self.seed >= 0, "seed", "0 or more", self.seed)
        _demand(5 <= self.voxel_size <= 40, "voxel_size", "5 to 40 Å", self.voxel_size)
        for name in ("thickness", "thickness_variation", "in_plane", "carbon_edge"):
            value = getattr(self.sample, name)
            _demand(0 <= value <= 1, f"sample.{name}", "0 to 1", value)
        for name in (
            "microtubules",
            "ribosomes",
            "single_membranes",
            "single_sheets",
            "double_membranes",
            "double_sheets",
            "filaments",
            "gold",
        ):
            value = getattr(self.sample, name)
            _demand(value >= 0, f"sample.{name}", "0 or more", value)
        _demand(0 <= self.sample.crowding <= 0.35, "sample.crowding", "0 to 0.35", self.sample.crowding)
        imaging = self.imaging
        _demand(
            0 < imaging.maximum_tilt <= 80, "imaging.maximum_tilt", "above 0, at most 80 degrees", imaging.maximum_tilt
        )
        _demand(
            0 < imaging.tilt_step <= imaging.maximum_tilt,
            "imaging.tilt_step",
            "above 0, at most maximum_tilt",
            imaging.tilt_step,
        )
        for name in ("voltage", "signal_to_noise", "mean_free_path", "low_pass"):
            _demand(getattr(imaging, name) > 0, f"imaging.{name}", "above 0", getattr(imaging, name))
        for name in ("defocus", "dose", "background", "alignment_error", "spherical_aberration"):
            _demand(getattr(imaging, name) >= 0, f"imaging.{name}", "0 or more", getattr(imaging, name))
        _demand(
            0 <= imaging.amplitude_contrast <= 1, "imaging.amplitude_contrast", "0 to 1", imaging.amplitude_contrast
        )
        _demand(imaging.filter in ("ramp", "sirt"), "imaging.filter", "'ramp' or 'sirt'", imaging.filter)

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as plain numbers, strings and lists."""
        return asdict(self)


Parameters = TypeVar("Parameters", SampleParameters, ImagingParameters, PhantomParameters)


def _demand(condition: bool, name: str, expected: str, found: object) -> None:
    if not condition:
        raise ParameterError(f"phantom parameter {name}: expected {expected}, found {found!r}")


def read_parameter_table(path: Path) -> dict[str, Any]:
    """Read a parameter file, TOML with the keys of `PhantomParameters` and the tables ``sample`` and ``imaging``.

    Raises:
        ParameterError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ParameterError(f"{path}: expected a readable TOML parameter file, found: {error}") from error


def draw_parameters(table: Mapping[str, Any], seed: int) -> PhantomParameters:
    """Make the parameters of one phantom from a table whose values may be ranges.

    Args:
        table: as `read_parameter_table` returns it. For a number, ``[low, high]`` draws one evenly between the two;
            for a string or a switch, a list draws one of its members. ``shape`` is always ``[z, y, x]``.
        seed: of the drawing and of the phantom, unless the table fixes ``seed``.

    Raises:
        ParameterError: a key that no parameter has, or a value of the wrong type or outside its range.
    """
    generator = np.random.default_rng([seed, 1])
    values = dict(table)
    sample = _draw_fields(SampleParameters(), values.pop("sample", {}), "sample.", generator)
    imaging = _draw_fields(ImagingParameters(), values.pop("imaging", {}), "imaging.", generator)
    shape = values.pop("shape", PhantomParameters.shape)
    if not isinstance(shape, list | tuple) or not all(isinstance(n, int) for n in shape):
        raise ParameterError(f"phantom parameter shape: expected [z, y, x], found {shape!r}")
    base = PhantomParameters(shape=tuple(shape), seed=seed, sample=sample, imaging=imaging)
    return _draw_fields(base, values, "", generator, allowed=("voxel_size", "seed"))


def _draw_fields(
    base: Parameters, table: object, prefix: str, generator: np.random.Generator, allowed: tuple[str, ...] | None = None
) -> Parameters:
    names = allowed or tuple(f.name for f in fields(base))
    if not isinstance(table, Mapping) or not set(table) <= set(names):
        unknown = sorted(set(table) - set(names)) if isinstance(table, Mapping) else table
        raise ParameterError(f"phantom parameters: no parameter {prefix}{unknown}; there are {', '.join(names)}")
    drawn: dict[str, Any] = {}
    # In the order of the fields, not of the file: two files that say the same give the same phantom.
    for name in names:
        if name in table:
            drawn[name] = _draw(table[name], getattr(base, name), prefix + name, generator)
    return replace(base, **drawn)


def _draw(value: object, default: object, name: str, generator: np.random.Generator) -> object:
    kind = type(default)
    if kind is float:
        if _is_number(value):
            return float(value)
        if isinstance(value, list) and len(value) == 2 and all(_is_number(v) for v in value) and value[0] <= value[1]:
            return float(generator.uniform(*value))
        raise ParameterError(f"phantom parameter {name}: expected a number or [low, high], found {value!r}")
    choices = value if isinstance(value, list) and value else [value]
    if not all(type(choice) is kind for choice in choices):
        raise ParameterError(f"phantom parameter {name}: expected {kind.__name__} or a list of them, found {value!r}")
    return choices[int(generator.integers(len(choices)))]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
