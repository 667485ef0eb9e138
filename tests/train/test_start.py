"""Fine-tuning: a training starts from the weights of a bundle or a checkpoint, whatever its classes."""

from __future__ import annotations

import json

import pytest
import torch

from tomoscribe.engine.bundle import CHECKPOINT, MODEL_FILE, Artifact, Bundle
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import BundleError, ParameterError
from tomoscribe.train.checkpoint import CheckpointError, load_checkpoint
from tomoscribe.train.fit import BEST_FILE, LAST_FILE, fit
from tomoscribe.train.settings import TrainingSettings
from tomoscribe.train.start import network_size, new_network, read_start
from tomoscribe.train.unet import UNetConfiguration

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(one_thread, volumes, small, tmp_path_factory):
    """A checkpoint that knows small blobs."""
    return fit(volumes, small(steps=45), tmp_path_factory.mktemp("run"))


@pytest.fixture
def bundle(trained, tmp_path):
    """As `export_bundle` writes it, without the graph, which a training does not need."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "checkpoint.safetensors").write_bytes(trained.read_bytes())
    (folder / "model.fp32.onnx").write_bytes(b"graph")
    artifacts = {
        "fp32": Artifact.of(folder / "model.fp32.onnx"),
        CHECKPOINT: Artifact.of(folder / "checkpoint.safetensors"),
    }
    Bundle(folder, load_checkpoint(trained).specification, artifacts).write()
    return folder


def test_a_bundle_and_its_checkpoint_are_the_same_start(trained, bundle):
    one, other = read_start(trained), read_start(bundle)
    assert one.sha256 == other.sha256
    for name, tensor in one.checkpoint.network.state_dict().items():
        assert torch.equal(tensor, other.checkpoint.network.state_dict()[name])


def test_a_training_goes_on_from_what_is_known_and_takes_the_networks_size(images, trained, bundle, tmp_path):
    settings = TrainingSettings(crop=16, steps=1, batch_size=4, learning_rate=1e-6, precision="fp32")
    notes = []
    best = fit(images, settings, tmp_path / "run", start=bundle, note=notes.append)
    found, before = load_checkpoint(best), load_checkpoint(trained)
    assert found.network.configuration == before.network.configuration
    assert found.training["validation_dice"]["small blob"] > 0.8
    assert found.training["start"] == {
        "name": "tiny",
        "file": "bundle",
        "sha256": read_start(trained).sha256,
        "classes_kept": ["small blob", "absent thing"],
        "classes_new": [],
    }
    assert notes == ["starts from tiny"]


def test_classes_keep_their_weights_by_name_and_new_ones_begin_anew(trained):
    start = read_start(trained)
    classes = ClassMap(
        (LabelClass(1, "Ribosome", (1, 2, 3)), LabelClass(2, "x", (1, 2, 3)), LabelClass(3, "Small_Blob", (1, 2, 3)))
    )
    network = new_network(UNetConfiguration(4, context=1, depth=2, base_width=4), seed=5)
    anew = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    record = start.give_weights(network, classes)
    assert (record["classes_kept"], record["classes_new"]) == (["Small_Blob"], ["Ribosome", "x"])
    there = start.checkpoint.network.state_dict()
    for name, tensor in network.state_dict().items():
        if name.startswith("head."):
            assert torch.equal(tensor[[0, 3]], there[name][[0, 1]])
            assert torch.equal(tensor[[1, 2]], anew[name][[1, 2]])
        else:
            assert torch.equal(tensor, there[name])


def test_new_classes_are_said_aloud(images, small, trained, tmp_path):
    images.class_map = ClassMap((LabelClass(1, "vesicle", (1, 2, 3)), LabelClass(2, "small blob", (4, 5, 6))))
    notes = []
    fit(images, small(steps=1), tmp_path, start=trained, note=notes.append)
    assert notes == ["starts from tiny; new to it, and learnt from nothing: vesicle"]
    assert load_checkpoint(tmp_path / LAST_FILE).specification.class_map == images.class_map


def test_the_size_is_that_of_the_settings_else_of_the_start_else_the_default(trained):
    start = read_start(trained)
    assert network_size(TrainingSettings(), None, 3) == UNetConfiguration(3, context=1, depth=4, base_width=16)
    assert network_size(TrainingSettings(context=0, depth=3), None, 3) == UNetConfiguration(3, 0, 3, 16)
    assert network_size(TrainingSettings(), start, 7) == UNetConfiguration(7, context=1, depth=2, base_width=4)
    assert network_size(TrainingSettings(depth=2), start, 3) == start.checkpoint.network.configuration
    for change in ({"context": 0}, {"depth": 4}, {"base_width": 16}):
        (name, wanted), found = *change.items(), getattr(start.checkpoint.network.configuration, next(iter(change)))
        with pytest.raises(ParameterError, match=f"expected a model with {name} {wanted}, found {found}"):
            network_size(TrainingSettings(**change), start, 3)


def test_a_bundle_without_its_checkpoint_loads_but_is_no_start(bundle):
    entries = json.loads((bundle / MODEL_FILE).read_text())
    del entries["artifacts"][CHECKPOINT]
    (bundle / MODEL_FILE).write_text(json.dumps(entries))
    assert Bundle.load(bundle).artifact_path("fp32").exists()
    with pytest.raises(BundleError, match="found none in it; start from the"):
        read_start(bundle)


def test_a_start_that_was_altered_or_is_none_is_refused(bundle, tmp_path):
    (bundle / "checkpoint.safetensors").write_bytes(b"x")
    with pytest.raises(BundleError, match="altered"):
        read_start(bundle)
    with pytest.raises(CheckpointError, match="found nothing"):
        read_start(tmp_path / BEST_FILE)


def test_the_seed_decides_a_new_network_and_nothing_else_changes():
    size = UNetConfiguration(2, depth=1, base_width=2)
    state = torch.get_rng_state()
    first, again, other = (new_network(size, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
