// The playground: sends what was written to one model or two, and shows the answers as text while they come. Whatever a
// model says is put in by textContent only: it can be nothing but text.
const $ = (id) => document.getElementById(id);
const form = $("play");
const talks = { a: [], b: [] };
const running = new Map();

const make = (tag, name, text) => {
  const out = document.createElement(tag);
  if (name) out.className = name;
  if (text !== undefined) out.textContent = text;
  return out;
};
const letters = () => ($("compare").checked ? ["a", "b"] : ["a"]);
const post = (path, fields, signal) => fetch("/console/playground/" + path, {
  method: "POST", body: new URLSearchParams(fields), signal, headers: { "x-interlock-csrf": document.body.dataset.csrf },
});
const time = (ms) => ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;

function ask(letter, messages) {
  const out = { model: $("model-" + letter).value, messages };
  if ($("system").value.trim()) out.system = $("system").value;
  if (out.model === "auto" && $("mode-" + letter).value) out.mode = $("mode-" + letter).value;
  for (const name of ["temperature", "max_tokens"]) if ($(name).value !== "") out[name] = Number($(name).value);
  return out;
}

// What stands between this account and a model, and where that is changed. As text: names are in it.
function tellMissing(said, missing) {
  const list = make("ul", "play-missing");
  for (const { words, path, link } of missing) {
    const item = make("li", "", words + " ");
    if (path) {
      const way = make("a", "", link);
      way.href = path;
      item.append(way);
    }
    list.append(item);
  }
  if (missing.length) said.after(list);
}

async function loadModels() {
  const said = $("models-said");
  try {
    const answer = await post("models", {});
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.problem);
    for (const letter of ["a", "b"]) {
      for (const [kind, words] of [["alias", "Aliases"], ["source", "Models"]]) {
        const group = document.createElement("optgroup");
        group.label = words;
        for (const each of found.models) if (each.kind === kind) {
          const option = make("option", "", each.name);
          option.value = each.name;
          group.append(option);
        }
        if (group.children.length) $("model-" + letter).append(group);
      }
    }
    said.textContent = found.models.length ? `You may call ${found.models.length} by name.`
      : "You may call no model yet, so calls will be refused.";
    if (!found.models.length) tellMissing(said, found.missing || []);
  } catch (error) {
    said.textContent = "The list of models could not be had: " + (error.message || "no answer");
  }
}

function message(letter, role, text) {
  const log = $("log-" + letter);
  log.querySelector(".empty-state")?.remove();
  const at = make("article", "play-message play-" + role);
  at.append(make("h3", "play-role", role === "user" ? "You" : "Answer"), make("div", "play-text", text));
  log.append(at);
  log.scrollTop = log.scrollHeight;
  return at;
}

function facts(at, pairs) {
  const list = at.querySelector(".play-facts") || at.appendChild(make("dl", "facts play-facts"));
  for (const [name, value] of pairs) if (value) list.append(make("dt", "", name), make("dd", "", value));
}

function copyButton(text) {
  const button = make("button", "btn btn-sm btn-outline-secondary", "Copy answer");
  button.type = "button";
  button.addEventListener("click", () => copy(button, text()));
  return button;
}

function thumbs(request) {
  const out = make("span", "play-thumbs"), told = make("span", "hint");
  told.setAttribute("role", "status");
  const buttons = [["up", "Good answer"], ["down", "Bad answer"]].map(([thumb, words]) => {
    const button = make("button", "btn btn-sm btn-outline-secondary", words);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => give(thumb, button));
    return button;
  });
  async function give(thumb, chosen) {
    for (const button of buttons) button.disabled = true;
    try {
      const answer = await post("feedback", { request, thumb });
      if (answer.redirected) throw new Error("You are signed out: load the page again.");
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.problem);
      chosen.setAttribute("aria-pressed", "true");
      told.textContent = " Noted: it stays with the record of the call.";
    } catch (error) {
      told.textContent = " Not noted: " + (error.message || "the console cannot be reached.");
      for (const button of buttons) button.disabled = false;
    }
  }
  out.append(...buttons, told);
  return out;
}

async function copy(button, text) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow copying here";
  }
  setTimeout(() => { button.textContent = before; }, 2000);
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const whole = rest.split("\n\n");
    rest = whole.pop();
    for (const each of whole) {
      const [first, second] = each.split("\n");
      yield [first.slice("event: ".length), JSON.parse(second.slice("data: ".length))];
    }
  }
}

