"use strict";
// Texts of sellers and buyers come in as text nodes, never as markup.
const $ = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};
const memory = window.sessionStorage;
const STATES = { open: "open", with_reviewer: "with a reviewer", upheld: "upheld", overturned: "overturned" };
const VERDICTS = { induced: "induced by the seller", not_induced: "not induced", inconclusive: "inconclusive" };
let shown = null;

async function ask(path, body) {
  const headers = { Authorization: `Bearer ${memory.getItem("token")}` };
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const value = await answer.json();
  if (answer.ok) return value;
  throw Object.assign(new Error(value.error.message), { status: answer.status });
}

function tell(text, bad = false) {
  $("told").textContent = text;
  $("told").className = bad ? "told bad" : "told";
  $("told").hidden = !text;
}

function span(seconds) {
  const hours = Math.floor(seconds / 3600);
  if (hours >= 48) return `${Math.floor(hours / 24)} days`;
  return hours >= 1 ? `${hours} h` : `${Math.max(1, Math.floor(seconds / 60))} min`;
}

function due(appeal) {
  const left = (new Date(appeal.deadline) - Date.now()) / 1000;
  return left < 0 ? `overdue by ${span(-left)}` : `due in ${span(left)}`;
}

// As it was written: of an order the time where it was placed, of what the endpoint did UTC.
const when = (text) => text.slice(0, 16).replace("T", " ");

function queueOf(title, kind, appeals) {
  const items = appeals.map((appeal) => {
    const holder = appeal.state === "open" ? "nobody has it" : `with ${appeal.reviewer}`;
    const button = make("button", { onclick: () => open(appeal.appeal_id) },
      make("b", { textContent: `${appeal.market} · ${appeal.event_id}` }),
      make("small", { className: appeal.overdue ? "late" : "", textContent: due(appeal) }),
      make("small", { textContent: `${appeal.decision.action} · ${holder}` }));
    button.dataset.appeal = appeal.appeal_id;
    return make("li", {}, button);
  });
  return [make("h2", { className: kind, textContent: `${title} (${appeals.length})` }), make("ul", { className: "queue" }, ...items)];
}

async function load() {
  const market = $("market").value;
  const { appeals } = await ask(`/v1/reviews${market ? `?market=${market}` : ""}`);
  if (!market) {
    const markets = [...new Set(appeals.map((appeal) => appeal.market))].sort();
    $("market").replaceChildren(make("option", { value: "", textContent: "all" }),
      ...markets.map((code) => make("option", { value: code, textContent: code })));
  }
  const late = appeals.filter((appeal) => appeal.overdue), rest = appeals.filter((appeal) => !appeal.overdue);
  $("queue").replaceChildren(
    ...(late.length ? queueOf("Overdue", "late", late) : []),
    ...(rest.length || !late.length ? queueOf("In time", "due", rest) : []),
    ...(appeals.length ? [] : [make("p", { className: "soft", textContent: "Nothing waits." })]));
  mark();
}

function mark() {
  for (const button of document.querySelectorAll("[data-appeal]")) {
    button.setAttribute("aria-current", String(button.dataset.appeal === shown));
  }
}

async function open(id) {
  shown = id;
  history.replaceState(null, "", `#${id}`);
  mark();
  try {
    show(await ask(`/v1/reviews/${encodeURIComponent(id)}`));
    if (window.matchMedia("(max-width: 860px)").matches) $("case").scrollIntoView();
  } catch (error) {
    failed(error);
  }
}

async function step(appeal, body) {
  try {
    await ask(`/v1/reviews/${encodeURIComponent(appeal.appeal_id)}`, { reviewer: memory.getItem("reviewer"), ...body });
    tell({ take: "You have it.", uphold: "Decided: upheld.", overturn: "Decided: overturned, the action is reversed." }[body.step]);
  } catch (error) {
    failed(error);
    if (error.status !== 409) return;
  }
  await Promise.all([load().catch(failed), open(appeal.appeal_id)]);
}

function section(title, ...children) {
  return make("section", {}, make("h3", { textContent: title }), ...children);
}

