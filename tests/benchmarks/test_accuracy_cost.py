"""Accuracy against cost: networks that are trained alike, judged and timed as the engine runs them."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import conv2d

from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.unet import UNet, UNetConfiguration

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TITLE = "width 16, depth 4"


@pytest.fixture(autouse=True)
def _from_its_folder(monkeypatch):
    """Scripts import others from their own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def module(name=""):
    return import_module(f"accuracy_cost{name}")


def structure(*size, **form):
    return module("_networks").Structure(*size, **form)


def unet(depth=2, width=3, classes=3):
    """A U-Net whose biases and normalisations do something."""
    torch.manual_seed(0)
    network = UNet(UNetConfiguration(classes, 1, depth, width))
    for name, values in network.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 2)
        elif values.ndim == 1:
            values.normal_()
    return network.eval()


def noise(tile=16):
    """Three volumes of noise, one a split, with three classes in their labels."""
    studies = import_module("convnet_studies")
    random = np.random.default_rng(0)
    shape = 4, tile, tile
    volumes = [
        studies.LabelledVolume(
            random.standard_normal(shape).astype(np.float32),
            random.integers(0, 3, shape, np.uint8),
            12.0,
            {split: range(4)},
        )
        for split in ("train", "dev", "test")
    ]
    classes = tuple(LabelClass(number, name, (9, 9, 9)) for number, name in ((1, "dark"), (2, "bright")))
    return studies.VolumeImages(ClassMap(classes), volumes)


def length(steps=2):
    return module("_training").Length(steps, batch_size=2, crop=16, validation_images=1)


def row(size, cost, dice, **more):
    known = {} if dice is None else {"dark": dice, "bright": dice}
    facts = {"title": size.title if size else "bundled model", "again": False} | more
    return module("_report").Row(
        structure=size,
        parameters=1000,
        operations=9000.0 * cost,
        seconds=[cost, cost],
        cost=cost,
        dice=known or None,
        mean_dice=dice,
        **facts,
    )


def rows():
    return [
        row(structure(16, 4), 1.0, 0.80),
        row(structure(8, 4), 0.25, 0.70),
        row(structure(16, 3), 0.5, 0.69),
        row(structure(16, 4, strided=True), 0.6, None),
        row(structure(32, 4), 4.0, 0.82),
        row(structure(16, 4), 1.0, 0.99, title=f"{TITLE}, other seed", again=True),
        row(None, 1.0, 0.9),
        row(None, 0.4, 0.9, title="bundled model, BF16"),
    ]


def rewritings():
    return [
        module("_report").Rewriting("nothing changed", 100.0, 1.0, 0.0, 0),
        module("_report").Rewriting("cut in two", 90.0, 0.75, 0.001, 3),
    ]


def test_names_tell_structures_apart():
    structures = module("_networks").STRUCTURES
    assert len({s.name for s in structures}) == len({s.title for s in structures}) == len(structures)
    assert structure(16, 4, strided=True).title == "width 32, depth 3, at half resolution"


def test_the_first_step_of_a_strided_network_is_a_convolution_of_stride_2():
    network = structure(2, 2, strided=True).build(UNetConfiguration(3, 1, 2, 2)).eval()
    weight = network.network.encoder[0][0].weight
    whole = torch.zeros(4, 3, 6, 6)
    for row_, column in np.ndindex(6, 6):
        for channel in range(3):
            place = 4 * channel + 2 * (row_ % 2) + column % 2
            whole[:, channel, row_, column] = weight[:, place, row_ // 2, column // 2]
    seen = []
    network.network.encoder[0][0].register_forward_hook(lambda *facts: seen.append(facts[-1]))
    slices = torch.randn(2, 3, 8, 12)
    with torch.inference_mode():
        logits = network(slices)
        expected = conv2d(slices, whole, stride=2, padding=2)
    assert logits.shape == (2, 3, 8, 12)
    torch.testing.assert_close(seen[0], expected)


def test_a_strided_network_has_the_lower_levels_of_the_u_net():
    size = UNetConfiguration(3, 1, 3, 4)
    lower = structure(4, 3, strided=True).build(size).network
    whole = UNet(size)
    assert [level[3].weight.shape for level in lower.encoder] == [level[3].weight.shape for level in whole.encoder[1:]]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("number", range(4))
def test_a_rewriting_changes_no_logit(number, depth):
    network = unet(depth)
    title, rewrite = list(module("_rewriting").REWRITINGS.items())[number]
    slices = torch.randn(2, 3, 8, 24)
    with torch.inference_mode():
        before = {name: values.clone() for name, values in network.state_dict().items()}
        rewritten = rewrite(network).eval()
        torch.testing.assert_close(rewritten(slices), network(slices), atol=1e-5, rtol=1e-5, msg=title)
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())


