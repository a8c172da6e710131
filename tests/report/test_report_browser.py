"""The report in headless Chromium: what is drawn, and what its controls change."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from synthetic_run import ATLASES, SHAPES, TARGETS, make_run

from atlasmith.config import Config
from atlasmith.core.grid import Array
from atlasmith.io.files import read_json, write_json
from atlasmith.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium isn't installed")

SHAPE = (30, 34, 26)
SIZES = {"wide": (1400, 900), "narrow": (420, 800)}
WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SUBJECT = "report/sub-08.html"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = make_run(tmp_path_factory.mktemp("browser"), SHAPE)
    sidecar = config.layout.segmentation_sidecar("08", "votenet")
    write_json(sidecar, read_json(sidecar) | {"NeedsReview": True, "ReviewReasons": ["Its pose differs."]})
    write_report(config)
    return config


@pytest.fixture(scope="module")
def driver() -> Iterator[playwright.Playwright]:
    with playwright.sync_playwright() as driver:
        yield driver


@contextmanager
def started(driver: playwright.Playwright, arguments: list[str]) -> Iterator[playwright.Browser]:
    browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *arguments])
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def browser(driver: playwright.Playwright) -> Iterator[playwright.Browser]:
    with started(driver, WEBGL) as browser:
        yield browser


Opener = Callable[..., "playwright.Page"]


@pytest.fixture
def opened(browser: playwright.Browser, run: Config) -> Iterator[Opener]:
    """Open pages of the run; none may log anything or ask for what isn't its own."""
    messages: list[str] = []
    contexts = []

    def open_page(
        name: str, size: str = "wide", scheme: str = "light", config: Config = run
    ) -> playwright.Page:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: messages.append(request.url) if is_foreign(request.url) else None)

        def is_foreign(url: str) -> bool:
            return not url.startswith((f"file://{config.output}/report", "data:", "blob:"))

        page.goto(f"file://{config.output}/{name}")
        for index in range(page.locator(".viewer").count()):
            viewer = page.locator(".viewer").nth(index)
            viewer.and_(page.locator("[data-ready]")).wait_for(timeout=20_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []


def picture_of(page: playwright.Page, view: str) -> Array:
    """The pixels (rows, columns, 3) of a viewer."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    data = page.locator(f'[data-view="{view}"] .screen').screenshot()
    return np.asarray(imread(io.BytesIO(data), format="png"))[..., :3]


def colored(picture: Array) -> int:
    """Count the pixels that aren't gray."""
    return int((np.ptp(picture, axis=-1) > 0.15).sum())


def change(page: playwright.Page, view: str, role: str, value: str) -> None:
    """Move a slider or choose from a list."""
    control = page.locator(f'[data-view="{view}"] [data-role="{role}"]')
    if control.evaluate("element => element.tagName") == "SELECT":
        control.select_option(value)
    else:
        control.fill(value)


def choose_labels(page: playwright.Page, view: str, name: str) -> None:
    page.locator(f'[data-view="{view}"] fieldset').get_by_label(name).check()


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        ("wide", "light"),
        ("narrow", "dark"),
        pytest.param("wide", "dark", marks=pytest.mark.slow),
        pytest.param("narrow", "light", marks=pytest.mark.slow),
    ],
)
def test_pages_fit_and_viewers_draw(opened: Opener, size: str, scheme: str) -> None:
    for name in ("report.html", SUBJECT, "report/template.html"):
        page = opened(name, size, scheme)
        width = page.evaluate("() => document.documentElement.scrollWidth")
        assert width == SIZES[size][0]
        paper, ink = (
            page.evaluate(f"() => getComputedStyle(document.body).{key}")
            for key in ("backgroundColor", "color")
        )
        light, dark = (int(color.split("(")[1].split(",")[0]) for color in (paper, ink))
        assert (light > 230 and dark < 60) if scheme == "light" else (light < 60 and dark > 200)
        for index in range(page.locator(".viewer").count()):
            view = page.locator(".viewer").nth(index).get_attribute("data-view")
            picture = picture_of(page, view)
            assert (picture.mean(axis=-1) > 0.3).mean() > 0.05, f"{name}: {view} is dark"
            assert colored(picture) > 100, f"{name}: {view} has no outlines"


