// One model at work: its text or conversation, its settings, and what it writes.

import { Editor, plural } from "./editor.js";
import * as reading from "./reading.js";
import { Refusal, ask, listen } from "./server.js";
import { drawSources } from "./sources.js";
import { meanBits, ofChat, ofCompletion, ofText, partsOf } from "./tokens.js";
import { Written } from "./written.js";

const MASK = "[MASK]";
const ALTERNATIVES = 5;
const MODES = {
  complete: { run: "Complete", text: "Text", hint: "Text that the model goes on from." },
  chat: { run: "Send", text: "Message", hint: "A message to the model." },
  fill: { run: "Fill in", text: "Text", hint: `Text with ${MASK} where tokens are missing.` },
};
/** How a value of a slider is shown, where it is not the number itself. */
const SHOWN = {
  temperature: (value) => (value === 0 ? "0, the likeliest" : value.toFixed(2)),
  "fill-temperature": (value) => (value === 0 ? "0, the likeliest" : value.toFixed(2)),
  "top-p": (value) => (value === 1 ? "off" : value.toFixed(2)),
  "top-k": (value) => (value === 0 ? "off" : String(value)),
  "min-p": (value) => (value === 0 ? "off" : value.toFixed(2)),
  repetition: (value) => (value === 1 ? "off" : value.toFixed(2)),
  count: String,
};
const ENDINGS = { stop: "ended by itself", length: "cut at the most", user: "stopped" };

