"""The playground in a real browser, against the real server with tiny models."""

import itertools
import json
import re
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm.data import Bytes
from lm.model import Transformer
from lm.objectives import Causal, Masked
from lm.retrieval.index import building
from lm.serve.retriever import open_retriever
from tests.makers import save_untrained
from tests.serve.conftest import Served, served

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium and no chrome")

LENGTH = 1024
# Texts are of few lengths, as programs are compiled for each power of two.
PATIENCE = 60_000
"""Milliseconds in which programs are compiled, on a machine that has other things to do."""
expect.set_options(timeout=PATIENCE)
PROMPT = "The keeper climbed the stairs"


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a model that writes letters, and one that fills them in."""
    folder = tmp_path_factory.mktemp("letters")
    model = Transformer(depth=1, width=16, heads=4, output_bias="bias")
    for name, objective in (("gpt", Causal()), ("bert", Masked())):
        tokenizer = Bytes(chat_template="plain" if name == "gpt" else None)
        save_untrained(folder / name, objective, model, length=LENGTH, tokenizer=tokenizer)
        arrays = load_file(folder / name / "model.safetensors")
        letters = [byte + tokenizer.open().vocabulary.first_ordinary for byte in b" etaoin"]
        arrays["output_bias"] = np.full_like(arrays["output_bias"], -9.0)
        arrays["output_bias"][letters] = np.linspace(1.0, -3.0, len(letters))
        save_file(arrays, folder / name / "model.safetensors")
    with served(folder, "gpt", "bert") as server:
        yield server


@pytest.fixture(scope="module")
def url(playground: Served) -> str:
    """Its address."""
    return playground.url


@pytest.fixture
def post(url: str) -> Callable[[str, Any], Any]:
    """Asks the server without a browser."""

    def ask(path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    return ask


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Tests may run as root, where Chromium has no sandbox.
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """The page, which reached no other origin and of which the console says nothing bad."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.bad = []
    page.on("console", lambda m: m.type in ("error", "warning") and page.bad.append(m.text))
    page.on("pageerror", lambda error: page.bad.append(str(error)))
    page.on("request", lambda r: r.url.startswith(url) or page.bad.append(r.url))
    page.goto(url)
    expect(page.locator(".side").first).to_be_visible()
    yield page
    context.close()
    assert not page.bad


FOCUSED = """() => {
  const at = document.activeElement;
  if (at === document.body) return null;
  at.dataset.reached = true;
  const shown = at.type === "radio" ? at.nextElementSibling : at;
  const { outlineStyle, outlineWidth } = getComputedStyle(shown);
  return { what: at.outerHTML, outline: `${outlineStyle} ${outlineWidth}` };
}"""
"""Marks what has the focus, and says how that is shown."""


class Side:
    """One side of the page, as a reader uses it."""

    def __init__(self, page: Any, number: int = 0) -> None:
        self.page, self.all = page, page.locator(".side").nth(number)
        self.text = self.all.locator("[name=text]")
        self.count = self.all.locator(".count")
        self.tokens = self.all.locator(".written .token")
        self.measured = self.all.locator(".answer .measured")

    def set(self, name: str, value: float | str) -> None:
        self.all.locator(f"[name={name}]").fill(str(value))

    def do(self, mode: str) -> None:
        self.all.get_by_role("radio", name=mode).check()

    def run(self, text: str | None = None) -> None:
        """Runs by the keyboard, and waits until it is done."""
        if text is not None:
            self.text.fill(text)
        self.text.press("Control+Enter")
        self.wait()

    def wait(self) -> None:
        expect(self.all.locator(".stop")).to_be_disabled()

    def answer(self) -> str:
        return "".join(self.tokens.all_text_contents())


@pytest.fixture
def side(page: Any) -> Side:
    return Side(page)


