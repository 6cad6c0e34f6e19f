"""What does the playground look like?

    python -m experiments.benchmarks.playground CAUSAL MASKED [--to DIR] [--views VIEW ...]

Serves both models (folders, as `lm serve` takes them) by the command itself, opens the page in
a headless Chromium, wide and narrow, light and dark, has the causal model complete a text and
chat, and continue what the masked one fills, and saves pictures, in
experiments/results/playground unless told. Nothing is measured: somebody is to look at them.
They are not the same on every machine, as fonts are the system's own.
"""

import argparse
import contextlib
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TEXT = "The lighthouse keeper climbed the stairs, as he had every evening for thirty years, and"
BLANKS = "The[MASK] was one of the first in the city, and it was built by the[MASK] of the"
MESSAGE = "What is the capital of France?"
SIZES = {"wide": {"width": 1280, "height": 860}, "narrow": {"width": 390, "height": 844}}
SECONDS = 300
"""How long a model may take to answer, with what is compiled for it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Saves a picture of each view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("causal", type=Path)
    parser.add_argument("masked", type=Path)
    parser.add_argument("--to", type=Path, default=Path("experiments/results/playground"))
    parser.add_argument("--views", nargs="+", default=list(VIEWS), choices=list(VIEWS))
    given = parser.parse_args(arguments)
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("there is no chromium and no google-chrome")
    given.to.mkdir(parents=True, exist_ok=True)
    with served([given.causal, given.masked]) as url, sync_playwright() as playwright:
        # Pictures may be taken as root, where Chromium has no sandbox.
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for view in given.views:
            page: Any = opened.new_page()
            page.set_default_timeout(1000 * SECONDS)
            page.goto(url)
            VIEWS[view](page, given.causal.name, given.masked.name)
            for size, scheme in itertools.product(SIZES, ("light", "dark")):
                page.set_viewport_size(SIZES[size])
                page.emulate_media(color_scheme=scheme)
                _point(page, view)
                path = given.to / f"{view}-{size}-{scheme}.png"
                page.screenshot(path=path, full_page=True)
                print(f"{path}: {path.stat().st_size:,} bytes", flush=True)
            page.close()
        opened.close()


@contextlib.contextmanager
def served(models: Sequence[Path]) -> Iterator[str]:
    """The address of a server that has these models, and ends with the context."""
    command = [sys.executable, "-m", "lm", "serve", *map(str, models)]
    # One reader: each slot more is work that nobody waits for.
    command += ["--port", "0", "--slots", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"http://\S+", line):
                    yield found[0]
                    break
            else:
                sys.exit("the server ended before it had an address")
        finally:
            process.terminate()


def complete(page: Any, causal: str, masked: str) -> None:
    """A text that goes on."""
    side = page.locator(".side").first
    side.locator("[name=model]").select_option(causal)
    _settle(side, 0.7)
    _ask(page, side, TEXT)


def chat(page: Any, causal: str, masked: str) -> None:
    """A question and its answer."""
    side = page.locator(".side").first
    side.locator("[name=model]").select_option(causal)
    side.get_by_role("radio", name="Chat").check()
    _settle(side, 0.0)
    _ask(page, side, MESSAGE)
    _ask(page, side, "And what is it known for?")


def compare(page: Any, causal: str, masked: str) -> None:
    """The causal model continues what the masked one fills."""
    page.get_by_role("checkbox", name="Two models side by side").check()
    fills, goes_on = page.locator(".side").all()
    fills.locator("[name=model]").select_option(masked)
    goes_on.locator("[name=model]").select_option(causal)
    _settle(goes_on, 0.7)
    _ask(page, fills, BLANKS)
    fills.locator(".hand").click()
    _wait(page, goes_on)


VIEWS = {"complete": complete, "chat": chat, "compare": compare}
"""What is looked at, by the name of its picture."""


def _point(page: Any, view: str) -> None:
    """Shows the alternatives of one token, in the picture of a text that goes on."""
    page.mouse.move(0, 0)
    page.locator("#reading").wait_for(state="hidden")
    if view == "complete":
        page.locator(".side .written .token").nth(9).hover()
        page.locator("#reading").wait_for()


def _settle(side: Any, temperature: float) -> None:
    """The same answer each time, on one machine."""
    settings = side.locator(".settings")
    was = settings.evaluate("it => it.open")
    settings.evaluate("it => {it.open = true}")
    for name, value in (("temperature", temperature), ("seed", 1), ("count", 32)):
        side.locator(f"[name={name}]").fill(str(value))
    settings.evaluate("(it, was) => {it.open = was}", was)


def _ask(page: Any, side: Any, text: str) -> None:
    field = side.locator("[name=text]")
    field.fill(text)
    side.locator(".count").filter(has_text="token").wait_for()
    field.press("Control+Enter")
    _wait(page, side)


def _wait(page: Any, side: Any) -> None:
    """Until the side is done, and its text is measured."""
    side.locator(".stop:disabled").wait_for()
    page.wait_for_timeout(1000)


if __name__ == "__main__":
    main()
