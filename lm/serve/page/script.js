// The page: which models there are, and one or two of them at work.

import * as reading from "./reading.js";
import { Refusal, ask, useKey } from "./server.js";
import { Side } from "./side.js";

const bench = document.getElementById("bench");
const compare = document.getElementById("compare");
const entry = document.getElementById("entry");
const failure = document.getElementById("failure");
const said = document.getElementById("said");
const narrow = matchMedia("(max-width: 1000px)");
const USEFUL = ["complete", "chat", "fill"];

let sides = [];

async function open() {
  failure.textContent = "";
  try {
    const { data } = await ask("/v1/models");
    entry.hidden = true;
    begin(data.map((model) => ({ ...model, can: model.can ?? ["complete"] })));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    entry.hidden = error.status !== 401;
    if (error.status !== 401 || document.getElementById("key").value) {
      failure.textContent = error.message;
    }
    if (!entry.hidden) document.getElementById("key").focus();
  }
}

function begin(models) {
  const useful = models.filter(({ can }) => USEFUL.some((mode) => can.includes(mode)));
  if (!useful.length) {
    failure.textContent = "No model here completes, chats or fills in: there is nothing to try.";
    return;
  }
  sides = ["A", "B"].map((name) => new Side(name, models, (line) => (said.textContent = line)));
  bench.replaceChildren(...sides.map((side) => side.element));
  // Side by side, a model that fills comes first and one that goes on from it second.
  const [fills, completes] = ["fill", "complete"].map((mode) =>
    useful.find(({ can }) => can.includes(mode)),
  );
  sides[0].model = completes ?? useful[0];
  sides[1].model = completes ?? useful[0];
  compare.addEventListener("change", () => {
    const [one, other] = sides;
    if (compare.checked && fills && completes && !one.editor.text) one.model = fills;
    if (compare.checked && one.mode === other.mode && !other.editor.text) {
      other.editor.text = one.editor.text;
    }
    arrange();
  });
  narrow.addEventListener("change", arrange);
  arrange();
  sides[0].editor.field.focus();
}

function arrange() {
  const two = compare.checked;
  if (!two) sides[1].stop();
  bench.classList.toggle("two", two);
  sides[1].element.hidden = !two;
  sides[0].neighbour = two ? sides[1] : null;
  sides[1].neighbour = two ? sides[0] : null;
  for (const { element } of sides) element.querySelector(".settings").open = !two && !narrow.matches;
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented) return;
  if (reading.retreat()) return;
  const here = sides.find(({ element }) => element.contains(document.activeElement));
  if (!here?.stop()) for (const side of sides) side.stop();
});
entry.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(document.getElementById("key").value);
  open();
});

open();
