// Tokens drawn one after the other, one of which is in the tab order: arrow keys go to others.

import * as reading from "./reading.js";
import { percent, spanOf, spelled } from "./tokens.js";

export class Written {
  /** Draws into `element`; `choose(index, alternative)` is asked for another token. */
  constructor(element, label, choose) {
    this.element = element;
    this.choose = choose;
    this.parts = [];
    this.spans = [];
    element.setAttribute("role", "listbox");
    element.setAttribute("aria-orientation", "horizontal");
    element.setAttribute("aria-label", label);
    this.before = document.createElement("span");
    this.before.className = "given";
    this.before.setAttribute("role", "presentation");
    element.replaceChildren(this.before);
    element.addEventListener("pointerover", (event) => this.#point(event));
    element.addEventListener("pointerleave", reading.leave);
    element.addEventListener("focusin", ({ target }) => this.#read(this.spans.indexOf(target)));
    element.addEventListener("focusout", reading.leave);
    element.addEventListener("keydown", (event) => this.#move(event));
  }

  /** The text that stands before the tokens. */
  set given(text) {
    this.before.textContent = text;
  }

  /** The text of the tokens. */
  get text() {
    return this.parts.map((part) => part.text).join("");
  }

  /** The same with what stands before. */
  get whole() {
    return this.before.textContent + this.text;
  }

  /** Draws these parts; what is drawn already and did not change is left as it is. */
  draw(parts) {
    let same = 0;
    while (same < this.parts.length && alike(this.parts[same], parts[same])) same += 1;
    for (const span of this.spans.splice(same)) span.remove();
    const added = parts.slice(same).map((part) => this.#option(part));
    this.spans.push(...added);
    this.element.append(...added);
    this.parts = parts;
    if (this.spans.length && !this.spans.some((span) => span.tabIndex === 0)) {
      this.spans[0].tabIndex = 0;
    }
  }

  #option(part) {
    const span = spanOf(part);
    span.setAttribute("role", "option");
    span.tabIndex = -1;
    const known = part.logP === null ? "" : `, ${percent(part.logP)}`;
    span.setAttribute("aria-label", `${spelled(part.text)}${known}`);
    if (part.filled) span.classList.add("filled");
    if (part.text.startsWith("\n")) span.classList.add("breaks");
    return span;
  }

  #point({ target, pointerType }) {
    const index = this.spans.indexOf(target);
    if (index < 0) reading.leave();
    else if (pointerType !== "touch") this.#read(index);
  }

  #read(index) {
    const span = this.spans[index];
    if (!span) return;
    const choose = this.choose && ((alternative) => this.choose(index, alternative));
    const part = this.parts[index];
    const possible = choose && this.choosable(part) ? choose : null;
    reading.show(span, part, { choose: possible, home: span });
  }

  /** Whether another token may be put in place of a part. */
  choosable(part) {
    return part.logP !== null;
  }

  #move(event) {
    const at = this.spans.indexOf(event.target);
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    if (["ArrowDown", "Enter", " "].includes(event.key)) {
      event.preventDefault();
      this.#read(at);
      reading.enter();
      return;
    }
    const last = this.spans.length - 1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = this.spans[Math.max(0, Math.min(to, last))];
    this.spans[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

function alike(one, other) {
  return other && one.text === other.text && one.logP === other.logP && one.filled === other.filled;
}
