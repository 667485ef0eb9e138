"""The processor: what it is called, and which arithmetic it has."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Processor", "read_processor"]

# AVX512-VNNI and AVX-VNNI, as Linux names them (arch/x86/include/asm/cpufeatures.h).
_EXACT_FLAGS = {"avx512_vnni", "avx_vnni"}
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_X86 = {"x86_64", "amd64", "i386", "i686"}


@dataclass(frozen=True)
class Processor:
    """The processor of this machine.

    Attributes:
        name: its model, or its architecture where the system does not say.
        exact_int8: whether sums of products of uint8 and int8 come out right. On x86 without VNNI the runtimes take
            VPMADDUBSW, which saturates at 16 bits (ONNX Runtime's documentation, "Quantize ONNX models", "When and why
            do I need to try U8U8?"). False where x86 does not say.
        bf16: whether it multiplies in BF16. False where that is not known.
    """

    name: str
    exact_int8: bool
    bf16: bool


def read_processor(information: Path = Path("/proc/cpuinfo")) -> Processor:
    """Return the processor.

    Args:
        information: ``key : value`` lines for each core (Linux, proc_cpuinfo(5)).
    """
    architecture = platform.machine()
    try:
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(entries.get("flags", "").split())
    exact = bool(flags & _EXACT_FLAGS) or architecture.lower() not in _X86
    name = entries.get("model name") or platform.processor() or architecture
    return Processor(name, exact, bool(flags & _BF16_FLAGS))
