"""What is installed of the packages that tomoscribe's parts need, and the command that installs the rest."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.markers import Marker
    from packaging.specifiers import SpecifierSet

__all__ = ["Package", "Part", "builds_of", "install_command", "installed_version", "read_parts", "replace_command"]

_NAME = "tomoscribe"
# Builds of ONNX Runtime that bring the same import name and do what the plain one does.
_STAND_INS = {"onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino")}


@dataclass(frozen=True)
class Package:
    """A package that a part needs.

    Attributes:
        name: as it is installed: a stand-in has its own.
        wanted: versions that do, such as ``>=2.6,<2.14``; empty where any does.
        found: the version that is installed; None where none is.
        fits: whether it is there in a version that does.
    """

    name: str
    wanted: str
    found: str | None
    fits: bool


@dataclass(frozen=True)
class Part:
    """An extra of tomoscribe, or with an empty name what every installation has, and the packages that it needs."""

    name: str
    packages: tuple[Package, ...]

    @property
    def missing(self) -> tuple[Package, ...]:
        """The packages that are not installed, or in a version that does not do."""
        return tuple(package for package in self.packages if not package.fits)


def read_parts() -> list[Part]:
    """Return what every installation needs, and then what each extra needs, as the package's own metadata has it.

    Extras that gather others, as that of the developers does, are left out.
    """
    from packaging.requirements import Requirement

    own = distribution(_NAME)
    requirements = [Requirement(text) for text in own.requires or ()]
    parts = []
    for extra in ("", *(own.metadata.get_all("Provides-Extra") or ())):
        needed = [needs for needs in requirements if _belongs(needs.marker, extra)]
        if needed and all(needs.name != _NAME for needs in needed):
            parts.append(Part(extra, tuple(_look_for(needs.name, needs.specifier) for needs in needed)))
    return parts


def installed_version(name: str) -> str | None:
    """Return the version of a package, without importing it; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def builds_of(name: str) -> list[str]:
    """Return which builds of a package are installed; more than one overwrite each other."""
    return [build for build in (name, *_STAND_INS.get(name, ())) if installed_version(build) is not None]


def tensorrt_versions() -> dict[str, str]:
    """Return the versions of TensorRT's packages; the variants are named by the CUDA that they are built for."""
    names = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
    return {name: found for name in names if (found := installed_version(name)) is not None}


def install_command(part: Part) -> str:
    """Return the command that installs what a part lacks into this very environment."""
    wanted = [f"{_NAME}[{part.name}]"] if part.name else [f"{package.name}{package.wanted}" for package in part.missing]
    return f"{_pip('install')} {' '.join(map(_quoted, wanted))}"


def replace_command(packages: Sequence[str], wanted: str) -> str:
    """Return the command that leaves one of several packages that overwrite each other."""
    return f"{_pip('uninstall')} --yes {' '.join(packages)} && {_pip('install')} {wanted}"


def _belongs(marker: Marker | None, extra: str) -> bool:
    if marker is None or marker.evaluate({"extra": ""}):
        return not extra
    return bool(extra) and marker.evaluate({"extra": extra})


def _look_for(name: str, specifier: SpecifierSet) -> Package:
    for candidate in (name, *_STAND_INS.get(name, ())):
        found = installed_version(candidate)
        if found is not None:
            return Package(candidate, str(specifier), found, specifier.contains(found, prereleases=True))
    return Package(name, str(specifier), None, fits=False)


def _quoted(requirement: str) -> str:
    return f'"{requirement}"'


def _pip(verb: str) -> str:
    """Return pip's command; the pip that a shell finds may be that of another environment."""
    found = shutil.which("pip")
    # By the folder of the interpreter's own name: where that is a link it leads out of the environment.
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return f"pip {verb}"
    if find_spec("pip") is None and shutil.which("uv") is not None:
        return f"uv pip {verb} --python {sys.executable}"
    return f"{sys.executable} -m pip {verb}"
