// The text that is typed, with its tokens coloured behind it and counted.

import * as reading from "./reading.js";
import { Refusal, ask } from "./server.js";
import { bytesOf, meanBits, ofText, partsOf, spanOf } from "./tokens.js";

const PAUSE = 250; // milliseconds without a key
const LONGEST_PSEUDO = 600; // letters of a text of which each token is asked for on its own

export class Editor {
  /**
   * `question()` says what is to be measured: {model, of} and what else /v1/tokenize takes; null:
   * nothing. `of` is "next" where probabilities are those of a text that is read from its
   * beginning, "pseudo" where each is of a token between all others, "nothing" where none counts.
   */
  constructor(side, question) {
    this.field = side.querySelector("[name=text]");
    this.mirror = side.querySelector(".mirror");
    this.counted = side.querySelector(".count");
    this.question = question;
    this.parts = [];
    this.spans = [];
    this.drawn = "";
    this.waiting = 0;
    this.asking = new AbortController();
    this.field.addEventListener("input", () => this.#changed());
    this.field.addEventListener("pointermove", (event) => this.#point(event));
    this.field.addEventListener("pointerleave", reading.leave);
    this.field.addEventListener("pointerdown", reading.close);
    this.field.addEventListener("keydown", (event) => this.#readAtCaret(event));
    this.field.addEventListener("scroll", () => (this.field.scrollTop = 0));
    this.#draw("", []);
  }

  get text() {
    return this.field.value;
  }

  set text(text) {
    this.field.value = text;
    this.#changed();
  }

  /** Puts a text where the caret is. */
  insert(text) {
    this.field.focus();
    const { selectionStart, selectionEnd } = this.field;
    this.field.setRangeText(text, selectionStart, selectionEnd, "end");
    this.#changed();
  }

  /** Measures the text now, as what is asked of it has changed. */
  measure() {
    this.#draw(this.text, []);
    this.#measureSoon(0);
  }

  #changed() {
    reading.close();
    const text = this.text;
    let same = 0;
    while (same < text.length && text[same] === this.drawn[same]) same += 1;
    // What was said of the tokens before the change holds; the last of them may have grown.
    const kept = [];
    let length = 0;
    for (const part of this.parts) {
      length += part.text.length;
      if (length >= same && text !== this.drawn) break;
      kept.push(part);
    }
    this.#draw(text, kept);
    this.#measureSoon(PAUSE);
  }

  #measureSoon(pause) {
    clearTimeout(this.waiting);
    this.asking.abort();
    this.asking = new AbortController();
    this.waiting = setTimeout(() => this.#measure(this.asking.signal), pause);
  }

  async #measure(signal) {
    const text = this.text;
    const question = this.question();
    if (!question || !text) {
      this.counted.textContent = text ? `${bytesOf(text)} bytes` : "";
      return;
    }
    const { of, ...asked } = question;
    const counted = of === "nothing" || (of === "pseudo" && text.length > LONGEST_PSEUDO);
    try {
      const body = { ...asked, text, logprobs: !counted };
      const { count, tokens } = await ask("/v1/tokenize", body, signal);
      this.#draw(text, partsOf(text, ofText(tokens)));
      const mean = meanBits(this.parts, "byte");
      const label = mean && of === "pseudo" ? `${mean} (pseudo: each token given all others)` : mean;
      const counts = [plural(count, "token"), plural(bytesOf(text), "byte"), label];
      this.counted.textContent = counts.filter(Boolean).join(", ");
    } catch (error) {
      if (error instanceof Refusal) this.counted.textContent = error.message;
      else if (error.name !== "AbortError") throw error;
    }
  }

  #draw(text, parts) {
    this.drawn = text;
    this.parts = parts;
    this.spans = parts.map(spanOf);
    const rest = text.slice(parts.reduce((sum, part) => sum + part.text.length, 0));
    // Without what has no width, a line break at the end would open no line.
    this.mirror.replaceChildren(...this.spans, `${rest}\u200b`);
  }

  #point({ clientX, clientY, pointerType, buttons }) {
    if (pointerType === "touch" || buttons) return;
    const under = document.elementsFromPoint(clientX, clientY);
    const index = this.spans.findIndex((span) => under.includes(span));
    if (index < 0) reading.leave();
    else this.#read(index);
  }

  #readAtCaret(event) {
    if (!event.altKey || event.key !== "ArrowDown") return;
    event.preventDefault();
    let end = 0;
    const caret = this.field.selectionStart;
    const index = this.parts.findIndex((part) => (end += part.text.length) > caret);
    const found = index < 0 ? this.parts.length - 1 : index;
    if (found < 0) return;
    this.#read(found);
    reading.enter();
  }

  #read(index) {
    const choose = (alternative) => this.#replace(index, alternative.text);
    reading.show(this.spans[index], this.parts[index], { choose, home: this.field });
  }

  /** Puts another token in place of one, and leaves what follows. */
  #replace(index, text) {
    const before = this.parts.slice(0, index).reduce((sum, part) => sum + part.text.length, 0);
    const end = before + this.parts[index].text.length;
    this.field.setRangeText(text, before, end, "end");
    this.field.focus();
    this.#changed();
  }
}

/** A number with its noun. */
export function plural(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