def test_chart_titles_are_in_the_color_of_the_text(opened: Opener) -> None:
    page = opened("report.html", scheme="dark")
    fill = "() => getComputedStyle(document.querySelector('.charts text')).fill"
    assert page.evaluate(fill) == page.evaluate("() => getComputedStyle(document.body).color")


def test_before_and_after_registration(opened: Opener) -> None:
    page = opened(SUBJECT)
    choose_labels(page, "registration", "none")
    after = picture_of(page, "registration")
    change(page, "registration", "frame", "0")
    before = picture_of(page, "registration")
    assert np.abs(before - after).mean() > 0.01
    assert page.locator('[data-role="frame-name"]').inner_text() == "affine"
    change(page, "registration", "frame", "0.5")
    between = picture_of(page, "registration")
    assert 0.2 < np.abs(between - before).mean() / np.abs(after - before).mean() < 0.8
    # The registered image is the template; the affine one isn't.
    change(page, "registration", "reference", "1")
    template = picture_of(page, "registration")
    assert np.abs(template - after).mean() < 0.2 * np.abs(template - before).mean()


def test_outlines_opacity_and_differences(opened: Opener) -> None:
    page = opened(SUBJECT)
    counts = {"outlines": colored(picture_of(page, "segmentation"))}
    page.locator('[data-view="segmentation"] [data-role="outline"]').uncheck()
    counts["filled"] = colored(picture_of(page, "segmentation"))
    change(page, "segmentation", "opacity", "0")
    counts["transparent"] = colored(picture_of(page, "segmentation"))
    change(page, "segmentation", "opacity", "1")
    # votenet has the manual labels, and majority is one voxel off.
    change(page, "segmentation", "compare", "2")
    counts["equal"] = colored(picture_of(page, "segmentation"))
    choose_labels(page, "segmentation", "majority")
    counts["different"] = colored(picture_of(page, "segmentation"))
    choose_labels(page, "segmentation", "none")
    counts["none"] = colored(picture_of(page, "segmentation"))
    assert 100 < counts["outlines"] < 0.5 * counts["filled"]
    assert 100 < counts["different"] < 0.7 * counts["filled"]
    assert counts["transparent"] == counts["equal"] == counts["none"] == 0, counts


def test_the_confidence_is_an_image_of_its_own(opened: Opener) -> None:
    page = opened(SUBJECT)
    image = picture_of(page, "segmentation")
    page.locator('[data-view="segmentation"] [data-role="channel"]').select_option(label="confidence")
    assert np.abs(picture_of(page, "segmentation") - image).mean() > 0.01


def test_keys_and_structures_move_the_crosshair(opened: Opener) -> None:
    page = opened(SUBJECT)
    location = page.locator('[data-view="segmentation"] [data-role="location"]')
    page.locator("[data-rank='2']").click()
    assert location.inner_text() == "votenet: b · majority: b · manual: b"
    canvas = page.locator('[data-view="segmentation"] canvas')
    canvas.focus()
    for _ in range(15):
        page.keyboard.press("ArrowUp")
    assert location.inner_text() == "votenet: background · majority: background · manual: background"
    labels = page.locator('[data-view="segmentation"] [data-role="labels"]:checked')
    for key, value in (("0", "-1"), ("2", "1"), ("1", "0")):
        page.keyboard.press(key)
        assert labels.get_attribute("value") == value
    page.keyboard.press("o")
    assert not page.locator('[data-view="segmentation"] [data-role="outline"]').is_checked()
    page.locator('[data-view="registration"] canvas').focus()
    for key, role, value in (("b", "frame", "0"), ("a", "frame", "1"), ("t", "reference", "1")):
        page.keyboard.press(key)
        assert page.locator(f'[data-view="registration"] [data-role="{role}"]').input_value() == value


