"use strict";
// One page for both ways to run a study: served (answers go to the server) or alone (they stay in the browser
// until the reader saves them as a file). All texts are set as text, never as markup.
const state = JSON.parse(document.getElementById("state").textContent);
const main = document.getElementById("main");
const said = document.getElementById("said");

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function show(...children) {
  main.replaceChildren(...children);
  said.textContent = "";
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function progress(page, pages) {
  const bar = document.getElementById("progress");
  bar.hidden = !pages;
  bar.max = pages || 1;
  bar.value = page;
}

// -- where answers go ---------------------------------------------------------------------------------

const served = {
  async post(path, body = {}) {
    const answer = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(told.error || "the server did not take the answer");
    return told;
  },
  async begin() { location.assign((await this.post("/begin")).page); },
  state() { return state; },
  choose(page, ask, choice) { return this.post(location.pathname + "/choose", { page, ask, choice }); },
  async turn(page) { await this.post(location.pathname + "/turn", { page }); location.reload(); },
  async withdraw() { await this.post(location.pathname + "/withdraw"); location.assign("/"); },
  picture: (name) => "/p/" + name + ".webp",
};

function random() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

const alone = {
  get key() { return "study-" + state.study + location.hash; },
  load() {
    try { return JSON.parse(localStorage.getItem(this.key)); } catch { return null; }
  },
  save(kept) { localStorage.setItem(this.key, JSON.stringify(kept)); },
  begin() {
    const named = parseInt(location.hash.slice(1), 10);
    const many = state.booklets.length;
    const booklet = named >= 1 ? (named - 1) % many : Math.floor(Math.random() * many);
    this.save({ study: state.study, reader: random(), booklet, page: 0, shown: Date.now(), answers: [] });
    start();
  },
  state() {
    const kept = this.load();
    if (!kept) return { reader: false };
    const pages = state.booklets[kept.booklet];
    const chosen = {};
    for (const a of kept.answers) if (a.page === kept.page) chosen[a.ask] = a.choice;
    return { reader: true, page: kept.page, pages: pages.length, shown: pages[kept.page], chosen, kept };
  },
  choose(page, ask, choice) {
    const kept = this.load();
    kept.answers = kept.answers.filter((a) => a.page !== page || a.ask !== ask);
    kept.answers.push({ page, ask, choice, seconds: 0 });
    this.save(kept);
  },
  turn(page) {
    const kept = this.load();
    const seconds = (Date.now() - kept.shown) / 1000;
    for (const a of kept.answers) if (a.page === page) a.seconds = seconds;
    kept.page = page + 1;
    kept.shown = Date.now();
    this.save(kept);
    start();
  },
  withdraw() { localStorage.removeItem(this.key); start(); },
  picture: (name) => state.pictures[name],
};

const desk = state.booklets ? alone : served;

async function tell(action) {
  try { await action(); } catch (error) { said.textContent = error.message; throw error; }
}

// -- the three pages ----------------------------------------------------------------------------------

function consent() {
  progress(0, 0);
  show(
    make("h1", { text: state.title }),
    make("p", { class: "consent", text: state.consent }),
    make("button", { id: "agree", text: "I agree: begin", onclick: () => tell(() => desk.begin()) }),
  );
}

function panel(one, many) {
  const shots = make("div", { class: "shots" });
  one.pictures.forEach((name, i) => {
    if (i && one.pictures.length === 2) shots.append(make("span", { class: "arrow", "aria-hidden": "true", text: "→" }));
    const alt = one.heading + (one.pictures.length > 1 ? ", picture " + (i + 1) : "");
    shots.append(make("img", { src: desk.picture(name), alt }));
  });
  return make("figure", { class: many ? "" : "one" }, make("figcaption", { text: one.heading }), shots);
}

function question(ask, now, answered) {
  const short = ask.choices.every(([, text]) => text.length < 16);
  const scale = ask.choices.every(([, text], i) => text.startsWith(String(i + 1)));
  const choices = make("div", { class: scale ? "choices scale" : short ? "choices short" : "choices" });
  for (const [number, text] of ask.choices) {
    const radio = make("input", {
      type: "radio", name: ask.name, value: number, checked: now.chosen[ask.name] === number,
      onchange: () => tell(async () => {
        await desk.choose(now.page, ask.name, number);
        now.chosen[ask.name] = number;
        answered();
      }),
    });
    choices.append(make("label", { class: "choice" }, radio, make("span", { text })));
  }
  return make("fieldset", {}, make("legend", { text: ask.text }), choices);
}

function page(now) {
  progress(now.page, now.pages);
  const next = make("button", { id: "next", text: now.page + 1 < now.pages ? "Next" : "Finish" });
  const answered = () => { next.disabled = !now.shown.asks.every((ask) => ask.name in now.chosen); };
  next.addEventListener("click", () => {
    next.disabled = true;
    tell(() => desk.turn(now.page)).catch(answered);
  });
  answered();
  const stop = make("button", { class: "plain", id: "withdraw", text: "Stop and delete my answers",
    onclick: () => { if (confirm("Delete all your answers?")) tell(() => desk.withdraw()); } });
  const panels = make("div", { class: "panels" });
  now.shown.panels.forEach((one) => panels.append(panel(one, one.pictures.length > 1)));
  show(
    make("p", { class: "quiet", text: "Page " + (now.page + 1) + " of " + now.pages }),
    make("p", { text: now.shown.intro }),
    panels,
    ...now.shown.asks.map((ask) => question(ask, now, answered)),
    make("div", { class: "row" }, next, stop),
  );
}

function thanks(now) {
  progress(now.pages, now.pages);
  const parts = [make("h1", { text: "Thank you" })];
  if (desk === alone) {
    const { study, reader, booklet, answers } = now.kept;
    const text = JSON.stringify({ study, reader, booklet, answers });
    const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    parts.push(
      make("p", { text: "Please save your answers as a file and send it to the person who asked you." }),
      make("a", { class: "button", id: "save", href, download: "answers-" + reader.slice(0, 8) + ".json", text: "Save my answers" }),
    );
  } else {
    parts.push(make("p", { text: "Your answers are kept. You may close this page. If you were asked for a code, it is:" }),
      make("p", {}, make("code", { id: "code", text: now.code })));
  }
  show(...parts);
}

function start() {
  const now = desk.state();
  if (!now.reader) consent();
  else if (now.page >= now.pages) thanks(now);
  else page(now);
}

start();
