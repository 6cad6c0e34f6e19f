// Requests to the server that this page is from, and answers that come bit by bit.

let key = "";

/** Sends this key with every request from now on. */
export function useKey(given) {
  key = given;
}

/** What the server, or the way to it, has against a request: a line for whoever reads it. */
export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The server's answer to a request, as JSON; `body` undefined: nothing is sent along. */
export async function ask(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** The events of an answer as they come, each parsed from its JSON. */
export async function* listen(path, body, signal) {
  const answer = await send(path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reading(reader);
    if (done) throw new Refusal("The answer broke off before its end.");
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const data of events.map(dataOf).filter(Boolean)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refusal(event.error.message);
      yield event;
    }
  }
}

async function send(path, body, signal) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (key) headers.Authorization = `Bearer ${key}`;
  const method = body ? "POST" : "GET";
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    throw reached(error);
  }
  if (answer.ok) return answer;
  let message = `The server answers ${answer.status} ${answer.statusText}`.trim();
  try {
    message = (await answer.json()).error.message;
  } catch {
    // What stands before the server answers in its own form.
  }
  throw new Refusal(message, answer.status);
}

async function reading(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw reached(error);
  }
}

/** An error of the way: a request that was given up stays what it is. */
function reached(error) {
  return error.name === "AbortError"
    ? error
    : new Refusal("The server does not answer: is it still running?");
}

/** The data of a server-sent event; empty, for a comment. */
function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}
