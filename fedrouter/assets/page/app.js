"use strict";
// A chat with the server that this page comes from. It asks no other host and keeps nothing.

const byId = (id) => document.getElementById(id);
const chat = byId("chat"), prompt = byId("prompt"), model = byId("model");
const turns = []; // the conversation as the API wants it
let key = "", running = null;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function headers() {
  const made = { "content-type": "application/json" };
  if (key) made.authorization = `Bearer ${key}`;
  return made;
}

// A response of the server; asks for a key where one is missing.
async function ask(path, options = {}) {
  for (;;) {
    const response = await fetch(path, { ...options, headers: headers() });
    if (response.status !== 401) return response;
    const dialog = byId("key-dialog");
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    key = byId("key").value;
    if (!key) throw new Error("this server wants an API key");
  }
}

async function fail(response) {
  let message = `HTTP ${response.status}`;
  try { message = (await response.json()).error.message; } catch { /* no JSON */ }
  throw new Error(message);
}

async function loadModels() {
  const response = await ask("/v1/models");
  if (!response.ok) await fail(response);
  const { data } = await response.json();
  const base = data.find((one) => one.parent === null);
  const choices = [["auto", "the router's choice"]];
  for (const one of data) {
    if (one === base) choices.push([one.id, `${one.id} (base model, no adapter)`]);
    else if (one.id.startsWith("task-") || one.id === "global") choices.push([one.id, `${one.id} (forced)`]);
  }
  model.replaceChildren(...choices.map(([value, text]) => {
    const option = element("option", "", text);
    option.value = value;
    return option;
  }));
}

function addTurn(role, text) {
  byId("hint")?.remove();
  const turn = element("article", `turn ${role}`), body = element("p", "", text);
  turn.append(body);
  chat.append(turn);
  turn.scrollIntoView({ block: "end" });
  return { turn, body };
}

const percent = (share) => `${Math.round(share * 100)} %`;

function showRouting(turn, routing) {
  const box = element("div", "routing");
  if (routing.task === null) {
    box.append("answered by the base model alone, as asked");
    turn.append(box);
    return;
  }
  const line = element("div");
  line.append(element("strong", "", routing.task), ` · confidence ${percent(routing.confidence)}`);
  if (routing.forced) line.append(" · forced");
  line.append(` · round ${routing.round}`);
  if (!routing.known) line.append(" · ", element("span", "unknown", "outside every task"));
  box.append(line);
  const used = routing.adapters.map((one) => `${one.task} (${percent(one.weight)})`).join(", ");
  if (!routing.known && !routing.forced) {
    box.append(element("div", "", `answered by ${used || "the base model (fallback)"}`));
  }
  box.append(nearest(routing.nearest ?? []));
  turn.append(box);
  turn.scrollIntoView({ block: "end" });
}

// The nearest tasks with bars: the nearer, the longer.
function nearest(tasks) {
  const table = element("div", "tasks"), shown = tasks.slice(0, 4);
  const closest = shown.length ? shown[0].distance : 0;
  if (shown.length) table.append(element("span", "caption", "nearest tasks and their distances"));
  for (const one of shown) {
    const bar = element("meter");
    bar.max = 1;
    bar.value = one.distance > 0 ? closest / one.distance : 1;
    bar.ariaLabel = `${one.task}, distance ${one.distance.toFixed(2)}`;
    table.append(element("span", "", one.task), bar, element("span", "", one.distance.toFixed(2)));
  }
  return table;
}

// The events of a stream, each as an object.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (part.startsWith("data: ") && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function answer(text) {
  turns.push({ role: "user", content: text });
  addTurn("user", text);
  const { turn, body } = addTurn("assistant", "");
  let routing = null;
  running = new AbortController();
  setRunning(true);
  try {
    const response = await ask("/v1/chat/completions", {
      method: "POST",
      body: JSON.stringify({ model: model.value, messages: turns, stream: true }),
      signal: running.signal,
    });
    if (!response.ok) await fail(response);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.routing) routing = event.routing;
      body.textContent += event.choices[0]?.delta?.content ?? "";
      turn.scrollIntoView({ block: "end" });
    }
    turns.push({ role: "assistant", content: body.textContent });
  } catch (error) {
    if (error.name !== "AbortError") turn.append(element("div", "error", error.message));
    if (body.textContent) turns.push({ role: "assistant", content: body.textContent });
    else turns.pop();
  }
  if (routing) showRouting(turn, routing);
  setRunning(false);
}

function setRunning(on) {
  byId("send").hidden = on;
  byId("stop").hidden = !on;
  if (!on) { running = null; prompt.focus(); }
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (!text || running) return;
  prompt.value = "";
  answer(text);
});

prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("form").requestSubmit();
  }
});

byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  running?.abort();
  turns.length = 0;
  chat.replaceChildren();
  prompt.focus();
});

loadModels().catch((error) => chat.append(element("div", "error", error.message)));
