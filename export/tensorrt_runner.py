"""Running a plan to compare it: device memory and the stream are PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from tomoscribe.engine.plan import PlanIdentity, PlanShapes
from tomoscribe.engine.plan_loading import tensorrt_log
from tomoscribe.engine.tiles import reflected
from tomoscribe.export.graph import INPUTS, OUTPUTS
from tomoscribe.export.parity import Answer, ParityError, Runner, Sample

if TYPE_CHECKING:
    import tensorrt

__all__ = ["fit_samples", "plan_runner"]


def fit_samples(samples: Sequence[Sample], shapes: PlanShapes, context: int) -> list[Sample]:
    """Return samples in the size of a plan's tiles: continued by reflection, or cut.

    One more fills the batch where none of them does, so that both a full batch and a smaller one are compared.

    Args:
        samples: slices of any size.
        shapes: the plan's.
        context: context slices on each side, k.
    """
    fitted = [_fit(sample, len(sample.slices), shapes) for sample in samples]
    full = shapes.batch + 2 * context
    if fitted and all(len(sample.slices) < full for sample in fitted):
        fitted.append(replace(_fit(samples[0], full, shapes), name=f"{samples[0].name}, full batch"))
    return fitted


def plan_runner(engine: tensorrt.ICudaEngine, identity: PlanIdentity, device: torch.device) -> Runner:
    """Return a plan's answers.

    Args:
        engine: the plan, deserialized on `device`.
        identity: its sizes; samples have to be in the size of its tiles, and are run a batch at a time.
        device: where it runs.

    Raises:
        ParityError: TensorRT cannot make an execution context, or, from the runner, cannot run it.
    """
    execution = engine.create_execution_context()
    if execution is None:
        raise ParityError(f"expected an execution context of the plan, found none ({tensorrt_log().reason()})")
    # On the default stream TensorRT has to wait for all others.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    shapes, margin = identity.shapes, 2 * identity.context

    def run(sample: Sample) -> Answer:
        count = len(sample.slices) - margin
        parts = [part(sample, first, min(shapes.batch, count - first)) for first in range(0, count, shapes.batch)]
        labels, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
        return Answer(labels, scores)

    @torch.inference_mode()
    def part(sample: Sample, first: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        taken = slice(first, first + count + margin)
        with torch.cuda.stream(stream):
            inputs = {name: torch.from_numpy(getattr(sample, name)[taken]).to(device) for name in INPUTS}
            outputs = {
                name: torch.empty(shape, dtype=torch.uint8, device=device)
                for name, shape in shapes.outputs(count, identity.classes).items()
            }
            accepted = [execution.set_input_shape(name, tuple(tensor.shape)) for name, tensor in inputs.items()]
            unresolved = execution.infer_shapes()
            accepted += [
                execution.set_tensor_address(name, tensor.data_ptr()) for name, tensor in {**inputs, **outputs}.items()
            ]
            if not all(accepted) or unresolved or not execution.execute_async_v3(stream.cuda_stream):
                raise ParityError(
                    f"expected the plan to run on {count} slices of {sample.name}, found that it does not "
                    f"({tensorrt_log().reason()})"
                )
            labels, scores = (outputs[name].cpu().numpy() for name in OUTPUTS)
        stream.synchronize()
        return labels, scores

    return run


def _fit(sample: Sample, count: int, shapes: PlanShapes) -> Sample:
    counts = zip((count, shapes.height, shapes.width), sample.slices.shape, strict=True)
    z, y, x = (reflected(0, size, length) for size, length in counts)
    return replace(sample, slices=sample.slices[np.ix_(z, y, x)], mean=sample.mean[z], rstd=sample.rstd[z])
