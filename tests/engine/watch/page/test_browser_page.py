"""The page as a whole: the gallery, narrow screens, the keyboard, contrast, and connections that break."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright, to look at the page")
from playwright.sync_api import expect

from tomoscribe.engine.watch.entry import State

AA = 4.5  # WCAG 2.2, 1.4.3: the least contrast of text


@pytest.fixture
def crowded(session):
    """Something of everything."""
    session.label("Position_2_Vol.mrc", warnings=["voxel size: found 1 Å in the header; give --voxel-size"])
    session.label("20260412_krios2_lamella_07_tilt_series_0031_rebin4_and_a_name_without_an_end_Vol.mrc")
    session.fail("Position_3_Vol.mrc", "expected finite values, found NaN; reconstruct it again")
    session.preview("grid2/Position_10_Vol.mrc")
    session.notice("Position_11_Vol.mrc")
    session.notice("Position_12_Vol.mrc", State.ARRIVING, "1.2 of 3.4 MB")
    return session


def test_a_thousand_tomograms_come_a_page_at_a_time(session, browse):
    session.fill(1003)
    page = browse(session.serve().address)
    expect(page.locator(".card")).to_have_count(48)
    expect(page.locator("#page-text")).to_have_text("1–48 of 1\u2009003")
    expect(page.locator(".card .name").first).to_have_text("Position_1003_Vol")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#page-text")).to_have_text("49–96 of 1\u2009003")
    expect(page.locator(".card .name").first).to_have_text("Position_955_Vol")
    page.get_by_label("Sort by").select_option(label="ribosome")
    expect(page.locator("#page-text")).to_have_text("1–48 of 1\u2009003")
    expect(page.locator(".card .told").first).to_have_text("0.87\u00a0%")
    page.get_by_role("button", name="Descending; press for ascending").click()
    expect(page.locator(".card .name").first).to_have_text("Position_1_Vol")
    page.get_by_label("Search by name").fill("n_77")
    expect(page.locator(".card")).to_have_count(11)
    expect(page.locator("#pages")).to_be_hidden()
    page.get_by_label("Search by name").fill("nowhere")
    expect(page.locator("#nothing")).to_have_text("None fits.")


def test_the_gallery_is_sorted_and_filtered(crowded, browse):
    page = browse(crowded.serve().address)
    expect(page.locator(".card")).to_have_count(6)
    page.get_by_label("Sort by").select_option(label="Name")
    expected = ["Position_10_Vol", "Position_2_Vol", "Position_3_Vol", "Position_11_Vol", "Position_12_Vol"]
    expect(page.locator(".card .name")).to_have_text([re.compile("^20260412"), *expected])
    page.get_by_label("Sort by").select_option(label="Problem")
    expect(page.locator(".card .name").first).to_have_text("Position_3_Vol")
    expect(page.locator(".card .told").nth(1)).to_have_text("1 warning")
    page.get_by_role("radio", name="Queue").check()
    expect(page.locator(".card")).to_have_count(3)
    expect(page.locator(".filter label").nth(2)).to_have_text("Queue3")
    page.get_by_role("radio", name="Failed").check()
    expect(page.locator(".card")).to_have_count(1)


def beyond(page, width):
    """What lies beyond the edges of the screen."""
    return page.evaluate(
        """(width) => [...document.querySelectorAll("body *:not(.unseen, .unseen *, .skip)")].filter((element) => {
            const { left, right, height } = element.getBoundingClientRect();
            return height > 0 && (left < 0 || right > width + 0.5) && !element.closest(".middle");
        }).map((element) => element.outerHTML.slice(0, 80))""",
        width,
    )


def test_a_phone_shows_all_without_scrolling_sideways(crowded, browse):
    page = browse(crowded.serve().address, 360, 740, has_touch=True, is_mobile=True, device_scale_factor=2)
    expect(page.locator("#canvas")).to_be_visible()
    expect(page.locator(".card")).to_have_count(6)
    for width in (320, 360):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("() => document.documentElement.scrollWidth") == width
        assert beyond(page, width) == []
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input:not(.filter input)")].filter((element) => {
            const { height } = (element.closest("label") ?? element).getBoundingClientRect();
            return height > 0 && height < 32;
        }).map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert small == []
    page.get_by_role("region", name="Failed").get_by_role("button").tap()
    expect(page.locator("#viewer-name")).to_be_in_viewport()
    expect(page.locator("#viewer-name")).to_have_text("Position_3_Vol")


def test_a_wall_screen_needs_no_scrolling_and_shows_thumbnails(crowded, browse):
    page = browse(crowded.serve().address, 1600, 1000)
    expect(page.locator("#canvas")).to_be_visible()
    expect(page.locator(".card")).to_have_count(6)
    # All have one that a watcher had begun with.
    expect(page.locator(".thumb .glyph")).to_have_count(2)
    images = page.locator(".thumb img")
    expect(images).to_have_count(4)
    for at in range(4):
        expect(images.nth(at)).to_have_js_property("naturalWidth", 80)
    assert page.evaluate("() => document.documentElement.scrollHeight") == 1000
    for name in ("#z", "#classes", "#gallery-title", "#running"):
        expect(page.locator(name)).to_be_in_viewport()


def test_the_keyboard_reaches_everything_and_it_has_a_name(crowded, browse):
    page = browse(crowded.serve().address)
    expect(page.locator(".card")).to_have_count(6)
    expect(page.get_by_role("button", name="Position_3_Vol, failed")).to_be_visible()
    for role in ("button", "checkbox", "combobox", "radio", "searchbox", "slider", "progressbar"):
        every = page.get_by_role(role)
        assert every.count() == page.get_by_role(role, name=re.compile(r"\S")).count() > 0, role
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
        visible = page.evaluate(
            """() => {
                const element = document.activeElement;
                const styled = element.closest(".filter") ? element.nextElementSibling : element;
                return element === document.body || getComputedStyle(styled).outlineStyle !== "none";
            }"""
        )
        assert visible, f"the focus on {reached[-1]} cannot be seen"
        if reached[-1] == "card":
            break
    assert {"skip", "follow", "name", "opacity", "hours", "search", "sort", "direction", "card"} <= set(reached)
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer-name")).to_have_text("Position_2_Vol")
    expect(page.locator(".card[aria-current]")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("[data-number='2']")).to_be_focused()
    expect(page.locator(".card[tabindex='0']")).to_have_attribute("data-number", "2")

    page.focus("#z")
    for key, z in (("ArrowRight", 13), ("Home", 0), ("PageUp", 2), ("End", 23)):
        page.keyboard.press(key)
        expect(page.locator("#z-text")).to_have_text(f"{z} / 23")
    expect(page.locator("#z")).to_have_attribute("aria-valuetext", "slice 23 of 0 to 23")
    box = page.get_by_role("checkbox", name="ribosome")
    box.focus()
    page.keyboard.press("Space")
    expect(box).not_to_be_checked()


def test_a_pause_is_said_and_all_text_stands_out(crowded, browse):
    crowded.beat(paused="1 GB is free, 2 GB are to stay free")
    page = browse(crowded.serve().address)
    expect(page.locator(".card")).to_have_count(6)
    expect(page.locator("#banner")).to_have_text("Paused: 1 GB is free, 2 GB are to stay free")
    expect(page.locator("#failures")).to_be_visible()
    texts = page.evaluate(
        """() => {
            const parse = (colour) => {
                const [red, green, blue, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
                return [red, green, blue, alpha];
            };
            const over = ([r, g, b, a], below) => [r, g, b].map((value, at) => a * value + (1 - a) * below[at]);
            const ground = (element) => {
                // What lies on the picture lies on white at its worst.
                const below = element === document.documentElement ? [0, 0, 0]
                    : element.matches(".pill, .scale") ? [255, 255, 255] : ground(element.parentElement);
                return over(parse(getComputedStyle(element).backgroundColor), below);
            };
            const light = (colour) => colour.map((value) => value / 255)
                .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
                .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
            const found = [];
            for (const element of document.querySelectorAll("body *")) {
                const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
                if (!own || !element.checkVisibility()) continue;
                if (element.closest(":disabled, .skip, .unseen, noscript")) continue;
                const style = getComputedStyle(element);
                const text = parse(element.closest("svg") ? style.fill : style.color);
                const [one, other] = [light(over(text, ground(element))), light(ground(element))];
                const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
                found.push([ratio, element.textContent.slice(0, 40)]);
            }
            return found;
        }"""
    )
    assert len(texts) > 60
    assert [text for text in texts if text[0] < AA] == []


def test_a_page_without_a_watcher_says_so(session, browse):
    with session.ledger._file.writing() as (connection, _):
        connection.execute("DELETE FROM watchers")
    page = browse(session.serve().address)
    expect(page.locator("#banner")).to_contain_text("No watcher runs")
    expect(page.locator("#link-text")).to_have_text("no watcher")


def test_a_lost_connection_is_said_and_mended(session, browse):
    session.label("Position_1_Vol.mrc")
    server = session.serve()
    page = browse(server.address)
    expect(page.locator("#link-text")).to_have_text("live")
    expect(page.locator("#canvas")).to_be_visible()
    server.stop()
    expect(page.locator("#link-text")).to_have_text("reconnecting")
    expect(page.locator("#banner")).to_contain_text("may be old")
    expect(page.locator("#canvas")).to_be_visible()
    session.label("Position_2_Vol.mrc")
    session.serve(port=int(server.address.rsplit(":", 1)[1].strip("/")))
    expect(page.locator("#link-text")).to_have_text("live", timeout=20_000)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#viewer-name")).to_have_text("Position_2_Vol")
    expect(page.locator(".card")).to_have_count(2)


def test_the_token_is_asked_for_and_taken(session, browse):
    session.label("Position_1_Vol.mrc")
    address = session.serve(token="a-token-of-this-test").address
    page = browse(address)
    expect(page.locator("#banner")).to_contain_text("?token=")
    expect(page.locator(".card")).to_have_count(0)
    page.goto(f"{address}?token=a-token-of-this-test")
    expect(page.locator("#viewer-name")).to_have_text("Position_1_Vol")
    assert page.url == address


def test_throughput_is_drawn(session, browse):
    session.label("Position_1_Vol.mrc")
    session.label("Position_2_Vol.mrc")
    page = browse(session.serve().address)
    chart = page.get_by_role("img", name=re.compile("^2 tomograms labelled since"))
    expect(chart).to_be_visible()
    heights = chart.locator("rect").evaluate_all("bars => bars.map((bar) => Number(bar.getAttribute('height')))")
    assert len(heights) == 60
    assert sum(height > 0 for height in heights) in (1, 2)
    expect(page.locator("#speed-hour")).to_have_text("2 in the last hour")
    expect(page.locator("#latency")).to_contain_text("To first picture")
    page.get_by_label("Time span").select_option(label="1 hour")
    expect(chart.locator("title").last).to_have_text(re.compile("tomogram"))