def test_typing_counts_and_colours_tokens(side):
    """Fails if what is typed is not measured, or the colours stand beside their letters."""
    side.text.press_sequentially("a naïve")
    expect(side.count).to_contain_text("8 tokens, 8 bytes")
    expect(side.count).to_contain_text("bits per byte")
    coloured = side.all.locator(".mirror .token")
    # Two bytes make up one letter, which is one part of the text.
    expect(coloured).to_have_text(list("a naïve"), use_inner_text=False)
    assert "level-" in coloured.nth(4).get_attribute("class")
    # A letter stands where it is coloured: the field and what is behind it break alike.
    side.page.set_viewport_size({"width": 360, "height": 740})
    side.text.fill("long words " * 5)
    expect(side.count).to_contain_text("55 tokens")
    behind = side.all.locator(".mirror").bounding_box()
    assert side.text.bounding_box() == behind
    assert side.text.evaluate("field => field.scrollHeight <= field.offsetHeight")


def test_a_completion_streams_in(side, post):
    """Fails if the answer comes at once, or is another than the one without streaming."""
    side.set("seed", 7)
    side.all.locator(".written").evaluate(
        "element => {window.batches = 0; new MutationObserver(() => window.batches += 1)"
        ".observe(element, {childList: true})}"
    )
    side.run(PROMPT)
    expect(side.measured).to_contain_text("64 tokens")
    expect(side.measured).to_contain_text("seed 7, cut at the most")
    assert side.page.evaluate("window.batches") > 5
    asked = {"model": "gpt", "prompt": PROMPT, "max_tokens": 64, "seed": 7}
    assert side.answer() == post("/v1/completions", asked)["choices"][0]["text"]
    # Whoever cannot see reads the whole of it.
    expect(side.page.locator("#said")).to_contain_text(side.answer())


STOP_AT_FOUR = """how => {
  const watch = new MutationObserver(() => {
    if (document.querySelectorAll(".written .token").length < 4) return;
    watch.disconnect();
    if (how === "button") document.querySelector(".stop").click();
    else document.activeElement.dispatchEvent(
      new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  });
  watch.observe(document.body, { childList: true, subtree: true });
}"""
"""In the page itself, as the answer may be there before a test has its turn."""


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_stops(side, how):
    """Fails if a run goes on after the button or the key."""
    side.set("count", 960)
    side.page.evaluate(STOP_AT_FOUR, how)
    side.text.fill(PROMPT)
    side.text.press("Control+Enter")
    expect(side.tokens.nth(3)).to_be_visible()
    side.wait()
    expect(side.measured).to_contain_text("stopped")
    count = side.tokens.count()
    assert 3 < count < 960
    side.page.wait_for_timeout(100)
    assert side.tokens.count() == count


def test_alternatives_on_hover_are_chosen_by_a_click(side):
    """Fails if pointing shows nothing, or the text does not go on from the one chosen."""
    side.set("seed", 7)  # with which no two tokens are of one letter
    side.run(PROMPT)
    before = side.tokens.all_text_contents()
    side.tokens.nth(5).hover()
    reading = side.page.locator("#reading")
    expect(reading).to_contain_text(re.compile(r"\d %, [\d.]+ bits"))
    other = reading.locator("button:not([aria-current])").first
    chosen = other.locator(".spelled").text_content().replace("·", " ")
    other.click()
    expect(reading).to_be_hidden()
    side.wait()
    after = side.tokens.all_text_contents()
    assert after[:6] == [*before[:5], chosen]
    assert len(after) == 6 + 64
    # Away from it, it goes.
    side.tokens.nth(2).hover()
    expect(reading).to_be_visible()
    side.page.mouse.move(2, 2)
    expect(reading).to_be_hidden()


