"use strict";

const $ = (id) => document.getElementById(id);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function headers() {
  const token = $("token").value.trim();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Lists out of what was pasted: JSON lines, one JSON value, or "score text" lines. */
function parse(text) {
  const pick = (hyp) => {
    const kept = { text: hyp.text, am: hyp.am };
    if (typeof hyp.lm === "number") kept.lm = hyp.lm;
    return kept;
  };
  const list = (value) => {
    if (!value || !Array.isArray(value.hyps)) throw new Error("a list has \"hyps\"");
    const kept = { hyps: value.hyps.map(pick) };
    if (value.id !== undefined) kept.id = String(value.id);
    return kept;
  };
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  if (!lines.length) throw new Error("there is no list yet");
  if (lines[0].trim().startsWith("{") || lines[0].trim().startsWith("[")) {
    try {
      const value = JSON.parse(text);
      return (Array.isArray(value) ? value : value.utterances || [value]).map(list);
    } catch {
      return lines.map((line, i) => {
        try {
          return list(JSON.parse(line));
        } catch (error) {
          throw new Error(`line ${i + 1}: ${error.message}`);
        }
      });
    }
  }
  return [{
    hyps: lines.map((line) => {
      const scored = line.trim().match(/^([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s+(.*)$/i);
      return scored ? { am: Number(scored[1]), text: scored[2] } : { am: 0, text: line.trim() };
    }),
  }];
}

/** The words of `to` beside those of `from`: [kind, word], by their longest common subsequence. */
function differences(from, to) {
  const [a, b] = [from, to].map((text) => text.split(/\s+/).filter(Boolean));
  const length = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const words = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      words.push(["same", a[i++]]);
      j++;
    } else if (j >= b.length || (i < a.length && length[i + 1][j] >= length[i][j + 1])) {
      words.push(["del", a[i++]]);
    } else {
      words.push(["ins", b[j++]]);
    }
  }
  return words;
}

function shown(from, to) {
  const text = element("span", undefined, "text");
  for (const [kind, word] of differences(from, to)) {
    text.append(kind === "same" ? word : element(kind, word), " ");
  }
  return text;
}

/** An utterance in its new order; words differ from the hypothesis that was first before. */
function utterance(asked, answered) {
  const part = element("article");
  const before = answered.hyps
    .map((hyp, i) => [hyp.parts.first_pass + hyp.parts.lm + hyp.parts.ngram + hyp.parts.words, i])
    .sort((a, b) => b[0] - a[0] || a[1] - b[1])
    .map(([, i]) => i);
  const first = asked.hyps[before[0]].text;
  const same = before[0] === answered.order[0];
  const name = answered.id === undefined ? "" : `${answered.id}: `;
  const verdict = same ? "the best stays the best" : "another is the best now";
  part.append(element("p", `${name}${verdict}, confidence ${answered.confidence.toFixed(3)}`, "verdict"));
  const list = element("ol");
  answered.order.forEach((i, rank) => {
    const item = element("li", undefined, rank === 0 ? "best" : "");
    const was = before.indexOf(i) + 1;
    const moved = was > rank + 1 ? "▲" : was < rank + 1 ? "▼" : "";
    item.append(element("span", `${rank + 1} (was ${was}) ${moved}`, "rank"), shown(first, asked.hyps[i].text));
    const scores = element("span", undefined, "scores");
    const parts = answered.hyps[i].parts;
    for (const [label, value] of [
      ["total", answered.hyps[i].total],
      ["first pass", parts.first_pass],
      ["lm", parts.lm],
      ["n-gram", parts.ngram],
      ["engine", parts.lorb],
      ["words", parts.words],
    ]) {
      scores.append(element("span", `${label} ${value.toFixed(3)}`));
    }
    item.append(scores);
    list.append(item);
  });
  part.append(list);
  return part;
}

async function rescore() {
  $("problem").textContent = "";
  try {
    const ask = { utterances: parse($("list").value) };
    if ($("adapter").value) ask.adapter = $("adapter").value;
    if ($("lorb").value !== "") ask.weights = { lorb: Number($("lorb").value) };
    const response = await fetch("v1/rescore?explain=1", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify(ask),
    });
    const answer = await response.json();
    if (!response.ok) {
      const { field, message } = answer.error;
      throw new Error(field ? `${field}: ${message}` : message);
    }
    $("result").replaceChildren(...answer.utterances.map((u, i) => utterance(ask.utterances[i], u)));
  } catch (error) {
    $("problem").textContent = error.message;
  }
}

async function adapters() {
  const response = await fetch("v1/adapters", { headers: headers() });
  if (!response.ok) return;
  const { adapters: all, own_head: own } = await response.json();
  const chosen = $("adapter").value;
  const options = own ? [new Option("the model's own head", "")] : [];
  options.push(...all.map(({ name }) => new Option(name, name)));
  $("adapter").replaceChildren(...options);
  if (options.some((option) => option.value === chosen)) $("adapter").value = chosen;
}

/** Prometheus text: the sum over labels of each name. */
function sums(text) {
  const found = {};
  for (const line of text.split("\n")) {
    const match = line.match(/^(\w+)(?:\{(.*)\})? (\S+)$/);
    if (!match) continue;
    const name = /_bucket$/.test(match[1]) ? "" : match[1];
    const stage = /stage="(\w+)"/.exec(match[2] || "");
    const key = stage ? `${name}:${stage[1]}` : name;
    found[key] = (found[key] || 0) + Number(match[3]);
  }
  return found;
}

async function figures() {
  try {
    const [metrics, ready] = await Promise.all([fetch("metrics"), fetch("readyz")]);
    const f = sums(await metrics.text());
    const state = await ready.json();
    $("ready").textContent = state.ready ? "ready" : `not ready: ${state.reason}`;
    const average = (stage) => {
      const count = f[`lorb_stage_seconds_count:${stage}`] || 0;
      return count ? `${((1e3 * f[`lorb_stage_seconds_sum:${stage}`]) / count).toFixed(1)} ms` : "–";
    };
    const batches = f.lorb_batch_tokens_count;
    const looked = (f.lorb_cache_hits_total || 0) + (f.lorb_cache_misses_total || 0);
    const rows = [
      ["tokens waiting", f.lorb_queue_tokens || 0],
      ["time waiting, mean", average("queue")],
      ["time of a batch, mean", average("compute")],
      ["tokens of a batch, mean", batches ? (f.lorb_batch_tokens_sum / batches).toFixed(0) : "–"],
      ["hypotheses", f.lorb_adapter_hypotheses_total || 0],
      ["known already", looked ? `${((100 * (f.lorb_cache_hits_total || 0)) / looked).toFixed(1)} %` : "–"],
      ["refused", f.lorb_rejected_total || 0],
      ["adapters loaded", f.lorb_adapters_loaded || 0],
    ];
    $("figures").replaceChildren(...rows.map(([name, value]) => {
      const row = element("div");
      row.append(element("dt", name), element("dd", String(value)));
      return row;
    }));
  } catch {
    $("ready").textContent = "not reachable";
  }
}

async function take(file) {
  if (file) $("list").value = await file.text();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  rescore();
});
$("list").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) rescore();
});
$("list").addEventListener("dragover", (event) => {
  event.preventDefault();
  $("list").classList.add("over");
});
$("list").addEventListener("dragleave", () => $("list").classList.remove("over"));
$("list").addEventListener("drop", (event) => {
  $("list").classList.remove("over");
  if (event.dataTransfer.files.length) {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  }
});
$("file").addEventListener("change", () => take($("file").files[0]));
$("token").addEventListener("change", adapters);

adapters();
figures();
setInterval(figures, 2000);