async function call(letter, text) {
  const messages = [...talks[letter], { role: "user", content: text }];
  message(letter, "user", text);
  const at = message(letter, "answer", "");
  const words = at.querySelector(".play-text"), log = $("log-" + letter);
  at.setAttribute("aria-busy", "true");
  const stopper = new AbortController();
  running.set(letter, stopper);
  let said = "", request = "", reason = "", counts = null, trouble = "", times = null, thought = null;
  const began = performance.now();
  let first = -1;
  try {
    const answer = await post("send", { ask: JSON.stringify(ask(letter, messages)) }, stopper.signal);
    if (answer.redirected || !(answer.headers.get("content-type") || "").startsWith("text/event-stream")) {
      const found = answer.redirected ? { problem: "You are signed out: load the page again." } : await answer.json();
      throw new Error(found.problem);
    }
    for await (const [kind, value] of events(answer)) {
      const low = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      if (kind === "head") {
        request = value.request_id;
        facts(at, [["Answered by", value.source && `${value.model} at ${value.source}`], ["Decision", value.decision],
          ["Waited for a seat", Number(value.waited_ms) ? time(Number(value.waited_ms)) : ""]]);
      } else if (kind === "text") {
        if (first < 0) first = Math.round(performance.now() - began);
        said += value.text;
        words.textContent = said;
      } else if (kind === "thought") {
        if (!thought) {
          const box = make("details", "play-thought");
          thought = make("div", "play-text");
          box.append(make("summary", "", "Reasoning"), thought);
          at.insertBefore(box, words);
        }
        thought.textContent += value.text;
      } else if (kind === "usage") counts = value;
      else if (kind === "finish") reason = value.reason;
      else if (kind === "problem") trouble = value.words;
      else if (kind === "end") times = value;
      if (low) log.scrollTop = log.scrollHeight;
    }
    if (!times && !trouble) trouble = "The answer broke off.";
  } catch (error) {
    trouble = error.name === "AbortError" ? "" : error.message || "The console cannot be reached.";
    if (error.name === "AbortError") reason = "stopped";
  }
  running.delete(letter);
  at.removeAttribute("aria-busy");
  times ||= { first_ms: first, total_ms: Math.round(performance.now() - began) };
  finish(at, { said, request, reason, counts, trouble, times });
  if (said) talks[letter] = [...messages, { role: "assistant", content: said }];
  log.scrollTop = log.scrollHeight;
}

function finish(at, { said, request, reason, counts, trouble, times }) {
  facts(at, [
    ["First token", times.first_ms >= 0 ? `after ${time(times.first_ms)}` : ""], ["In all", time(times.total_ms)],
    ["Ended", { length: "at the longest answer", stopped: "by you", content_filter: "by a content filter" }[reason]],
    ["Tokens", counts ? `${counts.prompt_tokens} of prompt, ${counts.completion_tokens} of answer` : ""],
  ]);
  if (trouble) {
    const alert = make("div", "alert alert-danger", trouble);
    alert.setAttribute("role", "alert");
    at.append(alert);
  }
  if (said) at.append(copyButton(() => said));
  if (said && request) at.append(thumbs(request));
  if (request) {
    const place = at.appendChild(make("div", "play-place"));
    htmx.ajax("GET", "/console/playground/calls/" + encodeURIComponent(request), { target: place, swap: "innerHTML" });
  }
}

async function sendAll() {
  const text = $("prompt").value;
  if (!text.trim() || running.size) return;
  $("prompt").value = "";
  $("send").disabled = true;
  $("stop").disabled = false;
  await Promise.all(letters().map((letter) => call(letter, text)));
  $("send").disabled = false;
  $("stop").disabled = true;
  $("prompt").focus();
}

function snippets() {
  const text = $("prompt").value.trim() || "Say hello.";
  const { system, mode, messages, ...rest } = ask("a", [...talks.a, { role: "user", content: text }]);
  const body = { ...rest, messages: system ? [{ role: "system", content: system }, ...messages] : messages };
  if (mode) body.interlock = { mode };
  const url = form.dataset.gateway + "/v1", whole = JSON.stringify(body, null, 2);
  $("as-curl").textContent = `curl ${url}/chat/completions \\\n  -H "authorization: Bearer $INTERLOCK_API_KEY" \\\n`
    + `  -H "content-type: application/json" \\\n  -d '${whole.replaceAll("'", "'\\''")}'`;
  const { interlock, ...known } = body;
  const lines = Object.entries(known).map(([name, value]) => `    ${name}=${JSON.stringify(value)},`);
  if (interlock) lines.push(`    extra_body=${JSON.stringify({ interlock })},`);
  $("as-python").textContent = "import os\n\nfrom openai import OpenAI\n\n"
    + `client = OpenAI(base_url=${JSON.stringify(url)}, api_key=os.environ["INTERLOCK_API_KEY"])\n`
    + `answer = client.chat.completions.create(\n${lines.join("\n")}\n)\nprint(answer.choices[0].message.content)`;
}

function sides() {
  const two = $("compare").checked;
  $("side-b").hidden = !two;
  $("sides").classList.toggle("play-two", two);
  document.querySelector(".play-model[data-side=b]").hidden = !two;
  for (const letter of ["a", "b"]) $("mode-" + letter).hidden = $("model-" + letter).value !== "auto";
}

function anew() {
  for (const stopper of running.values()) stopper.abort();
  for (const letter of ["a", "b"]) {
    talks[letter] = [];
    $("log-" + letter).replaceChildren(make("div", "empty-state", "Nothing asked yet."));
  }
}

if (form) {
  form.addEventListener("submit", (event) => { event.preventDefault(); sendAll(); });
  form.addEventListener("change", sides);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
  });
  $("stop").addEventListener("click", () => { for (const stopper of running.values()) stopper.abort(); });
  $("anew").addEventListener("click", anew);
  $("code").addEventListener("click", () => {
    $("snippets").hidden = !$("snippets").hidden;
    $("code").setAttribute("aria-expanded", String(!$("snippets").hidden));
    snippets();
  });
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.addEventListener("click", () => copy(button, $(button.dataset.copies).textContent));
  }
  form.addEventListener("input", () => { if (!$("snippets").hidden) snippets(); });
  sides();
  loadModels();
}
