"""What a browser shows of one tomogram, and of those that come while one looks."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright, to look at the page")
from playwright.sync_api import expect

SHAPE = 24, 60, 80
COLOURS = {1: (230, 159, 0), 2: (240, 228, 66), 5: (204, 121, 167)}


def canvas(page):
    """The picture as the screen has it, (y, x, RGB), y upwards as in the volume: the middle pixel of every voxel."""
    found = page.evaluate(
        """([rows, columns]) => {
            const canvas = document.getElementById("canvas");
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            let sampled = "";
            for (let y = rows - 1; y >= 0; y -= 1) {
                for (let x = 0; x < columns; x += 1) {
                    const row = Math.floor(((y + 0.5) * height) / rows);
                    const at = 4 * (row * width + Math.floor(((x + 0.5) * width) / columns));
                    sampled += String.fromCharCode(...data.subarray(at, at + 3));
                }
            }
            return btoa(sampled);
        }""",
        SHAPE[1:],
    )
    return np.frombuffer(base64.b64decode(found), np.uint8).reshape(*SHAPE[1:], 3).astype(int)


def coloured(page):
    """Where the picture is not grey; less is the shine of a neighbour, for enlarging smooths."""
    return np.ptp(canvas(page), axis=-1) > 36


def wait_for_labels(page, labels):
    """Wait until the picture is coloured where a slice is labelled, and nowhere else."""
    until(page, lambda: page.is_visible("#canvas") and np.array_equal(coloured(page), labels > 0))


def until(page, reached):
    """Wait for what no locator tells; the page forbids the evaluation of text, which is how playwright would wait."""
    for _ in range(500):
        if reached():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it did not come about within ten seconds")


def came(page, z):
    """Whether the labels of a slice were fetched."""
    names = page.evaluate("() => performance.getEntriesByType('resource').map(({ name }) => name)")
    return any(f"/slices/{z}/labels" in name for name in names)


def slide(page, z):
    page.locator("#z").evaluate("(slider, z) => { slider.value = z; slider.dispatchEvent(new Event('input')); }", z)


def look_at_one(session, browse):
    """A labelled tomogram, and the page that shows it."""
    number = session.label("grid1/Position_1_Vol.mrc")
    session.ledger.set_objects(number, {"microtubule": 3, "ribosome": 1234})
    return browse(session.serve().address), session.labels["grid1/Position_1_Vol.mrc"]


@pytest.fixture(scope="module")
def window(shared_session, shared_browse):
    return look_at_one(shared_session, shared_browse)


@pytest.fixture
def still(window):
    """A labelled tomogram and its page, for tests that only look."""
    page, labels = window
    page.fill("#opacity", "100")
    slide(page, 12)
    wait_for_labels(page, labels[12])
    return window


@pytest.fixture
def one(session, browse):
    """A labelled tomogram and its page, for tests that go on."""
    page, labels = look_at_one(session, browse)
    page.fill("#opacity", "100")
    wait_for_labels(page, labels[12])
    return page, labels


def test_the_newest_tomogram_is_shown_with_what_is_in_it(still):
    page, labels = still
    expect(page.locator("#viewer-name")).to_have_text("Position_1_Vol")
    expect(page.locator("#viewer-facts")).to_contain_text("80 × 60 × 24")
    expect(page.locator("#z-text")).to_have_text("12 / 23")
    figures = {
        row.locator("th").inner_text().strip(): row.locator("td").all_inner_texts()
        for row in page.locator("#classes tr").all()
    }
    assert figures["microtubule"] == [f"{(labels == 1).mean() * 100:.2f}\u00a0%", "8.64\u00a0k", "3"]
    assert figures["ribosome"][2] == "1\u2009234"
    assert figures["single membrane"] == ["0.00\u00a0%", "0", "–"]
    expect(page.locator("#folder")).to_have_text("session_7")
    expect(page.locator("#link-text")).to_have_text("live")
    expect(page.locator("#banner")).to_be_hidden()


def test_the_scale_bar_is_as_long_as_it_says(still):
    page, _ = still
    length = float(page.inner_text("#scale-text").removesuffix(" nm"))
    bar, picture = (page.locator(name).bounding_box()["width"] for name in ("#scale-bar", "#canvas"))
    assert length == 10
    assert bar / picture == pytest.approx(length / 80, rel=0.01)


def test_colours_are_those_of_the_classes_and_the_more_the_stronger_the_overlay(still):
    page, labels = still
    pixels = canvas(page)
    edge = (labels[12] != np.roll(labels[12], 1, 0)) & (labels[12] > 0)
    for number, colour in COLOURS.items():
        outline = pixels[edge & (labels[12] == number)]
        assert np.abs(outline - colour).max(axis=0).max() < 40, number
    page.fill("#opacity", "0")
    wait_for_labels(page, np.zeros(SHAPE[1:]))
    expect(page.locator("#opacity-text")).to_have_text("0 %")


def test_a_class_that_is_switched_off_is_not_drawn(still):
    page, labels = still
    page.get_by_role("checkbox", name="ribosome").uncheck()
    wait_for_labels(page, np.where(labels[12] == 2, 0, labels[12]))
    slide(page, 13)
    wait_for_labels(page, np.where(labels[13] == 2, 0, labels[13]))
    page.get_by_role("checkbox", name="ribosome").check()
    wait_for_labels(page, labels[13])


def test_the_slider_turns_through_the_slices(still):
    page, labels = still
    for z in (0, 23, 7):
        slide(page, z)
        wait_for_labels(page, labels[z])
        expect(page.locator("#z-text")).to_have_text(f"{z} / 23")
    page.click("#z-up")
    wait_for_labels(page, labels[8])
    page.click("#z-down")
    page.click("#z-down")
    wait_for_labels(page, labels[6])
    page.hover("#stage")
    page.mouse.wheel(0, -120)
    wait_for_labels(page, labels[7])


def test_neighbours_are_fetched_before_they_are_wanted(one):
    page, labels = one
    until(page, lambda: came(page, 10))
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    slide(page, 13)
    wait_for_labels(page, labels[13])
    assert not [url for url in asked if "/slices/13/" in url]


def test_an_answer_that_comes_late_is_not_shown(still):
    page, labels = still
    held = []
    page.route(re.compile("/slices/20/"), lambda route: held.append(route))
    slide(page, 20)
    expect(page.locator("#stage")).to_have_class(re.compile("busy"))
    slide(page, 2)
    until(page, lambda: len(held) == 2)
    for route in held:
        route.continue_()
    wait_for_labels(page, labels[2])
    until(page, lambda: came(page, 3))
    wait_for_labels(page, labels[2])
    page.unroute_all()


def test_a_tomogram_that_arrives_is_shown_at_once_and_grows(session, one):
    page, _ = one
    entry = session.preview("Position_2_Vol.mrc")
    labels = session.labels["Position_2_Vol.mrc"]
    expect(page.locator("#viewer-name")).to_have_text("Position_2_Vol")
    wait_for_labels(page, labels[12])
    expect(page.locator("#viewer-note")).to_contain_text("First look")
    expect(page.locator("#z")).to_be_disabled()
    session.ledger.progress(entry.number, session.owner, 18)
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "18")
    expect(page.locator("#running")).to_contain_text("18 / 24")
    session.finish(entry)
    expect(page.locator("#z")).to_be_enabled()
    expect(page.locator("#viewer-note")).to_be_hidden()
    expect(page.locator("#counts")).to_contain_text("labelled2")
    slide(page, 20)
    wait_for_labels(page, labels[20])
    expect(page.locator(".card .name").first).to_have_text("Position_2_Vol")
    expect(page.locator("#queue-note")).to_contain_text("waiting for the next")


def test_who_chose_a_tomogram_keeps_it(session, one):
    page, labels = one
    page.locator(".card").click()
    expect(page.get_by_label("Follow newest")).not_to_be_checked()
    session.label("Position_2_Vol.mrc")
    expect(page.locator(".card")).to_have_count(2)
    expect(page.locator("#viewer-name")).to_have_text("Position_1_Vol")
    wait_for_labels(page, labels[12])
    page.reload()
    expect(page.locator("#viewer-name")).to_have_text("Position_1_Vol")
    page.fill("#opacity", "100")
    page.get_by_label("Follow newest").check()
    expect(page.locator("#viewer-name")).to_have_text("Position_2_Vol")
    wait_for_labels(page, session.labels["Position_2_Vol.mrc"][12])


def test_who_slides_is_not_interrupted(session, one):
    page, labels = one
    slide(page, 3)
    session.label("Position_2_Vol.mrc")
    expect(page.locator(".card")).to_have_count(2)
    expect(page.locator("#viewer-name")).to_have_text("Position_1_Vol")
    wait_for_labels(page, labels[3])


def test_a_failure_is_shown_with_its_reason_and_names_are_text(session, one):
    page, _ = one
    name = "<img src=x onerror=alert(1)>.mrc"
    session.fail(name, f"{session.settings.folder}/{name}: expected 9 bytes, found <b>3</b>; copy it again")
    failures = page.get_by_role("region", name="Failed")
    expect(failures).to_contain_text("<img src=x onerror=alert(1)>")
    expect(failures).to_contain_text("expected 9 bytes, found <b>3</b>; copy it again")
    expect(failures).not_to_contain_text(str(session.settings.folder))
    failures.get_by_role("button").click()
    expect(page.locator("#viewer-name")).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator("#viewer-note")).to_have_text("expected 9 bytes, found <b>3</b>; copy it again")
    expect(page.locator("#facts-list")).to_contain_text(name)
    expect(page.locator(".card[data-state=quarantined]")).to_have_count(1)
    assert page.locator("img:not(.thumb img), b:not(.filter b)").count() == 0


def test_labels_outlive_their_tomogram(session, browse):
    session.label("Position_1_Vol.mrc")
    (session.settings.folder / "Position_1_Vol.mrc").unlink()
    page = browse(session.serve().address)
    page.fill("#opacity", "100")
    expect(page.locator("#viewer-note")).to_contain_text("file is gone")
    wait_for_labels(page, session.labels["Position_1_Vol.mrc"][12])


def test_a_folder_without_a_tomogram_says_what_it_waits_for(session, browse):
    page = browse(session.serve().address)
    expect(page.locator("#blank")).to_contain_text("Waiting for the first reconstruction")
    expect(page.locator("#canvas")).to_be_hidden()
    session.notice("Position_1_Vol.mrc")
    expect(page.locator("#waiting")).to_contain_text("Position_1_Vol")
    page.locator("#waiting button").click()
    expect(page.locator("#blank")).to_contain_text("Its first picture comes")
