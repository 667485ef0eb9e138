"""Several devices as one backend: each has every n-th slot, and so a share of the volume along z."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from tomoscribe.engine.backends.contract import Backend, Slot, SlotLimits, SlotShape

__all__ = ["DeviceGroup", "count_devices", "slots_to_fill"]


class DeviceGroup:
    """Backends of one kind, each on a device of its own, as one; a `tomoscribe.engine.backends.contract.Backend`.

    Slots are dealt to them in turn. The stream fills, submits and awaits slots in turn as well, so that runs of slices
    are split between the devices and come back in the order of z; the slowest device sets the pace of all.

    Args:
        backends: two or more, which are this one's from now on.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = tuple(backends)
        self._owners: dict[int, Backend] = {}

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return len(self._backends)

    @property
    def name(self) -> str:
        """The name that ``--backend`` takes."""
        return self._backends[0].name

    @property
    def description(self) -> str:
        """What runs on each device, which ends with the precision."""
        return "; ".join(backend.description for backend in self._backends)

    @property
    def streams(self) -> int:
        """Slots that the devices work on at the same time, all together."""
        return sum(backend.streams for backend in self._backends)

    @property
    def limits(self) -> SlotLimits:
        """What suits every device."""
        limits = [backend.limits for backend in self._backends]
        return SlotLimits(
            tile_pixels=min(limit.tile_pixels for limit in limits),
            batch_pixels=min(limit.batch_pixels for limit in limits),
            dtypes=tuple(dtype for dtype in limits[0].dtypes if all(dtype in limit.dtypes for limit in limits)),
        )

    def allocate(self, shape: SlotShape, count: int) -> Sequence[Slot]:
        """Return `count` slots, the first of the first device, the next of the next, and so on around.

        Raises:
            BackendError: as the first backend that fails says.
        """
        owners = [self._backends[number % self.devices] for number in range(count)]
        # Where slots are fewer than devices, the rest have nothing to do.
        dealt = {id(owner): iter(owner.allocate(shape, owners.count(owner))) for owner in dict.fromkeys(owners)}
        slots = [next(dealt[id(owner)]) for owner in owners]
        self._owners = {id(slot): owner for slot, owner in zip(slots, owners, strict=True)}
        return slots

    def submit(self, slot: Slot) -> None:
        """Start work on a slot's first ``count`` slices and return at once.

        Raises:
            BackendError: the slot's device cannot start.
        """
        self._owners[id(slot)].submit(slot)

    def wait(self, slot: Slot) -> None:
        """Return when the outputs of a submitted slot can be read.

        Raises:
            BackendError: the work on the slot failed, or was given up.
        """
        self._owners[id(slot)].wait(slot)

    def cancel(self) -> None:
        """Give up everything that was submitted and not waited for, on all devices; never raises."""
        for backend in self._backends:
            backend.cancel()

    def close(self) -> None:
        """Give everything back, on every device."""
        with contextlib.ExitStack() as closing:
            for backend in self._backends:
                closing.callback(backend.close)


def count_devices(backend: Backend) -> int:
    """Return how many devices a backend runs on."""
    return backend.devices if isinstance(backend, DeviceGroup) else 1


def slots_to_fill(backend: Backend) -> int:
    """Return how many slots keep a backend busy: those it works on, and one a device that is emptied and filled again.

    Where the devices of a group work on as many slots each, they have as many each.
    """
    return backend.streams + count_devices(backend)