def test_rewritings_take_apart_and_put_together():
    kinds = module("_rewriting")
    network = unet()
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in kinds.UnfoldedUNet(network).modules())
    assert not any(isinstance(layer, torch.nn.ConvTranspose2d) for layer in kinds.ShuffledUNet(network).modules())
    count = module("_models").operations
    assert count(kinds.SplitUNet(network)) == count(kinds.ShuffledUNet(network)) == count(network)
    assert count(kinds.JoinedUNet(network)) < count(network)


def test_operations_are_those_of_the_convolutions():
    network = unet(depth=1, width=4, classes=3)
    full = 9 * 3 * 4 + 9 * 4 * 4 + 9 * 8 * 4 + 9 * 4 * 4 + 4 * 3 + 8 * 4
    half = 9 * 4 * 8 + 9 * 8 * 8
    assert module("_models").operations(network) == 2 * (full + half / 4)
    assert module("_models").parameters(network) == sum(p.numel() for p in network.parameters())


def test_settings_are_the_bundled_models_but_for_the_length():
    own = json.loads(json.dumps(Bundle.load(BENCHMARKS.parent / "engine/models/default").training["settings"]))
    short = length().settings(structure(12, 3)).model_dump(mode="json")
    different = {name for name in short if short[name] != own.get(name)}
    assert different == {
        *("name", "base_width", "depth", "crop", "steps", "batch_size", "checkpoint_interval"),
        *("validation_interval", "validation_images", "examples"),
    }
    assert length().settings(structure(12, 3), seed=5).seed == 5


@pytest.mark.parametrize("strided", [False, True])
def test_a_training_is_read_back_and_goes_on(tmp_path, strided):
    training, size, images = module("_training"), structure(2, 2, strided=strided), noise()
    ((_, _, folder), (_, seed, again)) = training.trainings([size], tmp_path)
    assert seed is not None
    assert again != folder
    assert not training.finished(folder, 2)
    best = training.train(images, size, length(), folder)
    assert training.finished(folder, 2)
    assert not training.finished(folder, 3)
    network, specification = module("_models").load_network(best, size)
    assert type(network) is type(size.build(network.configuration))
    assert (specification.name, specification.context) == (size.name, 3)
    weights = best.read_bytes()
    assert training.train(images, size, length(), folder).read_bytes() == weights
    assert training.train(images, size, length(), again, seed=seed).read_bytes() != weights
    with pytest.raises(ParameterError, match="steps"):
        training.train(images, size, length(3), folder)


def test_judging_counts_what_the_engine_labels(tiny_bundle):
    images = noise()
    model = module("_models").Model("tiny", Bundle.load(tiny_bundle), OnnxRuntimeBackend, 0, 0.0)
    expected = np.zeros((3, 3), np.int64)
    for number in images.numbers("test"):
        slices, truth = images.read(int(number), 1)
        total = slices.sum(axis=0)
        labels = np.where(total < -1.5, 1, np.where(total > 1.5, 2, 0))
        np.add.at(expected, (truth, labels), 1)
    counted = module("_models").judge(model, images, images.numbers("test"))
    np.testing.assert_array_equal(counted.counts, expected)


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_the_time_is_that_of_as_many_slices_as_were_asked_for(tiny_bundle, slices):
    worked, awaited = [], []

    class Counting(OnnxRuntimeBackend):
        def submit(self, slot):
            worked.append(slot)
            super().submit(slot)

        def wait(self, slot):
            awaited.append(slot)
            super().wait(slot)

    def two_streams(bundle):
        return Counting(bundle, 2, streams=2)

    model = module("_models").Model("tiny", Bundle.load(tiny_bundle), two_streams, 0, 0.0)
    assert module("_models").seconds(model, 16, slices) > 0
    assert len(worked) == 2 + slices
    assert list(map(id, awaited)) == list(map(id, worked))
    assert len({id(slot) for slot in worked}) == 2


def test_differences_are_of_labels_and_scores(monkeypatch):
    models = module("_models")
    zeros, scores = np.zeros((2, 4), np.uint8), np.full((3, 2, 4), 9, np.uint8)
    one, high = zeros.copy(), scores.copy()
    one[0, 0] = 2
    high[1, 1, 1] = 250
    given = {"a": [(zeros, scores, zeros), (zeros, scores, zeros)], "b": [(one, scores, zeros), (zeros, high, zeros)]}
    monkeypatch.setattr(models, "labelled", lambda model, *_: iter(given[model]))
    assert models.differences("a", "b", None, None) == (1 / 16, 241)
    assert models.differences("b", "b", None, None) == (0, 0)


