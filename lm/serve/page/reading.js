// What is read of one token: its probability, and what else might have stood there. It is shown
// beside the token that is pointed at, or has the focus, and holds buttons that choose anew.

import { bits, isWhole, percent, spelled } from "./tokens.js";

const box = document.getElementById("reading");
const list = box.querySelector("ul");
const GAP = 3;

let shown = null;
let leaving = 0;

/**
 * Shows what the model says of `part` beside `span`.
 *
 * `choose` takes an alternative, or is null where none can be; `home` has the focus back when
 * the alternatives give it up.
 */
export function show(span, part, { choose, home }) {
  stay();
  if (shown?.span === span && shown.part === part) return;
  close();
  if (part.logP === null && !part.alternatives.length) return;
  shown = { span, part, choose, home };
  span.classList.add("read");
  box.querySelector(".spelled").textContent = spelled(part.text);
  box.querySelector(".number").textContent =
    part.logP === null ? "" : `${percent(part.logP)}, ${bits(part.logP)} bits`;
  box.querySelector(".note").textContent =
    part.count > 1 ? `${part.count} tokens, which make this up together` : "";
  list.replaceChildren(...part.alternatives.map(row));
  box.hidden = false;
  place(span);
}

/** Hides it. */
export function close() {
  if (!shown) return false;
  stay();
  const { span } = shown;
  shown = null;
  span.classList.remove("read");
  const inside = box.contains(document.activeElement);
  if (inside) document.activeElement.blur();
  box.hidden = true;
  return true;
}

/** Hides it soon, unless the pointer comes to it. */
export function leave() {
  stay();
  leaving = setTimeout(() => {
    if (!box.contains(document.activeElement)) close();
  }, 180);
}

/** Moves the focus to the first alternative, if there is one to choose. */
export function enter() {
  list.querySelector("button")?.focus();
}

/** Gives the focus back, and hides it; whether it was shown. */
export function retreat() {
  const home = shown && box.contains(document.activeElement) ? shown.home : null;
  const was = close();
  home?.focus();
  if (home) close(); // a token that has the focus shows it again
  return was;
}

function stay() {
  clearTimeout(leaving);
}

function row(alternative) {
  const { part, choose } = shown;
  const possible = choose && isWhole(alternative.text);
  const line = document.createElement(possible ? "button" : "div");
  line.className = "row";
  const text = document.createElement("span");
  text.className = "spelled";
  text.textContent = spelled(alternative.text);
  const bar = document.createElement("span");
  bar.className = "bar";
  const filled = document.createElement("i");
  filled.style.width = `${(100 * Math.exp(alternative.logP)).toFixed(1)}%`;
  bar.append(filled);
  const number = document.createElement("span");
  number.className = "number";
  number.textContent = percent(alternative.logP);
  line.append(text, bar, number);
  if (alternative.text === part.text) line.setAttribute("aria-current", "true");
  if (possible) {
    line.type = "button";
    line.addEventListener("click", () => {
      retreat();
      choose(alternative);
    });
  }
  const item = document.createElement("li");
  item.append(line);
  return item;
}

function place(span) {
  const { left, top, bottom } = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const width = document.documentElement.clientWidth;
  const height = document.documentElement.clientHeight;
  const above = bottom + GAP + box.offsetHeight > height && top > height - bottom;
  const x = Math.max(12, Math.min(left, width - box.offsetWidth - 12));
  const y = above ? top - GAP - box.offsetHeight : bottom + GAP;
  box.style.left = `${x + window.scrollX}px`;
  box.style.top = `${y + window.scrollY}px`;
}

box.addEventListener("pointerenter", stay);
box.addEventListener("pointerleave", leave);
box.addEventListener("focusout", ({ relatedTarget }) => {
  if (relatedTarget && !box.contains(relatedTarget)) leave();
});
box.addEventListener("keydown", (event) => {
  const buttons = [...list.querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    event.preventDefault();
    if (at + step < 0) retreat();
    else buttons[Math.min(at + step, buttons.length - 1)].focus();
  }
  // It stands at the end of the page: Tab goes on from the token that it belongs to.
  if (event.key === "Tab") retreat();
});
