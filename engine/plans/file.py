"""TensorRT plans on the disk: the plan, and the file beside it that says what it was built for.

::

    mymodel/plans/
      nvidia-h200-trt10.16.1.11-fp16-4x960x928.plan    the serialized engine
      nvidia-h200-trt10.16.1.11-fp16-4x960x928.json    format version, sha256 of the plan, identity, how it was made

TensorRT is not needed to read what is beside a plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tomoscribe.engine.plans.identity import PlanError, PlanIdentity, PlanMismatchError, rebuild_command
from tomoscribe.engine.replacing import replacing

__all__ = ["PlanFile"]

_FORMAT = "tomoscribe-plan"
_FORMAT_VERSION = 1
_REMEDY = "build the plan again"


@dataclass(frozen=True)
class PlanFile:
    """A plan on the disk.

    Attributes:
        path: the plan's file.
        sha256: of its bytes.
        identity: what it was built for.
        facts: how it was made: precisions of its layers, parity, and whether it was let past its gate.
    """

    path: Path
    sha256: str
    identity: PlanIdentity
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def write(cls, path: Path, plan: bytes, identity: PlanIdentity, facts: Mapping[str, Any]) -> Self:
        """Write a plan and then what it is, each beside its place first.

        Raises:
            OutputError: they cannot be written.
        """
        made = cls(path, hashlib.sha256(plan).hexdigest(), identity, facts)
        entries = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "plan": {"file": path.name, "sha256": made.sha256},
            "identity": identity.to_json(),
            **facts,
        }
        with replacing(path) as temporary:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(plan)
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return made

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what is beside a plan; the plan itself is not opened.

        Raises:
            PlanError: nothing is there, or something else.
        """
        beside = path.with_suffix(".json")
        try:
            entries = json.loads(beside.read_text(encoding="utf-8"))
            if not isinstance(entries, dict) or entries.pop("format", None) != _FORMAT:
                raise PlanError(f"{beside}: expected the format '{_FORMAT}', found another", _REMEDY)
            if (version := entries.pop("format_version", None)) != _FORMAT_VERSION:
                raise PlanError(f"{beside}: expected format version {_FORMAT_VERSION}, found {version!r}", _REMEDY)
            sha256 = entries.pop("plan")["sha256"]
            return cls(path, sha256, PlanIdentity.from_json(entries.pop("identity")), entries)
        except PlanError:
            raise
        except OSError as error:
            raise PlanError(f"{beside}: cannot be read ({error.strerror})", _REMEDY) from error
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"{beside}: not what is written beside a plan ({error})", _REMEDY) from error

    def read_plan(self) -> bytes:
        """Return the plan's bytes.

        Raises:
            PlanError: it cannot be read.
            PlanMismatchError: its bytes are not those that were built.
        """
        try:
            plan = self.path.read_bytes()
        except OSError as error:
            raise PlanError(f"{self.path}: cannot be read ({error.strerror})", _REMEDY) from error
        if (found := hashlib.sha256(plan).hexdigest()) != self.sha256:
            command = rebuild_command(self.path.parent.parent, self.identity)
            raise PlanMismatchError(self.path, "sha256", self.sha256, found, command)
        return plan
