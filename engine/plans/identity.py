"""What a TensorRT plan was built for.

A plan runs on the kind of GPU and the version of TensorRT that built it, and TensorRT has no call that says beforehand
whether it will; the identity is compared before TensorRT sees a byte. TensorRT is not needed for anything here.
"""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BundleError, ParameterError

if TYPE_CHECKING:
    from tomoscribe.engine.cuda import DeviceFacts

__all__ = [
    "PLANS",
    "DeviceIdentity",
    "PlanError",
    "PlanIdentity",
    "PlanMismatchError",
    "PlanShapes",
    "plan_path",
    "rebuild_command",
]

PLANS = "plans"
"""The folder of a bundle, or of the user's cache, that plans are in."""


class PlanError(BundleError):
    """A plan that cannot be built or loaded.

    Attributes:
        reason: the message, but for what to do about it.
    """

    exit_status = 1

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


class PlanMismatchError(PlanError):
    """A plan that was built for something else than what it is loaded for.

    Attributes:
        plan: the plan's file.
        field: what differs, such as ``device.name``.
        expected: what it is here and now.
        found: what the plan was built for.
        command: what builds the plan again.
    """

    exit_status = 2

    def __init__(self, plan: Path, field: str, expected: object, found: object, command: str) -> None:
        super().__init__(f"{plan}: {field}: expected {expected}, found {found}", f"build it again with: {command}")
        self.plan, self.field, self.expected, self.found, self.command = plan, field, expected, found, command


@dataclass(frozen=True)
class DeviceIdentity:
    """The kind of a GPU.

    Attributes:
        name: as the driver gives it, such as ``NVIDIA H200``.
        compute_capability: such as ``9.0``.
        multiprocessors: streaming multiprocessors.
        memory: GiB, rounded: how many bytes the driver keeps for itself differs from version to version.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    memory: int

    @classmethod
    def of(cls, facts: DeviceFacts) -> Self:
        """Return the kind of a GPU that is here."""
        return cls(facts.name, facts.compute_capability, facts.multiprocessors, round(facts.memory / 2**30))

    @property
    def slug(self) -> str:
        """The name as it stands in file names: lower case, words joined by hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "gpu"


@dataclass(frozen=True)
class PlanShapes:
    """The sizes that a plan takes: tiles of one size, from one slice up to a full batch.

    Attributes:
        batch: slices that are labelled at once, at most.
        height: rows of a tile in pixels.
        width: columns of a tile in pixels.

    Raises:
        ParameterError: a size below 1.
    """

    batch: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.batch, self.height, self.width) < 1:
            raise ParameterError(f"plan: expected a batch and tiles of at least 1, found {self}")

    @property
    def pixels(self) -> int:
        """Pixels of a full batch."""
        return self.batch * self.height * self.width

    def inputs(self, count: int, context: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the graph contract's inputs where `count` slices are labelled."""
        slices = count + 2 * context
        return {"slices": (slices, self.height, self.width), "mean": (slices,), "rstd": (slices,)}

    def outputs(self, count: int, classes: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the graph contract's outputs where `count` slices are labelled."""
        tile = self.height, self.width
        return {"labels": (count, *tile), "scores": (count, classes, *tile)}

    def __str__(self) -> str:
        return f"{self.batch}x{self.height}x{self.width}"


@dataclass(frozen=True)
class PlanIdentity:
    """All that a plan was built for.

    Attributes:
        artifact: sha256 of the ONNX file; a bundle's networks hold their weights themselves.
        precision: key of the artifact in the bundle.
        shapes: the sizes that it takes.
        context: context slices on each side, k.
        classes: classes with background.
        tensorrt: version, such as ``10.16.1.11``.
        system: operating system and processor, such as ``linux-x86_64``.
        device: the kind of GPU.
    """

    artifact: str
    precision: str
    shapes: PlanShapes
    context: int
    classes: int
    tensorrt: str
    system: str
    device: DeviceIdentity

    @classmethod
    def here(cls, bundle: Bundle, precision: str, shapes: PlanShapes, tensorrt: str, device: DeviceIdentity) -> Self:
        """Return the identity that a plan has to have to be used here.

        Args:
            bundle: the model.
            precision: the artifact that the plan is built from.
            shapes: the sizes that it has to take.
            tensorrt: the version that is installed.
            device: the GPU that it has to run on.

        Raises:
            BundleError: the bundle has no such artifact, or the file was altered.
        """
        bundle.artifact_path(precision)
        specification = bundle.specification
        return cls(
            artifact=bundle.artifacts[precision].sha256,
            precision=precision,
            shapes=shapes,
            context=specification.context,
            classes=specification.classes,
            tensorrt=tensorrt,
            system=f"{sys.platform}-{platform.machine().lower()}",
            device=device,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the identity as it stands beside the plan."""
        return asdict(self)

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ParameterError: a key is missing or unknown, or a value of the wrong kind.
        """
        try:
            shapes, device = PlanShapes(**entries["shapes"]), DeviceIdentity(**entries["device"])
            return cls(**{**entries, "shapes": shapes, "device": device})
        except KeyError as error:
            raise ParameterError(f"identity: expected the key {error}, which is missing") from error
        except TypeError as error:
            raise ParameterError(f"identity: a key or a value of the wrong kind ({error})") from error

    def check(self, found: PlanIdentity, plan: Path) -> None:
        """Compare with the identity of a plan that is there.

        Raises:
            PlanMismatchError: they differ; it names the first field that does.
        """
        here, there = _flat(self.to_json()), _flat(found.to_json())
        for key, expected in here.items():
            if there[key] != expected:
                command = rebuild_command(plan.parent.parent, self)
                raise PlanMismatchError(plan, key, expected, there[key], command)


def plan_path(folder: Path, identity: PlanIdentity) -> Path:
    """Return where the plan of an identity is in a bundle's folder, or in one that serves as such."""
    device, version = identity.device.slug, identity.tensorrt
    return folder / PLANS / f"{device}-trt{version}-{identity.precision}-{identity.shapes}.plan"


def rebuild_command(bundle: Path, identity: PlanIdentity) -> str:
    """Return the command that builds a bundle's plan again, for the GPU and the TensorRT that are here."""
    size = f"{identity.shapes.height}x{identity.shapes.width}"
    return (
        f"tomoscribe export {shlex.quote(str(bundle))} --tensorrt --precision {identity.precision} --slice-size {size}"
    )


def _flat(entries: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in entries.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