def test_what_is_measured_is_the_trained_and_the_bundled(tmp_path, monkeypatch):
    script, images = module(), noise()
    trained, untrained = structure(2, 1), structure(4, 1)
    module("_training").train(images, trained, length(), tmp_path / trained.name)
    monkeypatch.setattr(script, "REWRITINGS", {})
    found, written = script.measure(images, [trained, untrained], length(), tmp_path, side=32, slices=1, rounds=2)
    by_title = {row.title: row for row in found}
    titles = {trained.title, untrained.title, script.BUNDLED, f"{script.BUNDLED}, averaged over flips"}
    assert titles <= set(by_title)
    assert f"{trained.title}, other seed" not in by_title
    assert by_title[untrained.title].mean_dice is by_title[untrained.title].dice is None
    assert 0 <= by_title[trained.title].mean_dice <= 1
    assert by_title[script.BUNDLED].cost == 1
    assert by_title[f"{script.BUNDLED}, averaged over flips"].operations == 4 * by_title[script.BUNDLED].operations
    assert all(len(row.seconds) == 2 for row in found)
    assert [(r.title, r.time, r.different, r.score_difference) for r in written] == [("nothing changed", 1, 0, 0)]


def test_the_front_has_what_no_cheaper_network_is_as_good_as():
    report = module("_report")
    assert [row.title for row in report.front(rows())] == ["width 8, depth 4", TITLE, "width 32, depth 4"]
    (_, _, ratio, gain, doubling), (_, _, _, _, last) = report.steps(rows())
    assert (ratio, gain, doubling, last) == pytest.approx((4, 0.1, 0.05, 0.01))
    assert report.steps([]) == []


def test_tables_have_all_rows_and_say_what_was_not_trained():
    lines = "\n".join(module("_report").tables(rows(), rewritings(), TITLE))
    assert lines.count("0.800 | 0.800 |  0.800 |") == 1
    assert "not finished" in lines
    assert f"{TITLE}, is on it" in lines
    assert "× 4.00 | +0.100 |" in lines
    assert "| cut in two               |                 90 | 0.75 |      1.0e-03 |" in lines
    others = [row for row in rows() if row.mean_dice]
    lines = "\n".join(module("_report").tables(others, rewritings(), "another"))
    assert "another, is not on it" in lines
    assert "not finished" not in lines


@pytest.mark.parametrize("kept", [8, 0])
def test_the_plot_is_drawn(tmp_path, kept):
    path = tmp_path / "plot.png"
    module("_report").draw(rows()[:kept], path)
    with Image.open(path) as picture:
        assert picture.width > 1000


def test_points_are_of_their_series():
    found = {series.title: series for series in module("_report")._series([r for r in rows() if r.mean_dice])}
    assert list(found["depth 4, width as marked"].marks) == ["8", "16", "32"]
    assert list(found["width 16, depth as marked"].marks) == ["3", ""]
    assert len(found["again, with another seed"].rows) == 1
    bundled = found["the bundled model, after its own, longer training"]
    assert list(bundled.marks) == ["FP32", "BF16"]


@pytest.mark.parametrize(("words", "runs", "measures"), [([], 3, 1), (["--only", "train"], 3, 0)])
def test_the_script_trains_measures_and_writes(tmp_path, monkeypatch, capsys, words, runs, measures):
    script = module()
    trained, measured = [], []
    monkeypatch.setattr(script, "quick_images", noise)
    monkeypatch.setattr(script, "train", lambda *run, seed: trained.append(seed))
    monkeypatch.setattr(script, "measure", lambda *given, **how: measured.append(how) or (rows(), rewritings()))
    target = tmp_path / "accuracy_cost.json"
    options = ["--quick", "--output", str(tmp_path), "--json", str(target), *words]
    monkeypatch.setattr(sys, "argv", ["accuracy_cost.py", *options])
    script.main()
    assert len(trained) == runs
    assert len(measured) == measures
    if not measures:
        assert not list(tmp_path.iterdir())
        return
    page = (tmp_path / "accuracy_cost.md").read_text(encoding="utf-8")
    assert page.strip() in capsys.readouterr().out
    assert "The trainings are short and equal" in page
    assert "4 steps of 2 crops of 32 × 32" in page
    assert (tmp_path / "accuracy_cost.png").is_file()
    saved = json.loads(target.read_text(encoding="utf-8"))
    assert saved["ratios"]["time_over_bundled_width_8_depth_4"] == 0.25
    assert saved["ratios"]["time_over_as_it_is_cut_in_two"] == 0.75
    assert saved["ratios"]["time_over_bundled_BF16"] == 0.4
    assert len(saved["ratios"]) == 8
    assert saved["front"] == ["width 8, depth 4", TITLE, "width 32, depth 4"]


def test_a_dataset_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["accuracy_cost.py"])
    with pytest.raises(SystemExit):
        module().main()
    assert "expected DATASET and --work FOLDER" in capsys.readouterr().err
