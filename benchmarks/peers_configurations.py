"""What is compared: the ways to label a tomogram that a user would otherwise pick, and tomoscribe's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

__all__ = ["CONFIGURATIONS", "EAGER_MONAI", "REFERENCE", "Configuration"]


@dataclass(frozen=True)
class Configuration:
    """One way to label a tomogram.

    Attributes:
        name: a word, as results have it.
        title: as the table has it.
        family: ``torch``, ``onnxruntime``, ``openvino`` or ``tomoscribe``; what labels in the child process.
        precision: ``fp32``, ``bf16`` or ``int8``; ``auto`` where that is chosen.
        settings: for the family, see `peers_torch`, `peers_runtimes` and `peers_child`.
        packages: what has to be installed, by import names.
        quantised: it runs the bundle that has INT8.
        thorough: it is timed over all slices, and not over some of them, because slices overlap in it.
    """

    name: str
    title: str
    family: str
    precision: str
    settings: dict[str, Any] = field(default_factory=dict)
    packages: Sequence[str] = ()
    quantised: bool = False
    thorough: bool = True

    @property
    def full_title(self) -> str:
        """The title, and the precision where it is not chosen automatically."""
        return self.title if self.precision == "auto" else f"{self.title}, {self.precision.upper()}"

    @property
    def is_tomoscribe(self) -> bool:
        """Whether it is tomoscribe from file to files, and not a peer."""
        return self.family == "tomoscribe"

    @property
    def missing(self) -> str:
        """The packages that it needs and that are not installed."""
        return ", ".join(package for package in self.packages if find_spec(package) is None)


def _torch(name: str, title: str, precision: str, packages: Sequence[str] = (), **settings: Any) -> Configuration:  # noqa: ANN401
    packages = ("torch", *packages)
    return Configuration(name, f"PyTorch {title}", "torch", precision, settings, packages, thorough=False)


def _runtime(family: str, title: str, precision: str, name: str = "", **settings: Any) -> Configuration:  # noqa: ANN401
    quantised = precision == "int8"
    return Configuration(name or f"{family}_{precision}", title, family, precision, settings, (family,), quantised)


def _tomoscribe(name: str, title: str, precision: str, *, quantised: bool) -> Configuration:
    return Configuration(name, f"tomoscribe, {title}", "tomoscribe", precision, quantised=quantised)


EAGER_MONAI, REFERENCE = "torch_eager_monai", "torch_channels_last"

CONFIGURATIONS = (
    _torch(EAGER_MONAI, "eager, MONAI's sliding windows", "fp32", ("monai",), monai=True),
    _torch(REFERENCE, "channels last", "fp32", channels_last=True),
    _torch("torch_compile", "compiled, channels last", "fp32", channels_last=True, compiled=True),
    _torch("torch_bf16", "channels last", "bf16", channels_last=True),
    _torch("torch_compile_bf16", "compiled, channels last", "bf16", channels_last=True, compiled=True),
    _runtime("onnxruntime", "ONNX Runtime, bare loop", "fp32"),
    _runtime("onnxruntime", "ONNX Runtime, bare loop", "int8"),
    _runtime("openvino", "OpenVINO, its benchmark's loop", "fp32", hint="f32"),
    _runtime("openvino", "OpenVINO, its benchmark's loop", "bf16", hint="bf16"),
    _runtime("openvino", "OpenVINO, its benchmark's loop", "int8", hint="f32"),
    _runtime("openvino", "OpenVINO, the same, BF16 around", "int8", "openvino_int8_bf16", hint="bf16"),
    _tomoscribe("auto_shipped", "auto, the bundle as it ships", "auto", quantised=False),
    _tomoscribe("auto_int8_bundle", "auto, a bundle with INT8", "auto", quantised=True),
    _tomoscribe("fp32", "precision given", "fp32", quantised=False),
    _tomoscribe("bf16", "precision given", "bf16", quantised=False),
    _tomoscribe("int8", "precision given", "int8", quantised=True),
)