def test_alternatives_by_keyboard(side):
    """Fails if a token is reached by the pointer alone, or focus gets lost on the way back."""
    side.set("seed", 7)  # with which no two tokens are of one letter
    side.run(PROMPT)
    side.tokens.first.focus()
    reading = side.page.locator("#reading")
    expect(reading).to_be_visible()
    for _ in range(4):
        side.page.keyboard.press("ArrowRight")
    expect(side.tokens.nth(4)).to_be_focused()
    expect(side.all.locator(".written [tabindex='0']")).to_have_count(1)
    before = side.tokens.all_text_contents()
    side.page.keyboard.press("ArrowDown")
    expect(reading.locator("button").first).to_be_focused()
    side.page.keyboard.press("Escape")
    expect(side.tokens.nth(4)).to_be_focused()
    expect(reading).to_be_hidden()
    side.page.keyboard.press("Enter")
    side.page.keyboard.press("ArrowDown")
    chosen = reading.locator("button:focus .spelled").text_content().replace("·", " ")
    side.page.keyboard.press("Enter")
    side.wait()
    expect(side.tokens).to_have_count(5 + 64)
    assert side.tokens.all_text_contents()[:5] == [*before[:4], chosen]


def test_the_text_is_read_at_the_caret(side):
    """Fails if tokens that were typed have no alternatives, or choosing one loses the rest."""
    side.text.fill("abcd")
    expect(side.count).to_contain_text("4 tokens")
    side.text.press("Home")
    side.text.press("ArrowRight")
    side.text.press("Alt+ArrowDown")
    focused = side.page.locator("#reading button:focus .spelled")
    chosen = focused.text_content().replace("·", " ")
    side.page.keyboard.press("Enter")
    expect(side.text).to_have_value(f"a{chosen}cd")
    expect(side.text).to_be_focused()


def test_blanks_are_filled_and_filled_again(side):
    """Fails if a blank stays, or a token that is chosen for one is not kept."""
    side.all.locator("[name=model]").select_option("bert")
    side.text.fill("The kee")
    side.all.get_by_role("button", name="Insert a blank").click()
    expect(side.text).to_have_value("The kee[MASK]")
    side.run("The [MASK]eep[MASK]r")
    filled = side.all.locator(".written .filled")
    expect(filled).to_have_count(2)
    assert re.fullmatch(r"The .eep.r", side.answer(), re.DOTALL)
    filled.first.hover()
    other = side.page.locator("#reading button:not([aria-current])").first
    chosen = other.locator(".spelled").text_content().replace("·", " ")
    other.click()
    expect(side.text).to_have_value(f"The {chosen}eep[MASK]r")
    side.wait()
    expect(filled).to_have_count(1)
    assert side.answer().startswith(f"The {chosen}eep")
    expect(side.count).to_contain_text("pseudo")


def test_the_gpt_continues_what_the_bert_fills(side):
    """Fails if what one side wrote does not reach the other."""
    side.page.get_by_role("checkbox", name="Two models side by side").check()
    expect(side.all.locator("[name=model]")).to_have_value("bert")
    other = Side(side.page, 1)
    expect(other.all.locator("[name=model]")).to_have_value("gpt")
    side.run("The [MASK]eep")
    filled = side.answer()
    side.all.get_by_role("button", name="Hand over to B").click()
    expect(other.text).to_have_value(filled)
    expect(other.measured).to_contain_text("64 tokens")
    expect(other.all.locator(".written .given")).to_have_text(filled)


def test_an_answer_shows_its_sources(page, playground, tmp_path, monkeypatch):
    """Fails if a source is shown without its lines, or what nothing supports looks answered."""
    (tmp_path / "water.txt").write_text("A <b>keel</b> keeps\n\nships upright.\n")
    with building(tmp_path / "made", words_only=True) as builder:
        builder.add([tmp_path / "water.txt"])
        builder.finish()
    retriever = open_retriever(tmp_path / "made", model=None, sources=2)
    monkeypatch.setattr(playground.server, "retriever", retriever)
    page.reload()
    side = Side(page)
    side.do("Chat")
    side.set("count", 8)
    expect(side.all.locator(".retrieving")).to_contain_text("Answer from made")
    side.run("What keeps ships upright?")
    sources = side.all.locator(".talk .sources")
    expect(sources.locator(".source summary")).to_have_text(
        re.compile(r"\[1\] .*water\.txt:1-3$")
    )
    expect(sources.locator("blockquote")).to_contain_text("A <b>keel</b> keeps")
    expect(sources).to_contain_text("of the answer's words")
    side.run("Who paints zebras?")
    expect(side.all.locator(".talk li").last).to_contain_text("Nothing in the index supports")
    expect(sources.last).to_contain_text("0 sources, none of which supports an answer")
    side.all.locator("[name=retrieve]").uncheck()
    side.run("Who paints zebras?")
    expect(sources).to_have_count(3)
    expect(sources.last).to_be_empty()


