"""The page in a real browser, at the width of a desktop and of a phone."""

import shutil

import pytest

from tests.helpers.report_folders import page_of, write_run, write_sweep

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PWN = "document.title='pwned'"
HOSTILE = (
    f"</script><script>{PWN}</script>", f'<img src=x onerror="{PWN}">', "\u202egnp.exe", "\x00\x1b[2J", "w" * 1_000_000,
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as api:
        running = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_sweep(folder / "s", [{"alpha": a} for a in (0, 1, 2)], planned="alpha=0,1,2")
    write_run(folder / "hostile", alpha=3, texts=HOSTILE)
    (folder / "r.html").write_text(page_of(folder / "s", folder / "hostile", title="mine"))
    return folder / "r.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_at_the_width(browser, file, width):
    page, errors, requests = browser.new_page(viewport={"width": width, "height": 800}), [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-drawn]", timeout=60_000)
    assert not errors
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.title() == "mine"
    panels = page.locator(".panel")
    assert panels.count() > 20 and page.locator(".panel svg.marks").count() == panels.count()
    for name in ("</script>", "<img src", "\\u202egnp", "\\x00"):
        page.fill("#search", name)
        expect(page.locator(".row")).to_contain_text([name])
        expect(page.locator("#found")).to_have_text("1 of 400")
    page.locator(".row").first.click()
    assert "\\x00\\x1b[2J" in page.locator("#whole-text").text_content()
    page.keyboard.press("Escape")
    page.fill("#search", "www")
    expect(page.locator(".row")).to_contain_text(["wwwwww"])
    page.locator(".row").first.click()
    assert "the first 4000 of 1000000 characters" in page.locator("#whole-origin").text_content()
    page.close()


def test_the_choices_change_what_is_shown(browser, file):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-drawn]", timeout=60_000)
    told = page.locator("#choice").text_content()
    page.locator("#loss").fill("10")
    assert "at most 10 points" in page.locator("#choice").text_content() != told
    page.locator("select[data-figure=tradeoff]").select_option(label="Vendi score")
    expect(page.locator("#tradeoff-0 text", has_text="diversity: Vendi score →")).to_have_count(1)
    assert page.locator("#diversity-name").text_content() == "Vendi score"
    shown = page.locator("#by-correct")
    shown.select_option("0")
    expect(page.locator(".row", has_text="right")).to_have_count(0)
    assert page.locator(".row", has_text="wrong").count() > 3
    page.close()
