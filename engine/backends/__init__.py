"""What runs a bundle on a device."""

from tomoscribe.engine.backends.contract import Backend, Slot, SlotShape
from tomoscribe.engine.backends.selection import AUTO, BACKENDS, PRECISIONS, choose_backend

__all__ = ["AUTO", "BACKENDS", "PRECISIONS", "Backend", "Slot", "SlotShape", "choose_backend"]