function show(appeal) {
  const event = appeal.event || {}, why = appeal.statement.why, places = new Set(why.map((one) => one.place));
  const badge = appeal.overdue ? "badge bad" : appeal.state === "overturned" ? "badge good" : "badge";
  const deadline = ["upheld", "overturned"].includes(appeal.state) ? "" : ` · ${due(appeal)}`;
  const likely = `${Math.round(appeal.score * 100)} %`;
  $("case").replaceChildren(...[
    make("h2", { textContent: `${appeal.market} · ${appeal.event_id} ` },
      make("span", { className: badge, textContent: STATES[appeal.state] + deadline })),
    make("p", { className: "soft", textContent:
      `${appeal.decision.action} on ${when(appeal.decision.decided_at)} UTC: ${VERDICTS[appeal.decision.verdict]}, ${likely} likely, ` +
      `by ${appeal.decision.model_version}${appeal.round > 1 ? ` · appeal number ${appeal.round}` : ""}` }),
    section("What the seller says", make("p", { className: "says", textContent: appeal.history[0].reason })),
    section("What the decision rests on", why.length
      ? make("ol", { className: "fact" }, ...why.map((one) => make("li", { textContent: one.fact },
        make("small", { textContent: one.evidence + (one.quote ? `: “${one.quote}”` : "") }))))
      : make("p", { className: "soft", textContent: "No single factor is more likely than not." })),
    ...talk("Chat", "chat", event.chat, (item) => [item.sender, item.text], places),
    ...talk("Fulfilment", "fulfilment", event.fulfilment, (item) => ["", [item.kind.replaceAll("_", " "), item.note].filter(Boolean).join(": ")], places),
    event.buyer_reason ? section("What the buyer gave as reason", make("p", { className: "says", textContent: event.buyer_reason })) : null,
    section("History, UTC", make("ul", { className: "talk" }, ...appeal.history.map((entry) => make("li", {},
      make("time", { textContent: when(entry.at) }), make("span", { textContent: entry.author }),
      make("div", { textContent: [STATES[entry.state], entry.label && VERDICTS[entry.label], entry.state === "open" ? "" : entry.reason].filter(Boolean).join(" · ") }))))),
    make("details", {}, make("summary", { textContent: "Statement of reasons, as the seller can have it" }),
      make("pre", { textContent: appeal.statement.text })),
    desk(appeal),
  ].filter((part) => part !== null));
}

function talk(title, kind, items, parts, places) {
  if (!items || !items.length) return [];
  const rows = items.map((item, number) => {
    const [who, text] = parts(item);
    return make("li", { className: places.has(`${kind}[${number}]`) ? "seen" : "" },
      make("time", { textContent: when(item.at) }), make("span", { textContent: who }), make("div", { textContent: text }));
  });
  return [section(title, make("ul", { className: "talk", tabIndex: 0 }, ...rows))];
}

function desk(appeal) {
  const mine = appeal.reviewer === memory.getItem("reviewer");
  if (["upheld", "overturned"].includes(appeal.state)) return null;
  if (appeal.state === "open") {
    return section("Decide", make("button", { className: "main", id: "take", textContent: "Take this appeal", onclick: () => step(appeal, { step: "take" }) }));
  }
  if (!mine) {
    const from = { step: "take", takes_over_from: appeal.reviewer };
    return section("Decide", make("button", { id: "take", textContent: `Take over from ${appeal.reviewer}`, onclick: () => step(appeal, from) }));
  }
  const label = make("select", { id: "label" }, ...Object.entries(VERDICTS)
    .filter(([code]) => code !== "induced" || appeal.decision.verdict !== "induced").map(([value, textContent]) => make("option", { value, textContent })));
  const reason = make("textarea", { id: "reason", maxLength: 4000, required: true });
  const choice = (id, textContent) => make("label", {}, make("input", { type: "radio", name: "outcome", id, value: id, required: true }), ` ${textContent}`);
  const right = make("label", { hidden: true }, "What it was ", label);
  const form = make("form", {},
    make("div", { className: "choice" }, choice("uphold", "The decision stands"), choice("overturn", "The decision was wrong: reverse it"), right),
    make("label", {}, "Why. The seller is told this; name no person.", reason),
    make("div", { className: "row" }, make("button", { className: "main", id: "decide", textContent: "Decide" }),
      make("span", { className: "soft", textContent: "A decision cannot be changed." })));
  form.onchange = () => { right.hidden = !form.elements.outcome || form.elements.outcome.value !== "overturn"; };
  form.onsubmit = (submitted) => {
    submitted.preventDefault();
    const chosen = form.elements.outcome.value;
    step(appeal, { step: chosen, reason: reason.value, ...(chosen === "overturn" ? { label: label.value } : {}) });
  };
  return section("Decide", form);
}

function failed(error) {
  if (error.status === 401 || error.status === 403) leave();
  tell(error.message, true);
}

function leave() {
  memory.clear();
  shown = null;
  $("queue").replaceChildren();
  $("case").replaceChildren();
  enter();
}

async function enter() {
  const inside = memory.getItem("token") !== null;
  $("sign").hidden = inside;
  for (const id of ["desk", "who", "filter", "leave"]) $(id).hidden = !inside;
  $("who").textContent = inside ? memory.getItem("reviewer") : "";
  if (!inside) return;
  try {
    await load();
    if (location.hash.length > 1) await open(decodeURIComponent(location.hash.slice(1)));
  } catch (error) {
    failed(error);
  }
}

$("sign").onsubmit = (submitted) => {
  submitted.preventDefault();
  memory.setItem("token", $("token").value.trim());
  memory.setItem("reviewer", $("reviewer").value.trim());
  $("token").value = "";
  tell("");
  enter();
};
$("leave").onclick = () => { tell(""); leave(); };
$("market").onchange = () => load().catch(failed);
setInterval(() => memory.getItem("token") !== null && load().catch(failed), 30000);
enter();