def test_a_conversation(side):
    """Fails if a turn forgets the one before, or an answer cannot take another way."""
    side.do("Chat")
    asked = []
    side.page.on("request", lambda r: "chat" in r.url and asked.append(r.post_data_json))
    side.set("system", "Be brief.")
    side.set("count", 8)
    side.run("Who are you?")
    side.run("And <b>I</b>?")
    talk = side.all.locator(".talk li")
    expect(talk).to_have_count(4)
    expect(talk.nth(2)).to_contain_text("And <b>I</b>?")
    answers = side.all.locator(".talk [role=listbox]")
    first = answers.first.text_content()
    assert [each["role"] for each in asked[1]["messages"]] == [
        *("system", "user", "assistant", "user"),
    ]
    assert asked[1]["messages"][2]["content"] == first
    answers.last.locator(".token").nth(2).hover()
    kept = answers.last.locator(".token").all_text_contents()[:2]
    other = side.page.locator("#reading button:not([aria-current])").first
    chosen = other.locator(".spelled").text_content().replace("·", " ")
    other.click()
    side.wait()
    answered = answers.last.locator(".token").all_text_contents()
    assert answered[:3] == [*kept, chosen]
    assert len(answered) > 3
    assert asked[2]["messages"][-1] == {"role": "assistant", "content": "".join(answered[:3])}
    assert first == answers.first.text_content()
    # What is sent while an answer comes ends it, and stands after what there is of it.
    side.set("count", 960)
    side.text.fill("More")
    side.text.press("Control+Enter")
    expect(answers.last.locator(".token").nth(2)).to_be_visible()
    side.set("count", 8)
    side.run("Enough")
    roles = [each["role"] for each in asked[-1]["messages"]]
    assert roles == ["system", *["user", "assistant"] * 3, "user"]
    side.all.get_by_role("button", name="New conversation").click()
    expect(talk).to_have_count(0)


def test_what_is_refused_is_said_in_a_line(side):
    """Fails if an error is lost, or stays when the next run does well."""
    error = side.all.locator(".error")
    side.run(PROMPT)
    side.set("seed", "no number")
    side.run()
    expect(error).to_contain_text("Seed no number: must be a whole number from 0")
    side.set("seed", "")
    side.run("long " * 600)
    expect(error).to_contain_text("the model sees 1024")
    assert side.page.bad  # the console has the answer's status
    side.page.bad.clear()
    side.run(PROMPT)
    expect(error).to_be_hidden()


def test_a_server_with_keys_is_given_one(side):
    """Fails if the page stays empty where a key is needed, or does not send the one it has."""
    page = side.page
    refusal = {"error": {"message": "there is no key"}}

    def guard(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer secret":
            route.fallback()
        else:
            route.fulfill(status=401, json=refusal)

    page.route("**/v1/models", guard)
    page.reload()
    entry = page.get_by_label("This server asks for a key")
    expect(entry).to_be_focused()
    entry.fill("wrong")
    entry.press("Enter")
    expect(page.locator("#failure")).to_have_text("there is no key")
    entry.fill("secret")
    entry.press("Enter")
    expect(side.text).to_be_focused()
    expect(entry).to_be_hidden()
    page.bad.clear()  # the console has the answers' status


def test_nothing_scrolls_sideways_on_a_narrow_screen(side):
    """Fails if anything is wider than a small telephone."""
    page = side.page
    page.set_viewport_size({"width": 360, "height": 740})
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    for mode in ("Complete", "Chat"):
        side.do(mode)
        side.run("unbroken" * 7)
        assert page.evaluate(fits), mode
        side.all.locator(".token").last.hover()
        assert page.evaluate(fits), f"{mode}, with alternatives"
    side.all.locator("summary").click()
    page.get_by_role("checkbox", name="Two models side by side").check()
    assert page.evaluate(fits)
    boxes = [each.bounding_box() for each in page.locator(".side").all()]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]


