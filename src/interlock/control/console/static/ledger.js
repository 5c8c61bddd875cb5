// Verifying a range of the ledger: progress while it goes on, then the verdict. What comes is put in as text.
const form = document.getElementById("proof");
const at = (id) => document.getElementById(id);
let running = null;

const line = (tag, name, text) => {
  const out = document.createElement(tag);
  if (name) out.className = name;
  out.textContent = text;
  return out;
};

function verdict(value) {
  const good = value.verdict === "complete";
  const box = line("div", `alert ${good ? "alert-success" : value.verdict === "altered" ? "alert-danger" : "alert-warning"}`, "");
  box.append(line("strong", "", value.verdict.toUpperCase() + ": "), value.words);
  const list = document.createElement("ul");
  for (const problem of value.problems) list.append(line("li", "", problem));
  if (value.problems.length) box.append(list);
  box.append(line("p", "hint", `${value.entries} entries read, ${value.in_range} of them admitted in the range`
    + (value.keys.length ? `; signed by ${value.keys.join(", ")}.` : ".")));
  at("verdict").replaceChildren(box);
}

async function verify() {
  if (running) return;
  running = new AbortController();
  at("verdict").replaceChildren();
  at("verify").disabled = true;
  at("stop").hidden = at("verify-place").hidden = false;
  at("verify-step").textContent = "Beginning …";
  at("verify-bar").removeAttribute("value");
  let told = false;
  try {
    const answer = await fetch("/console/calls/verify", {
      method: "POST", body: new URLSearchParams(new FormData(form)), signal: running.signal,
      headers: { "x-interlock-csrf": document.body.dataset.csrf },
    });
    if (answer.redirected) throw new Error("You are signed out: load the page again.");
    if (!(answer.headers.get("content-type") || "").startsWith("text/event-stream")) throw new Error((await answer.json()).problem);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      rest += value;
      const whole = rest.split("\n\n");
      rest = whole.pop();
      for (const each of whole) {
        const [first, second] = each.split("\n");
        const kind = first.slice("event: ".length), said = JSON.parse(second.slice("data: ".length));
        if (kind === "progress") {
          at("verify-step").textContent = `${said.step}: ${said.done} of ${said.total} entries`;
          at("verify-bar").max = said.total || 1;
          at("verify-bar").value = said.done;
        } else if (kind === "verdict") { told = true; verdict(said); } else throw new Error(said.words);
      }
    }
    if (!told) throw new Error("The proof broke off; try again.");
  } catch (error) {
    const words = error.name === "AbortError" ? "Stopped; nothing was proved." : error.message;
    at("verdict").replaceChildren(line("div", "alert alert-warning", words));
  }
  running = null;
  at("verify").disabled = false;
  at("stop").hidden = at("verify-place").hidden = true;
  at("verdict").focus();
}

if (form) {
  at("verify").addEventListener("click", verify);
  at("stop").addEventListener("click", () => running?.abort());
}
