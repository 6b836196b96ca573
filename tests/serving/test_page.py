"""The page in a real browser."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from fedrouter import RoutedModel

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is missing")

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROMPT = "0 1 2"  # the first of the eight prompts that the router knows
SHOTS = os.environ.get("FEDROUTER_SHOTS")  # a folder for screenshots, to look at


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture(params=["light", "dark", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """The page; it fails with its script, and when it asks another host."""
    phone = request.param == "phone"
    context = browser.new_context(
        color_scheme="light" if phone else request.param,
        viewport={"width": 390, "height": 844} if phone else {"width": 1100, "height": 760},
    )
    one, faults = context.new_page(), []
    one.on("pageerror", lambda error: faults.append(str(error)))
    one.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    one.on("request", lambda r: None if r.url.startswith(address) else faults.append(r.url))
    one.goto(address)
    yield one
    if SHOTS:
        one.screenshot(path=f"{SHOTS}/{request.node.name}.png")
    context.close()
    assert faults == []


def test_an_answer_with_its_task(page: Any, routed: RoutedModel) -> None:
    expected = routed.generate(PROMPT, 16)[0]
    page.wait_for_selector("#model option[value='task-07']", state="attached")
    page.keyboard.type(PROMPT)  # the field has the focus
    page.keyboard.press("Enter")
    turn = page.locator(".turn.assistant")
    turn.locator(".routing").wait_for()
    assert turn.locator("p").text_content() == expected.text
    assert turn.locator(".routing strong").text_content() == "task-00" == expected.task
    assert turn.locator("meter").count() == 4  # the nearest tasks
    assert page.evaluate("document.activeElement.id") == "prompt"
    # Nothing sticks out, on a phone either.
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_task_that_is_forced_and_a_stranger(page: Any) -> None:
    page.wait_for_selector("#model option[value='task-05']", state="attached")
    page.select_option("#model", "task-05")
    page.fill("#prompt", PROMPT)
    page.click("#send")
    assert "task-05 · confidence" in page.locator(".routing").first.text_content()
    assert "forced" in page.locator(".routing").first.text_content()
    page.click("#clear")
    page.select_option("#model", "auto")
    page.fill("#prompt", "Zz " * 20)
    page.click("#send")
    text = page.locator(".routing").text_content()
    assert "outside every task" in text and "answered by the base model (fallback)" in text
