// What an answer was written from: passages of the server's index, with where they stand.

import { plural } from "./editor.js";

/** Shows what was found for a question, in an element of its own. */
export function drawSources(element, retrieval, said) {
  element.replaceChildren();
  if (!retrieval) return;
  const { sources, supported } = retrieval;
  const [all, summary] = ["details", "summary"].map((name) => document.createElement(name));
  const found = plural(sources.length, "source");
  summary.textContent = supported ? found : `${found}, none of which supports an answer`;
  all.append(summary, ...sources.map(drawSource));
  all.open = true;
  element.append(all);
  if (said === undefined) return;
  const line = document.createElement("p");
  line.textContent = `${Math.round(100 * said)} % of the answer's words, the rarer the more,`
    + " are in the sources";
  element.append(line);
}

function drawSource({ number, place, similarity, text }) {
  const [source, where, passage] = ["details", "summary", "blockquote"].map((name) =>
    document.createElement(name),
  );
  source.className = "source";
  const similar = similarity === null ? "" : `, similarity ${similarity.toFixed(2)}`;
  where.textContent = `[${number}] ${place}${similar}`;
  passage.textContent = text;
  source.append(where, passage);
  return source;
}
