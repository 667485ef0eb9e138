"""The report: its figures are those that were counted, and its pictures show what they should."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import OutputError, OutputExistsError
from tomoscribe.train.evaluation.judgement import judge
from tomoscribe.train.evaluation.report import JSON_FILE, REPORT_FILE, check_report_folder, write_report
from tomoscribe.train.evaluation.worst_cases import PANEL, WINDOW, draw_worst_cases, find_worst_cases

PICTURES = {"confusion.png", "dice.png", "calibration.png", "worst_cases.png"}


def report(comparison, output, tolerance=1):
    judgement = judge(comparison, tolerance=tolerance)
    return judgement, write_report(judgement, comparison, output, title="A title", facts={"model": "m"})


def row(page, name):
    line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_and_the_json_have_the_figures(comparison, tmp_path):
    comparison.warnings.append("watch out")
    judgement, path = report(comparison, tmp_path / "new" / "report")
    page = path.read_text(encoding="utf-8")
    assert path.name == REPORT_FILE
    total = judgement.total
    expected = [total.dice(), total.iou(), total.precision(), total.recall(), judgement.tolerant.dice()]
    cells = row(page, "light")
    assert cells[1:6] == [f"{values[2]:.3f}" for values in expected]
    assert cells[7:] == [f"{total.true[2]:,}", f"{total.found[2]:,}"]
    assert row(page, "b")[1:] == [f"{value:.3f}" for value in judgement.tomograms["b"].dice()[1:]] + [
        f"{judgement.tomograms['b'].mean_dice():.3f}"
    ]
    assert "watch out" in page
    assert "model: m" in page
    figures = json.loads((path.parent / JSON_FILE).read_text(encoding="utf-8"))
    assert figures["classes"]["light"]["Dice"] == total.dice()[2]
    assert figures["mean_foreground_dice"] == total.mean_dice()
    assert figures["confusion"]["counts"] == total.counts.tolist()
    assert figures["tomograms"]["a"]["confusion"] == judgement.tomograms["a"].counts.tolist()
    assert figures["classes"]["light"]["Dice of images"]["50%"] == np.median(judgement.image_dice()[:, 2])
    assert figures["calibration"]["light"]["error"] == judgement.calibration.curve(2).error
    assert {path.name for path in path.parent.iterdir()} == PICTURES | {REPORT_FILE, JSON_FILE}


def test_every_picture_that_the_page_names_is_one(comparison, tmp_path):
    _, path = report(comparison, tmp_path)
    for name in PICTURES:
        assert f"]({name})" in path.read_text(encoding="utf-8")
        with Image.open(tmp_path / name) as picture:
            picture.load()
            assert min(picture.size) > 300
    for name in ("calibration.png", "dice.png", "worst_cases.png"):
        with Image.open(tmp_path / name) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        for label_class in comparison.class_map.classes:
            assert (pixels == label_class.colour).all(axis=-1).any(), (name, label_class.name)


def test_a_later_report_leaves_nothing_of_the_earlier(comparison, tmp_path):
    report(comparison, tmp_path)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        check_report_folder(tmp_path, overwrite=False)
    check_report_folder(tmp_path, overwrite=True)
    comparison.scores = None
    _, path = report(comparison, tmp_path, tolerance=0)
    assert not (tmp_path / "calibration.png").exists()
    page = path.read_text(encoding="utf-8")
    assert "alibration" not in page
    assert "within" not in page


def test_classes_that_are_nowhere_have_dashes_and_null(comparison, tmp_path):
    comparison.class_map = ClassMap((*comparison.class_map.classes, LabelClass(3, "nothing", (1, 2, 3))))
    comparison.scores = None
    _, path = report(comparison, tmp_path)
    assert row(path.read_text(encoding="utf-8"), "nothing")[1:5] == ["–"] * 4
    figures = json.loads((tmp_path / JSON_FILE).read_text(encoding="utf-8"))
    assert figures["classes"]["nothing"]["Dice"] is None


def test_a_class_that_is_made_up_has_no_dice_but_a_precision_and_a_worst_case(comparison, tmp_path):
    for volume in comparison.truth.values():
        volume[volume == 2] = 0
    judgement, path = report(comparison, tmp_path)
    page = path.read_text(encoding="utf-8")
    assert row(page, "light")[1:4] == ["–", "–", "0.000"]
    assert row(page, "**mean**")[1] == f"**{judgement.total.dice()[1]:.3f}**"
    assert row(page, "a")[2] == "–"
    assert [len(of_class) for of_class in find_worst_cases(judgement)] == [2, 2]


def test_labels_without_any_class_make_a_report_too(comparison, tmp_path):
    comparison.scores = None
    for side in (comparison.labels, comparison.truth):
        for volume in side.values():
            volume[:] = 0
    _, path = report(comparison, tmp_path)
    assert row(path.read_text(encoding="utf-8"), "**mean**")[1] == "**–**"
    assert not (tmp_path / "worst_cases.png").exists()


def test_a_folder_that_cannot_be_made_is_an_error(comparison, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="another folder"):
        report(comparison, tmp_path / "file" / "report")


def test_a_worst_case_shows_the_window_with_the_errors(comparison, tmp_path):
    side = 2 * WINDOW
    truth, labels = np.zeros((2, 1, side, side), np.uint8)
    truth[0, side - 60 : side - 20, 30:60] = 1
    truth[0, :20, :20] = 255
    comparison.labels, comparison.truth, comparison.scores = {"t": labels}, {"t": truth}, None
    cases = find_worst_cases(judge(comparison, tolerance=0))
    assert [[case.number for case in of_class] for of_class in cases] == [[0]]
    draw_worst_cases(comparison, cases, tmp_path / "worst.png")
    with Image.open(tmp_path / "worst.png") as picture:
        pixels = np.asarray(picture).astype(int)
    yellow = (pixels == comparison.class_map.classes[0].colour).all(axis=-1)
    rows = np.nonzero(yellow[:, PANEL : 2 * PANEL])[0]
    assert rows.size
    # y points upwards, so that what is near the end of the slice is in the upper half of its panel.
    top = np.nonzero(yellow.any(axis=1))[0][0]
    assert rows.max() - top < PANEL
    assert np.median(rows) < top + PANEL / 2 + 40