export class Side {
  /** `name` is how the side is called; `say` reads a line aloud to who cannot see. */
  constructor(name, models, say) {
    this.name = name;
    this.models = models;
    this.say = say;
    this.running = null;
    this.ended = Promise.resolve();
    this.messages = [];
    const template = document.getElementById("side");
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.setAttribute("aria-label", `Model ${name}`);
    for (const label of this.element.querySelectorAll("[data-for]")) {
      const field = this.#field(label.dataset.for);
      field.id = `${name}-${label.dataset.for}`;
      label.htmlFor = field.id;
    }
    this.editor = new Editor(this.element, () => this.#question());
    this.written = new Written(this.#find(".written"), `What model ${name} writes`, (...chosen) =>
      this.#choose(...chosen),
    );
    this.#listen();
    this.#offerModels();
    this.#showSettings();
  }

  get model() {
    return this.models.find(({ id }) => id === this.#field("model").value);
  }

  set model(model) {
    this.#field("model").value = model.id;
    this.#modelChanged();
  }

  get mode() {
    return this.#find(".modes input:checked")?.value;
  }

  set mode(mode) {
    for (const radio of this.#all(".modes input")) radio.checked = radio.value === mode;
    this.#modeChanged();
  }

  /** What the side has to hand over: its text with what was written. */
  get result() {
    if (this.mode === "chat") return this.messages.at(-1)?.content ?? "";
    return this.written.whole;
  }

  /** Lets the side hand its result over to another; null: there is no other. */
  set neighbour(side) {
    this.other = side;
    this.#find(".hand").textContent = side ? `Hand over to ${side.name}` : "";
    this.#showAnswer();
  }

  /** Takes a text that another side hands over, and goes on from it if that is what it does. */
  receive(text) {
    this.editor.text = text;
    this.editor.field.focus();
    if (this.mode === "complete") this.run();
  }

  /** Runs what the mode is for; what is running ends first. */
  async run() {
    if (this.mode === "chat") await this.#chat();
    else if (this.mode === "fill") await this.#fill(this.editor.text);
    else if (this.mode) await this.#complete(this.editor.text, []);
  }

  /** Ends what is running; whether something was. */
  stop() {
    const was = this.running !== null;
    this.running?.abort();
    return was;
  }

  async #complete(given, kept) {
    const prompt = given + kept.map((part) => part.text).join("");
    if (!prompt) return this.#fail("There is no text to go on from.");
    await this.#work(async (signal, seed) => {
      this.#begin(given, kept);
      const body = { ...this.#sampling(seed), prompt, logprobs: ALTERNATIVES };
      body.max_tokens = this.#number("count");
      await this.#write("/v1/completions", body, signal, (choice) => ({
        text: choice.text,
        tokens: ofCompletion(choice),
      }), kept, this.written);
    });
  }

  async #chat() {
    const content = this.editor.text;
    if (!content) return this.#fail("There is no message to send.");
    await this.#work(async (signal, seed) => {
      const message = { role: "user", content };
      const talk = this.messages;
      talk.push(message);
      this.editor.text = "";
      this.#drawTalk();
      try {
        await this.#answer([], signal, seed);
      } finally {
        if (talk.at(-1) === message) {
          // Nothing was answered: the message is in the writer's hands again.
          talk.pop();
          this.#drawTalk();
          if (!this.editor.text) this.editor.text = content;
        }
      }
    });
  }

  /** Has the model answer the messages, or go on with its answer from what is kept of it. */
  async #answer(kept, signal, seed) {
    const system = this.#field("system").value;
    const before = system ? [{ role: "system", content: system }] : [];
    const messages = [...before, ...this.messages.map(({ role, content }) => ({ role, content }))];
    const body = { ...this.#sampling(seed), messages, logprobs: true };
    body.top_logprobs = ALTERNATIVES;
    body.max_completion_tokens = this.#number("count");
    if (this.model.index) body.retrieve = this.#field("retrieve").checked;
    const begun = kept.map((part) => part.text).join("");
    if (begun) {
      messages.push({ role: "assistant", content: begun });
      body.continue_final_message = true;
    }
    const talk = this.messages; // another conversation may begin before this answer ends
    const message = { role: "assistant", content: begun, parts: kept };
    const written = this.#drawMessage(message);
    written.element.classList.add("writing");
    const line = written.element.parentElement;
    const hear = ({ retrieval, choices: [choice] }) => {
      message.retrieval ??= retrieval;
      message.said = choice?.said_in_sources ?? message.said;
      if (retrieval || choice?.finish_reason) {
        drawSources(line.querySelector(".sources"), message.retrieval, message.said);
      }
    };
    try {
      await this.#write("/v1/chat/completions", body, signal, (choice) => ({
        text: choice.delta.content ?? "",
        tokens: ofChat(choice),
      }), kept, written, line.querySelector(".measured"), hear);
    } finally {
      written.element.classList.remove("writing");
      Object.assign(message, { content: written.text, parts: written.parts });
      message.measured = line.querySelector(".measured").textContent;
      if (message.content) talk.push(message);
      else line.remove();
    }
    if (!message.content && !signal.aborted) throw new Refusal("The answer has nothing in it.");
  }

  async #fill(text) {
    if (!text.includes(MASK)) return this.#fail(`Put ${MASK} where a token is to be found.`);
    await this.#work(async (signal, seed) => {
      this.#begin("", []);
      const body = { ...this.#sampling(seed), prompt: text, mask: MASK };
      body.temperature = this.#number("fill-temperature");
      body.order = this.#field("order").value;
      body.alternatives = ALTERNATIVES;
      const started = performance.now();
      const answer = await ask("/v1/fill", body, signal);
      // Only what was filled has a probability here.
      const tokens = ofText(answer.tokens).map((token) =>
        token.filled ? token : { ...token, logP: null, alternatives: [] },
      );
      this.filledText = text;
      this.written.draw(partsOf(answer.text, tokens));
      const filled = this.written.parts.filter((part) => part.filled);
      this.#measured(this.#find(".answer .measured"), filled, started, "", seed);
      this.say(`Model ${this.name} filled in: ${answer.text}`);
    });
  }

  /** Writes an answer as it comes, after the parts that are kept. */
  async #write(
    path, body, signal, read, kept, written,
    line = this.#find(".answer .measured"), hear = () => {},
  ) {
    let text = "";
    const tokens = [];
    let reason = "";
    const started = performance.now();
    try {
      for await (const event of listen(path, body, signal)) {
        hear(event);
        const choice = event.choices[0];
        if (!choice) continue;
        const come = read(choice);
        text += come.text;
        tokens.push(...come.tokens);
        reason = choice.finish_reason ?? reason;
        written.draw([...kept, ...partsOf(text, tokens)]);
        this.#showAnswer();
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      reason = "user";
    }
    this.#measured(line, partsOf(text, tokens), started, ENDINGS[reason] ?? reason, body.seed);
    this.say(`Model ${this.name}, ${line.textContent}: ${text}`);
  }

  #measured(line, parts, started, ending, seed) {
    const count = parts.reduce((sum, part) => sum + (part.count ?? 1), 0);
    const seconds = (performance.now() - started) / 1000;
    const rate = count && ending ? `${(count / seconds).toFixed(1)} tokens/s` : "";
    const facts = [plural(count, "token"), meanBits(parts), rate, `seed ${seed}`, ending];
    line.textContent = facts.filter(Boolean).join(", ");
  }

  /** Puts an alternative in place of a token, and has the model go on from there. */
  async #choose(index, alternative) {
    const parts = this.written.parts;
    if (this.mode === "fill") {
      const before = parts.slice(0, index).filter((part) => part.filled).length;
      const places = this.filledText.split(MASK);
      const left = places.slice(0, before + 1).join(MASK);
      const right = places.slice(before + 1).join(MASK);
      this.editor.text = `${left}${alternative.text}${right}`;
      if (right.includes(MASK) || left.includes(MASK)) await this.#fill(this.editor.text);
      else this.editor.field.focus();
      return;
    }
    await this.#complete(this.given, withChosen(parts, index, alternative));
  }

  async #chooseInTalk(message, index, alternative) {
    const kept = withChosen(message.parts, index, alternative);
    await this.#work(async (signal, seed) => {
      this.messages = this.messages.slice(0, this.messages.indexOf(message));
      this.#drawTalk();
      await this.#answer(kept, signal, seed);
    });
  }

  /** Does one thing at a time, with its failure in a line where it was asked for. */
  async #work(task) {
    this.running?.abort();
    reading.close();
    this.#fail("");
    const mine = new AbortController();
    this.running = mine;
    this.#showRunning();
    // What is given up writes its last, before anything else is written.
    const { promise, resolve } = Promise.withResolvers();
    const before = this.ended;
    this.ended = promise;
    await before;
    try {
      if (!mine.signal.aborted) await task(mine.signal, this.#seed());
    } catch (error) {
      if (error instanceof Refusal) this.#fail(error.message);
      else if (error.name !== "AbortError") throw error;
    } finally {
      resolve();
      if (this.running === mine) this.running = null;
      this.#showRunning();
      this.#showAnswer();
    }
  }

  #begin(given, kept) {
    this.given = given;
    this.written.given = given;
    this.written.draw(kept);
    this.#find(".answer .measured").textContent = "";
    this.#showAnswer();
  }

  #sampling(seed) {
    const asked = { model: this.model.id, temperature: this.#number("temperature"), seed };
    asked.top_p = this.#number("top-p");
    if (this.#number("top-k")) asked.top_k = this.#number("top-k");
    if (this.#number("min-p")) asked.min_p = this.#number("min-p");
    if (this.#number("repetition") !== 1) asked.repetition_penalty = this.#number("repetition");
    return asked;
  }

  #seed() {
    const given = this.#field("seed").value.trim();
    if (!given) return Math.floor(Math.random() * 10_000); // short enough to be typed again
    const seed = Number(given);
    if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 31) {
      throw new Refusal(`Seed ${given}: must be a whole number from 0 to ${2 ** 31 - 1}.`);
    }
    return seed;
  }

  #question() {
    if (!this.model) return null;
    const { mode } = this;
    const of = { complete: "next", chat: "nothing", fill: "pseudo" }[mode];
    return { model: this.model.id, of, ...(mode === "fill" && { mask: MASK }) };
  }

  #fail(message) {
    this.#find(".error").textContent = message;
  }

  #drawTalk() {
    this.#find(".talk").replaceChildren();
    for (const message of this.messages) this.#drawMessage(message);
    this.#find(".anew").disabled = this.messages.length === 0;
  }

  /** Adds a message to the conversation that is shown; what draws an answer's tokens. */
  #drawMessage(message) {
    const [line, who, text, measured, sources] = ["li", "span", "div", "p", "div"].map((name) =>
      document.createElement(name),
    );
    who.className = "who";
    who.textContent = message.role === "user" ? "You" : "Model";
    text.className = "message";
    measured.className = "measured";
    measured.textContent = message.measured ?? "";
    sources.className = "sources";
    drawSources(sources, message.retrieval, message.said);
    line.append(who, text, ...(message.role === "user" ? [] : [measured, sources]));
    this.#find(".talk").append(line);
    if (message.role === "user") {
      text.textContent = message.content;
      return null;
    }
    const choose = (...chosen) => this.#chooseInTalk(message, ...chosen);
    const written = new Written(text, `Answer of model ${this.name}`, choose);
    written.draw(message.parts);
    return written;
  }

  #listen() {
    this.#find(".run").addEventListener("click", () => this.run());
    this.#find(".stop").addEventListener("click", () => this.stop());
    this.#find(".mask").addEventListener("click", () => this.editor.insert(MASK));
    this.#find(".anew").addEventListener("click", () => this.#talkAnew());
    this.#find(".add").addEventListener("click", () => {
      this.editor.text = this.result;
      this.editor.field.focus();
    });
    this.#find(".hand").addEventListener("click", () => this.other.receive(this.result));
    this.#field("model").addEventListener("change", () => this.#modelChanged());
    this.#find(".modes").addEventListener("change", () => this.#modeChanged());
    this.#find(".settings").addEventListener("input", () => this.#showSettings());
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.run();
    });
  }

  #offerModels() {
    const options = this.models.map(({ id, can }) => {
      const option = new Option(id, id);
      option.disabled = !can.some((each) => each in MODES);
      return option;
    });
    this.#field("model").replaceChildren(...options);
    for (const radio of this.#all(".modes input")) radio.name = `${this.name}-mode`;
  }

  #modelChanged() {
    const { can, context, index } = this.model;
    this.#find(".index-name").textContent = index ?? "";
    this.#field("count").max = Math.min(512, (context ?? 513) - 1);
    this.#showSettings();
    for (const radio of this.#all(".modes input")) radio.disabled = !can.includes(radio.value);
    const possible = Object.keys(MODES).filter((mode) => can.includes(mode));
    this.mode = possible.includes(this.mode) ? this.mode : possible[0];
  }

  #modeChanged() {
    this.stop();
    const { mode } = this;
    const { run, text, hint } = MODES[mode];
    this.#find(".run").textContent = run;
    this.#find("[data-for=text]").textContent = text;
    this.editor.field.placeholder = hint;
    this.element.classList.toggle("talking", mode === "chat");
    this.#find(".talk").hidden = mode !== "chat";
    this.#find(".anew").hidden = mode !== "chat";
    this.#find(".mask").hidden = mode !== "fill";
    for (const setting of this.#all("[data-modes]")) {
      setting.hidden = !setting.dataset.modes.split(" ").includes(mode);
    }
    this.#find(".retrieving").hidden ||= !this.model.index;
    this.#begin("", []);
    this.#talkAnew();
    this.#fail("");
    this.editor.measure();
  }

  #talkAnew() {
    this.stop();
    this.messages = [];
    this.#drawTalk();
  }

  #showSettings() {
    for (const slider of this.#all("input[type=range]")) {
      const shown = SHOWN[slider.name](slider.valueAsNumber);
      slider.parentElement.querySelector("output").textContent = shown;
      slider.setAttribute("aria-valuetext", shown);
    }
  }

  #showRunning() {
    const running = this.running !== null;
    this.element.classList.toggle("running", running);
    this.#find(".stop").disabled = !running;
  }

  #showAnswer() {
    const something = Boolean(this.running) || this.written.parts.length > 0;
    this.#find(".answer").hidden = this.mode === "chat" || !something;
    this.#find(".hand").hidden = !this.other;
  }

  #number(name) {
    return this.#field(name).valueAsNumber;
  }

  #field(name) {
    return this.#find(`[name="${name}"]`);
  }

  #find(selector) {
    return this.element.querySelector(selector);
  }

  #all(selector) {
    return this.element.querySelectorAll(selector);
  }
}

/** The parts up to one that another token is put in place of. */
function withChosen(parts, index, { text, logP }) {
  const { alternatives } = parts[index];
  return [...parts.slice(0, index), { text, logP, alternatives, filled: false }];
}
