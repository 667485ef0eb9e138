"""What runs a bundle on a device."""

from tomoscribe.engine.backends.contract import Backend, Slot, SlotLimits, SlotShape
from tomoscribe.engine.backends.cpu_choice import BACKENDS
from tomoscribe.engine.backends.gpu_choice import AUTO, CPU, GPU_BACKENDS
from tomoscribe.engine.backends.selection import PRECISIONS, build_backend, choose_backend

__all__ = [
    "AUTO",
    "BACKENDS",
    "CPU",
    "GPU_BACKENDS",
    "PRECISIONS",
    "Backend",
    "Slot",
    "SlotLimits",
    "SlotShape",
    "build_backend",
    "choose_backend",
]
