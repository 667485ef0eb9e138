"""Small checkpoints to export: trained networks are not needed to compare two ways of running one."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.export.graph import to_onnx
from tomoscribe.export.parity import Sample
from tomoscribe.train.checkpoint import Checkpoint, save_checkpoint
from tomoscribe.train.unet import UNet, UNetConfiguration


def make_checkpoint(context):
    configuration = UNetConfiguration(classes=3, context=context, depth=2, base_width=4)
    class_map = ClassMap((LabelClass(1, "ribosome", (1, 2, 3)), LabelClass(2, "membrane µ", (4, 5, 6))))
    specification = ModelSpecification(
        "tiny", class_map, context, configuration.tile_multiple, configuration.halo, (10.0, 20.0)
    )
    torch.manual_seed(context)
    network = UNet(configuration)
    with torch.no_grad():
        for _ in range(5):  # moves the running statistics away from 0 and 1, where folding would do nothing
            network(torch.randn(8, 2 * context + 1, 32, 32) * 2 + 1)
    return Checkpoint(network.eval(), specification, {"step": 3})


@pytest.fixture(scope="session", params=[0, 1], ids=["no context", "one slice of context"])
def checkpoint(request):
    return make_checkpoint(request.param)


@pytest.fixture(scope="session")
def checkpoint_with():
    """Gives the checkpoint with so much context."""
    return functools.cache(make_checkpoint)


@pytest.fixture(scope="session")
def exported():
    """Gives the graph of the checkpoint with so much context; the exporter takes seconds, so it is exported once."""

    @functools.cache
    def exported(context, dtype=torch.float32):
        checkpoint = make_checkpoint(context)
        return to_onnx(checkpoint.network, checkpoint.specification, dtype)

    return exported


def make_samples(context, count=2, seed=0):
    """Noise is enough for networks that were not trained; unlike in size, units and sign of the contrast."""
    random = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        shape = (number + 1 + 2 * context, 32 + 4 * number, 48 - 4 * number)
        slices = (1000 + 50 * random.standard_normal(shape)).astype(np.float32)
        rstd = np.full(len(slices), (-1) ** number / 50, np.float32)
        samples.append(Sample(f"noise {number}", slices, np.full(len(slices), 1000, np.float32), rstd))
    return samples


@pytest.fixture(scope="session")
def samples():
    """Gives samples for a network with so much context."""
    return make_samples


@pytest.fixture(scope="session")
def checkpoint_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, make_checkpoint(1))
    return path
