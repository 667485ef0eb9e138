"""TensorRT plans: what they were built for, their files in a bundle, loading, building, and finding the right one."""

from tomoscribe.engine.plans.file import PlanFile
from tomoscribe.engine.plans.identity import (
    PLANS,
    DeviceIdentity,
    PlanError,
    PlanIdentity,
    PlanMismatchError,
    PlanShapes,
    plan_path,
    rebuild_command,
)

__all__ = [
    "PLANS",
    "DeviceIdentity",
    "PlanError",
    "PlanFile",
    "PlanIdentity",
    "PlanMismatchError",
    "PlanShapes",
    "plan_path",
    "rebuild_command",
]
