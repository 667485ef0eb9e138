"""Checkpoints: the same network comes back, nothing is pickled, and what is not a checkpoint is refused in one line."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import OutputError, TomoscribeError
from tomoscribe.train.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from tomoscribe.train.unet import UNet, UNetConfiguration

CONFIGURATION = UNetConfiguration(classes=2, context=1, depth=1, base_width=2)
SPECIFICATION = ModelSpecification("tiny", ClassMap((LabelClass(1, "ribosome", (1, 2, 3)),)), 1, 2, 8, (10.0, 20.0))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = UNet(CONFIGURATION)
    network(torch.randn(4, 3, 8, 8))  # moves the running statistics
    return network


@pytest.fixture
def path(tmp_path, network):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Checkpoint(network, SPECIFICATION, {"step": 3, "dice": {"ribosome": None}}))
    return path


def rewrite(path, change_about=lambda about: None, change_tensors=lambda tensors: None):
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["tomoscribe"])
    tensors = safetensors.torch.load_file(path)
    change_about(about)
    change_tensors(tensors)
    safetensors.torch.save_file(tensors, path, metadata={"tomoscribe": json.dumps(about)})


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert isinstance(caught.value, TomoscribeError)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_the_same_network_comes_back_in_evaluation_mode(path, network):
    loaded = load_checkpoint(path)
    slices = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.network(slices), network.eval()(slices), rtol=0, atol=0)
    assert not loaded.network.training
    assert loaded.network.configuration == CONFIGURATION
    assert loaded.specification == SPECIFICATION
    assert loaded.training == {"step": 3, "dice": {"ribosome": None}}


def test_the_layout_in_memory_does_not_matter(path, network):
    save_checkpoint(path, Checkpoint(network.to(memory_format=torch.channels_last), SPECIFICATION))
    for name, tensor in load_checkpoint(path).network.state_dict().items():
        torch.testing.assert_close(tensor, network.state_dict()[name], rtol=0, atol=0)


def test_a_compact_checkpoint_is_half_as_large_and_comes_back_in_float32(path, network):
    compact = path.with_name("compact.safetensors")
    save_checkpoint(compact, Checkpoint(network, SPECIFICATION), compact=True)
    for name, tensor in safetensors.torch.load_file(compact).items():
        assert tensor.dtype == (torch.float16 if tensor.ndim == 4 else network.state_dict()[name].dtype), name
    loaded = load_checkpoint(compact).network.state_dict()
    for name, tensor in network.state_dict().items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor, rtol=2**-11, atol=2**-25)
        if tensor.ndim != 4:
            assert torch.equal(loaded[name], tensor)


def test_a_missing_file_a_folder_and_files_of_other_kinds_are_refused(tmp_path):
    assert "found nothing" in refusal(tmp_path / "absent.safetensors")
    assert "cannot read it" in refusal(tmp_path)
    for content in (b"", b"text", b"\x80\x04pickle" * 20):
        (tmp_path / "file").write_bytes(content)
        assert "cannot read it" in refusal(tmp_path / "file")


def test_a_file_that_was_cut_short_is_refused(path):
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot read it" in refusal(path)


def test_safetensors_of_others_are_refused(tmp_path):
    for metadata in (None, {"format": "pt"}, {"tomoscribe": "{"}, {"tomoscribe": "[]"}):
        safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "a", metadata=metadata)
        refusal(tmp_path / "a")


def test_another_format_version_is_refused(path):
    rewrite(path, lambda about: about.update(format_version=2))
    assert "expected checkpoint format 1, found 2" in refusal(path)


def test_tensors_that_do_not_fit_are_refused(path):
    rewrite(path, change_tensors=lambda tensors: tensors.pop("head.bias"))
    assert "do not fit" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["network"].update(base_width=3),
        lambda about: about["network"].update(width=3),
        lambda about: about.pop("network"),
        lambda about: about["specification"].pop("halo"),
        lambda about: about["specification"].update(context=0),
        lambda about: about["specification"]["classes"].append({"number": 2, "name": "x", "colour": "#000000"}),
    ],
)
def test_configurations_that_do_not_fit_are_refused(path, change):
    rewrite(path, change)
    assert "do not fit" in refusal(path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_and_no_temporary(path, network, monkeypatch):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="cannot be written"):
        save_checkpoint(path.parent / "absent" / "a", Checkpoint(network, SPECIFICATION))
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(path, Checkpoint(network, SPECIFICATION))
    monkeypatch.undo()
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(path, Checkpoint(network, SPECIFICATION))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
