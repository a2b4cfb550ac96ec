// The chat page: sends the conversation, shows the answer while it arrives, keeps the history.
// Text from the model only ever becomes text nodes, never markup.
"use strict";

const KEY = "minigpt.chat";          // the conversation, in this browser alone
const API_KEY = "minigpt.key";
const ANSWER_TOKENS = 100;           // as the command `chat`
const at = (id) => document.getElementById(id);
const state = { messages: [], model: "", canChat: true, running: null };

// ---- what is kept

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) || "[]");
    const isMessage = (m) => m && ["user", "assistant"].includes(m.role) && typeof m.content === "string";
    state.messages = Array.isArray(kept) ? kept.filter(isMessage) : [];
  } catch { state.messages = []; }
}

function save() {
  try { localStorage.setItem(KEY, JSON.stringify(state.messages)); }
  catch { say("This browser does not keep the conversation."); }
}

// ---- what is shown

function say(text) { at("status").textContent = text; }

function bubble(message) {
  const node = document.createElement("div");
  node.className = "message " + message.role;
  fill(node, message);
  at("log").append(node);
  return node;
}

function fill(node, message) {
  const tokens = at("probabilities").checked ? message.tokens : null;
  if (!Array.isArray(tokens) || !tokens.length) { node.textContent = message.content; return; }
  node.replaceChildren(...tokens.map(tokenNode));
}

function tokenNode(token) {
  const node = document.createElement("span");
  const share = Math.exp(token.logprob);
  node.className = "token " + (share > 0.8 ? "sure" : share > 0.3 ? "likely" : "unlikely");
  node.textContent = token.shown;
  node.tabIndex = 0;
  node.title = percent(share);
  const show = () => detail(node, token);
  node.addEventListener("click", show);
  node.addEventListener("focus", show);
  return node;
}

function percent(share) { return (100 * share).toFixed(1) + " %"; }

function detail(node, token) {
  document.querySelectorAll(".token.chosen").forEach((other) => other.classList.remove("chosen"));
  node.classList.add("chosen");
  const isSame = (other) => String(other.bytes) === String(token.bytes);  // half characters look alike
  const rows = token.top_logprobs.some(isSame)
    ? token.top_logprobs : [...token.top_logprobs, token];
  at("detail").replaceChildren(...rows.map((row) => {
    const line = document.createElement("div"), text = document.createElement("code");
    const meter = document.createElement("meter"), share = document.createElement("span");
    line.className = isSame(row) ? "chosen" : "";
    text.textContent = JSON.stringify(row.token);
    meter.value = Math.exp(row.logprob);
    share.textContent = percent(Math.exp(row.logprob));
    line.append(text, meter, share);
    return line;
  }));
  at("detail").hidden = false;
}

function render() {
  at("log").replaceChildren();
  at("detail").hidden = true;
  state.messages.forEach(bubble);
  at("log").scrollTop = at("log").scrollHeight;
}

function setRunning(controller) {
  state.running = controller;
  at("stop").hidden = !controller;
  at("send").hidden = Boolean(controller);
}

// ---- the server

function headers() {
  const key = localStorage.getItem(API_KEY);
  return { "Content-Type": "application/json", ...(key ? { Authorization: "Bearer " + key } : {}) };
}

function requestBody(messages) {
  const common = {
    model: state.model, stream: true, max_tokens: ANSWER_TOKENS,
    temperature: Math.min(2, Math.max(0, Number(at("temperature").value) || 0)),
  };
  if (!state.canChat) return { ...common, prompt: messages.map((m) => m.content).join("") };
  const sent = messages.map(({ role, content }) => ({ role, content }));
  const wanted = at("probabilities").checked ? { logprobs: true, top_logprobs: 5 } : {};
  return { ...common, ...wanted, messages: sent };
}

// Ask; where the context is full, forget the oldest turn and ask again.
async function ask(messages, signal) {
  for (let first = 0; ; first += 2) {
    const path = state.canChat ? "v1/chat/completions" : "v1/completions";
    const body = JSON.stringify(requestBody(messages.slice(first)));
    const response = await fetch(path, { method: "POST", headers: headers(), body, signal });
    if (response.ok) { if (first) say("The oldest messages no longer fit and were left out."); return response; }
    const error = (await response.json().catch(() => ({}))).error || {};
    if (error.code === "context_length_exceeded" && first + 2 < messages.length) continue;
    if (response.status === 401 && askForKey()) { first -= 2; continue; }
    throw new Error(error.message || "The server answered " + response.status);
  }
}

function askForKey() {
  const key = prompt("This server wants an API key:");
  if (key) localStorage.setItem(API_KEY, key);
  return Boolean(key);
}

// Yield the data of server-sent events, however the network has cut them into pieces.
async function* events(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    held += decoder.decode(value, { stream: !done });
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      yield JSON.parse(part.slice(6));
    }
    if (done) throw new Error("The connection ended before the answer did.");
  }
}

// A character may be spread over several tokens: its text is shown with the last of them.
function addTokens(message, entries) {
  message.bytes = message.bytes || new TextDecoder("utf-8", { ignoreBOM: true });
  for (const entry of entries) {
    const shown = message.bytes.decode(new Uint8Array(entry.bytes), { stream: true });
    message.tokens.push({ ...entry, shown });
  }
}

function take(message, chunk) {
  if (chunk.error) throw new Error(chunk.error.message);
  const choice = chunk.choices[0];
  if (!choice) return;
  message.content += (state.canChat ? choice.delta.content : choice.text) || "";
  if (choice.logprobs && choice.logprobs.content) addTokens(message, choice.logprobs.content);
}

async function send(text) {
  const controller = new AbortController();
  const asked = { role: "user", content: text };
  const message = { role: "assistant", content: "", tokens: [] };
  state.messages.push(asked);
  save();
  bubble(asked);
  const node = bubble(message), log = at("log");
  setRunning(controller);
  say("");
  try {
    for await (const chunk of events(await ask(state.messages, controller.signal))) {
      take(message, chunk);
      fill(node, message);
      log.scrollTop = log.scrollHeight;
    }
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped." : error.message);
  }
  setRunning(null);
  delete message.bytes;
  if (message.content) state.messages.push(message);
  else { node.remove(); state.messages.pop(); at("text").value = text; render(); }
  save();
}

// ---- what people do

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || state.running) return;
  at("text").value = "";
  send(text);
});
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
at("stop").addEventListener("click", () => state.running && state.running.abort());
at("clear").addEventListener("click", () => {
  if (state.running) state.running.abort();
  state.messages = [];
  save();
  render();
});
at("probabilities").addEventListener("change", render);
window.addEventListener("storage", (event) => {  // another tab went on with the conversation
  if (event.key === KEY && !state.running) { load(); render(); }
});

async function begin() {
  load();
  render();
  try {
    const health = await (await fetch("health")).json();
    state.model = health.model;
    state.canChat = health.chat;
    at("model").textContent = health.model;
    document.title = health.model + " · minigpt";
    at("probabilities").disabled = !health.chat;
  } catch { say("The server does not answer."); }
}
begin();