def test_the_table_sorts_and_searches(opened: Opener) -> None:
    page = opened("report.html")

    def subjects() -> list[str]:
        return [text.strip() for text in page.locator("#subject-table tbody th:visible").all_inner_texts()]

    everyone = [f"sub-{n:02d}" for n in range(ATLASES + TARGETS)]
    assert subjects() == everyone
    title = page.locator("#subject-table thead").get_by_role("button", name="Correlation")
    title.click()
    assert subjects() == everyone
    title.click()
    assert subjects() == everyone[::-1]
    dice = page.locator("#subject-table thead").get_by_role("button", name="Dice", exact=True)
    dice.click()  # atlases have none, and stay last
    assert subjects()[:TARGETS] == everyone[ATLASES:]
    dice.click()
    assert subjects()[:TARGETS] == everyone[ATLASES:][::-1]
    search = page.locator("#search")
    search.fill("atlas 0.53")
    assert subjects() == ["sub-03"]
    assert page.locator("#found").inner_text() == "1 shown"
    search.fill("review")
    assert subjects() == ["sub-08"]
    search.fill("")
    assert len(subjects()) == len(everyone)


def test_the_theme_can_be_chosen_and_stays(opened: Opener) -> None:
    page = opened("report.html")
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.locator("#theme").click()
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark


def test_the_template_along_its_covariate(opened: Opener) -> None:
    page = opened("report.html")
    slider = page.locator(".conditional input")
    frames = page.locator(".conditional .frame")
    assert [frames.nth(k).is_visible() for k in (0, 1)] == [True, False]
    slider.fill("1")
    assert [frames.nth(k).is_visible() for k in (0, 1)] == [False, True]
    assert page.locator(".conditional output").inner_text() == "40"
    page = opened("report/template.html")
    last = picture_of(page, "template")
    change(page, "template", "frame", "0")
    assert np.abs(picture_of(page, "template") - last).mean() > 1e-3
    assert page.locator('[data-role="frame-name"]').inner_text() == "age 20"


def test_links_lead_from_a_finding_to_its_page_and_back(opened: Opener) -> None:
    page = opened("report.html")
    page.locator(".finding a").click()
    page.wait_for_url("**/sub-08.html")
    assert "Its pose differs." in page.locator(".notice").inner_text()
    page.get_by_role("link", name="next").click()
    page.wait_for_url("**/sub-09.html")
    page.get_by_role("link", name="← Toy").click()
    page.wait_for_url("**/report.html#subjects")


@pytest.mark.parametrize("shape", [pytest.param("2-D", marks=pytest.mark.slow), "2-D, thin first axis"])
def test_a_slice_is_drawn_with_outlines(opened: Opener, tmp_path: Path, shape: str) -> None:
    config = make_run(tmp_path, SHAPES[shape], report={"subjects": 1})
    write_report(config)
    name = next(config.layout.report_folder.glob("sub-*.html")).name
    page = opened(f"report/{name}", config=config)
    for view in ("segmentation", "registration"):
        outlined = colored(picture_of(page, view))
        page.locator(f'[data-view="{view}"] [data-role="outline"]').uncheck()
        assert 100 < outlined < 0.5 * colored(picture_of(page, view))


def test_without_webgl_the_page_says_so(run: Config, driver: playwright.Playwright) -> None:
    with started(driver, ["--disable-3d-apis"]) as browser:
        page = browser.new_page()
        page.goto(f"file://{run.output}/{SUBJECT}")
        page.locator(".screen.failed").first.wait_for(timeout=20_000)
        assert "WebGL 2" in page.locator(".screen.failed").first.inner_text()
        assert page.get_by_role("heading", name="Structures").is_visible()