def test_no_text_becomes_html(side):
    """Fails if a text that spells an element makes one."""
    evil = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    side.page.on("dialog", lambda dialog: side.page.bad.append(dialog.message))
    side.run(evil)
    expect(side.all.locator(".written")).to_contain_text(evil)
    expect(side.all.locator(".mirror")).to_contain_text(evil)
    side.do("Chat")
    side.run(evil)
    expect(side.all.locator(".talk li").first).to_contain_text(evil)
    assert side.page.locator("img, body script").count() == 0
    # And the policy is in force: the browser itself refuses to make any.
    with pytest.raises(sync_api.Error, match="TrustedHTML"):
        side.page.evaluate("document.body.innerHTML = '<b>no</b>'")
    side.page.bad.clear()


def test_every_control_has_a_name_and_is_reached_with_a_visible_focus(side):
    """Fails if a control has no label, is skipped by Tab, or does not show that it is on."""
    page = side.page
    page.get_by_role("checkbox", name="Two models side by side").check()
    for number in (0, 1):
        Side(page, number).all.locator("summary").click()
    side.run("The [MASK]eep")
    controls = page.locator(
        "button:enabled:visible, input:visible:not([type=radio]), select:visible,"
        " textarea:visible, summary:visible"
    )
    names = controls.evaluate_all(
        "all => all.map(each => (each.labels?.[0] ?? each).textContent.trim())"
    )
    assert all(names)
    page.locator("h1").click()
    for _ in range(80):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            break
        assert focused["outline"] == "solid 2px", focused
    missed = controls.evaluate_all(
        "all => all.filter(each => !each.dataset.reached).map(each => each.outerHTML)"
    )
    assert not missed
    assert page.locator(".modes input[data-reached]").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_probability_is_told_by_lightness_and_text_is_read_on_it(page, scheme):
    """Fails if two classes swap their order without hue, or a letter drowns in its class."""
    page.emulate_media(color_scheme=scheme)
    ink = luminance(page.locator("body").evaluate("it => getComputedStyle(it).color"))
    # The likeliest tokens have the paper itself behind them.
    behind = page.locator(".side:visible, .legend li:not(.level-0)")
    colours = behind.evaluate_all("all => all.map(it => getComputedStyle(it).backgroundColor)")
    *classes, paper = map(luminance, colours)
    classes = [paper, *classes]
    assert len(classes) == 5
    steps = [after / before for before, after in itertools.pairwise(classes)]
    darker = [1 / step if scheme == "light" else step for step in steps]
    assert min(darker) > 1.05
    contrast = [(max(ink, x) + 0.05) / (min(ink, x) + 0.05) for x in classes]
    assert min(contrast) > 4.5


def luminance(colour: str) -> float:
    """Relative luminance: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    parts = [int(each) / 255 for each in re.findall(r"\d+", colour)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_motion_stops_where_it_is_not_wanted(page):
    """Fails if the cursor of an answer that comes blinks for who asked for no motion."""
    page.locator(".side").first.evaluate("side => side.classList.add('running')")
    motion = "it => getComputedStyle(it, '::after').animationName"
    written = page.locator(".side .written").first
    assert written.evaluate(motion) == "blink"
    page.emulate_media(reduced_motion="reduce")
    assert written.evaluate(motion) == "none"
