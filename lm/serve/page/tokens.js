// Tokens: what they are called, how likely they are, and how they stand in a text.
//
// A token is {text, logP, alternatives: [{text, logP}], filled}; logP is a natural logarithm, or
// null where the model has none for it. What is drawn is a part, a token as it stands in a text:
// several tokens that make up one character are one part.

const BOUNDS = [0.5, 0.2, 0.05, 0.01];
const LOG_2 = Math.log(2);
const BYTES = /^bytes:(\\x[0-9a-f]{2})+$/; // how the server calls a part of a character

/** The name of a probability's class: `level-0`, the likely ones, to `level-4`; `unknown`. */
export function level(logP) {
  if (logP === null) return "unknown";
  const under = BOUNDS.filter((bound) => Math.exp(logP) < bound);
  return `level-${under.length}`;
}

/** A probability in percent: at least two digits, or that it is below a millionth. */
export function percent(logP) {
  const value = 100 * Math.exp(logP);
  if (value < 1e-4) return "< 0.0001 %";
  const digits = value < 0.1 ? Math.ceil(-Math.log10(value)) + 1 : value < 9.995 ? 2 : 1;
  return `${value.toFixed(digits)} %`;
}

/** Surprise, in bits. */
export function bits(logP) {
  return Math.abs(logP / LOG_2).toFixed(2);
}

/** A token's text with what is not seen made visible. */
export function spelled(text) {
  if (!text) return "(part of a character)";
  return text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

/** Whether a token can be put into a text: a part of a character cannot. */
export function isWhole(text) {
  return text !== "" && !text.includes("\ufffd") && !BYTES.test(text);
}

/** What a completion's choice says of its tokens. */
export function ofCompletion({ logprobs }) {
  if (!logprobs) return [];
  return logprobs.tokens.map((text, i) => ({
    text,
    logP: logprobs.token_logprobs[i],
    alternatives: ranked(Object.entries(logprobs.top_logprobs?.[i] ?? {})),
  }));
}

/** What a chat's choice says of its tokens. */
export function ofChat({ logprobs }) {
  return (logprobs?.content ?? []).map((each) => ({
    text: each.token,
    logP: each.logprob,
    alternatives: ranked(each.top_logprobs.map(({ token, logprob }) => [token, logprob])),
  }));
}

/** The tokens of /v1/tokenize and /v1/fill. */
export function ofText(tokens) {
  return tokens.map(({ text, logprob, top, filled }) => ({
    text,
    logP: logprob ?? null,
    alternatives: ranked((top ?? []).map((each) => [each.text, each.logprob])),
    filled: filled ?? false,
  }));
}

function ranked(pairs) {
  return pairs.map(([text, logP]) => ({ text, logP })).sort((a, b) => b.logP - a.logP);
}

/**
 * The parts of a text that tokens are, in order and with nothing of it left out.
 *
 * A token that does not stand in the text as it is called (a byte of a character, say) waits
 * for the next one that does, and is one part with those that wait beside it. Tokens that the
 * text has not come to yet are no part of it.
 */
export function partsOf(text, tokens) {
  const parts = [];
  let at = 0;
  let waiting = [];
  const end = (to) => {
    if (to > at || waiting.length) parts.push(joined(text.slice(at, to), waiting));
    at = to;
    waiting = [];
  };
  for (const token of tokens) {
    const reach = waiting.reduce((sum, each) => sum + Math.max(each.text.length, 1), 0);
    const found = isWhole(token.text) ? text.indexOf(token.text, at) : -1;
    if (found < at || found - at > 2 * reach) {
      waiting.push(token);
      continue;
    }
    if (found > at) end(found);
    waiting = [...waiting, token];
    end(at + token.text.length);
  }
  if (at < text.length) end(text.length);
  return parts.filter((part) => part.text);
}

function joined(text, tokens) {
  if (tokens.length === 1) return { ...tokens[0], text };
  const known = tokens.filter((token) => token.logP !== null);
  const logP = known.length ? known.reduce((sum, token) => sum + token.logP, 0) : null;
  const filled = tokens.some((token) => token.filled);
  return { text, logP, alternatives: [], filled, count: tokens.length };
}

/** A span of a part. */
export function spanOf(part) {
  const span = document.createElement("span");
  span.textContent = part.text;
  span.className = `token ${level(part.logP)}`;
  return span;
}

/** Bits per token, in words; empty where no token has a probability. */
export function meanBits(parts, unit = "token") {
  const known = parts.filter((part) => part.logP !== null);
  const sum = known.reduce((total, part) => total - part.logP / LOG_2, 0);
  const units = known.reduce((total, part) => total + sizeOf(part, unit), 0);
  return units ? `${(sum / units).toFixed(2)} bits per ${unit}` : "";
}

function sizeOf(part, unit) {
  return unit === "byte" ? bytesOf(part.text) : (part.count ?? 1);
}

/** How many bytes a text has. */
export function bytesOf(text) {
  return new TextEncoder().encode(text).length;
}
