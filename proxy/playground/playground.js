// Playground page: key form, orders, jobs and results. It accesses the server only through pollcast.js.

import { connect } from "../pollcast.js";
import { ago, announce, asCurl, asJavaScript, copy, find, make } from "./dom.js";
import { Form } from "./form.js";
import { said, Stage } from "./stage.js";

const KEY = "pollcast.key"; // in sessionStorage, which only this tab can read
const PAGE = 20;
const RETRY = 3_000; // ms between attempts to log in with the stored key after a reload
const BASE = new URL("..", import.meta.url).href.replace(/\/$/, "");
const FINAL = new Set(["Completed", "Error", "Canceled"]);

/** Main view of the account of one key. */
class Studio {
  #pollcast;
  #models;
  #stage;
  #form;
  #rows = new Map(); // job -> Row
  #next; // cursor of the next page of older jobs
  #closed = new AbortController();
  #refreshing;
  #wanted; // id of the job that was selected last
  #waiting; // withdraws an order that the server has not accepted yet

  constructor(pollcast, models, account) {
    this.#pollcast = pollcast;
    this.#models = new Map(models.map((model) => [model.id, model]));
    this.#stage = new Stage(find("stage"), pollcast, BASE);
    this.#balance(account);
    this.#listen();
    this.#offer(models);
    pollcast
      .watchAll({ onEvent: (event) => this.#happened(event), onReady: () => this.#list() })
      .catch((error) => this.#refused(error));
    // Resumes orders after a reload. The feed shows their progress.
    const onWaiting = ({ status, message }) => (find("order-error").textContent = status ? message : "");
    const onEvent = ({ n }) => n === 1 && (find("order-error").textContent = "");
    for (const order of pollcast.resume({ onWaiting, onEvent }))
      order.catch((error) => error.event || this.#refused(error));
  }

  close() {
    this.#closed.abort();
    this.#stage.close();
    this.#pollcast.close();
    find("recent").replaceChildren();
  }

  #listen() {
    const on = (id, type, listener) => find(id).addEventListener(type, listener, { signal: this.#closed.signal });
    on("model", "change", () => this.#choose());
    on("order-form", "submit", (event) => this.#send(event));
    on("order-curl", "click", ({ target }) => this.#copied(asCurl, target));
    on("order-javascript", "click", ({ target }) => this.#copied(asJavaScript, target));
    on("older", "click", () => this.#list(this.#next));
    const named = () => location.hash && this.#select(location.hash.slice(1), { reveal: true });
    addEventListener("hashchange", named, { signal: this.#closed.signal });
    const timer = setInterval(() => this.#rows.forEach((row) => row.age()), 30_000);
    this.#closed.signal.addEventListener("abort", () => clearInterval(timer));
  }

  // --- ordering ---

  #offer(models) {
    const kinds = Map.groupBy ? Map.groupBy(models, ({ kind }) => kind) : new Map([["all", models]]);
    const named = ({ id, available }) =>
      make("option", { value: id, disabled: !available }, available ? id : `${id} (not available)`);
    find("model").replaceChildren(
      ...[...kinds].map(([kind, offered]) => make("optgroup", { label: kind }, ...offered.map(named))),
    );
    find("model").value = models.find(({ available }) => available)?.id ?? "";
    this.#choose();
  }

  #choose() {
    const model = this.#models.get(find("model").value);
    find("send").disabled = !model;
    if (!model) {
      find("order-error").textContent = "No provider has a key yet, so no model can be ordered.";
      return;
    }
    const prompt = this.#form?.prompt ?? "";
    this.#form = new Form(model, (file) => this.#pollcast.upload(file));
    this.#form.prompt = prompt;
    find("fields").replaceChildren(this.#form.node);
    find("model-note").textContent = [`By ${model.provider}.`, model.note].filter(Boolean).join(" ");
    find("price").textContent = model.tokens === 1 ? "1 token" : `${model.tokens} tokens`;
    find("order-error").textContent = "";
  }

  async #order() {
    this.#form.clear();
    find("order-error").textContent = "";
    try {
      return await this.#form.order();
    } catch (fault) {
      if (!fault.field) throw fault;
      this.#form.showAt(fault.field, fault.message);
      return undefined;
    }
  }

  async #copied(write, button) {
    const order = await this.#order();
    if (order) await copy(write(BASE, order), button);
  }

  async #send(event) {
    event.preventDefault();
    if (this.#waiting) return this.#waiting.abort();
    if (find("send").getAttribute("aria-disabled") === "true") return;
    this.#sending(true);
    const taking = new AbortController();
    let made = false;
    try {
      const order = await this.#order();
      if (!order) return this.#sending(false);
      await this.#pollcast.generate(order, {
        signal: taking.signal,
        onWaiting: ({ status, message }) => {
          if (!status) return; // a lost connection is shown separately
          find("order-error").textContent = message;
          this.#sending(true, taking);
        },
        onEvent: ({ n, job }) => {
          if (n !== 1) return;
          made = true;
          this.#sending(false);
          this.#select(job, { reveal: true });
        },
      });
    } catch (error) {
      if (!made) this.#sending(false);
      if (!error.event) this.#refused(error);
    }
  }

  #sending(busy, waiting) {
    if (this.#waiting && !waiting) find("order-error").textContent = "";
    this.#waiting = waiting;
    find("send").textContent = waiting ? "Take back" : busy ? "Sending …" : "Generate";
    find("send").setAttribute("aria-disabled", String(busy && !waiting));
  }

  #refused(error) {
    if (error.name === "AbortError") return;
    if (error.code === "unauthorized") {
      leave(error.message);
      return;
    }
    const strangers = this.#form.show(error.errors ?? []);
    if (error.errors?.length && !strangers.length) return;
    const rest = strangers.map(({ field, message }) => `${field}: ${message}`).join("; ");
    find("order-error").textContent = rest || error.message;
  }

  // --- jobs ---

  async #list(before) {
    try {
      const query = before ? `&before=${encodeURIComponent(before)}` : "";
      const { jobs, next } = await this.#pollcast.request(`/api/jobs?limit=${PAGE}${query}`);
      for (const job of jobs) this.#row(job.id).is(job);
      this.#next = next;
      find("older").hidden = !next;
      find("recent-none").hidden = this.#rows.size > 0;
      const wanted = location.hash.slice(1);
      if (wanted && !this.#stage.job) await this.#select(wanted);
    } catch (error) {
      this.#refused(error);
    }
  }

  #row(id) {
    let row = this.#rows.get(id);
    if (!row) {
      row = new Row(id, () => this.#select(id, { reveal: true }));
      this.#rows.set(id, row);
      // Ids sort by time. The newest job is first.
      const below = [...find("recent").children].find((other) => other.dataset.job < id);
      find("recent").insertBefore(row.node, below ?? null);
      find("recent-none").hidden = true;
    }
    return row;
  }

  #happened(event) {
    const row = this.#row(event.job);
    row.saw(event);
    if (!row.job) this.#learn(row);
    if (event.n === 1 || FINAL.has(event.status)) this.#refresh();
  }

  async #learn(row) {
    try {
      row.is(await this.#pollcast.request(`/api/jobs/${row.id}`));
    } catch (error) {
      if (error.code === "not_found") this.#drop(row);
    }
  }

  #drop(row) {
    row.node.remove();
    this.#rows.delete(row.id);
  }

  async #select(id, { reveal = false } = {}) {
    this.#wanted = id;
    try {
      const row = this.#row(id);
      // An unfinished job is fetched again, because its estimate of the remaining time changes.
      if (!row.job || !FINAL.has(row.job.status)) row.is(await this.#pollcast.request(`/api/jobs/${id}`));
      if (this.#wanted !== id) return; // another job was selected meanwhile
      for (const other of this.#rows.values()) other.mark(other === row);
      history.replaceState(null, "", `#${id}`);
      this.#stage.show(row.job, this.#models.get(row.job.model));
      if (reveal) find("stage").scrollIntoView({ block: "nearest" });
    } catch (error) {
      if (error.code === "not_found") {
        this.#drop(this.#row(id));
        history.replaceState(null, "", location.pathname);
      } else this.#refused(error);
    }
  }

  // --- tokens ---

  /** Fetches the balance, once for several simultaneous events. */
  #refresh() {
    clearTimeout(this.#refreshing);
    this.#refreshing = setTimeout(async () => {
      try {
        this.#balance(await this.#pollcast.request("/api/account"));
      } catch {
        // The next event repeats the request.
      }
    }, 200);
  }

  #balance({ name, tokens }) {
    find("balance").textContent = `${name}: ${tokens.toLocaleString("en")} tokens`;
  }
}

/** Row of the job list. */
class Row {
  #title = make("span", { class: "what" });
  #about = make("span", { class: "hint" });
  #pill = make("span", { class: "pill" });
  #n = 0;
  #button;

  constructor(id, open) {
    this.id = id;
    this.#button = make("button", { type: "button", click: open }, this.#title, this.#pill, this.#about);
    this.node = make("li", { "data-job": id }, this.#button);
  }

  is(job) {
    this.job = job;
    this.#title.textContent = said(job.order) || job.model;
    this.age();
    this.#state(job.event, job);
  }

  saw(event) {
    if (!this.job) this.#title.textContent = event.model;
    this.#state(event.n, event);
  }

  age() {
    if (this.job) this.#about.textContent = `${this.job.model}, ${ago(Date.parse(this.job.created_at))}`;
  }

  mark(selected) {
    if (selected) this.#button.setAttribute("aria-current", "true");
    else this.#button.removeAttribute("aria-current");
  }

  #state(n, { status, progress }) {
    if (n < this.#n) return;
    this.#n = n;
    this.#pill.textContent = progress !== undefined && !FINAL.has(status) ? `${status} ${progress} %` : status;
    this.#pill.dataset.status = status;
  }
}

// --- the key ---

let studio;
let retrying;

async function enter(key) {
  const pollcast = connect({ url: BASE, key, onConnection: (up) => (find("connection").hidden = up) });
  const [account, { models }] = await Promise.all([pollcast.request("/api/account"), pollcast.request("/api/models")]);
  keep(key);
  find("gate").hidden = true;
  find("studio").hidden = false;
  find("account").hidden = false;
  studio = new Studio(pollcast, models, account);
}

function leave(message = "") {
  studio?.close();
  studio = undefined;
  keep("");
  find("connection").hidden = true;
  find("studio").hidden = true;
  find("account").hidden = true;
  ask(message);
}

function ask(message) {
  find("gate").hidden = false;
  find("key-error").textContent = message;
  find("key").value = "";
  find("key").focus();
}

async function tryKey(key, { typed }) {
  clearTimeout(retrying);
  try {
    await enter(key);
    if (typed) find("model").focus();
  } catch (error) {
    ask(error.status ? error.message : "The server cannot be reached. Is it running?");
    find("key").value = key;
    // After a reload, a short outage of the server or a proxy must not ask for the key again.
    if (!typed && error.code !== "unauthorized") retrying = setTimeout(() => retry(key), RETRY);
  }
}

function retry(key) {
  if (!studio && find("key").value === key) tryKey(key, { typed: false });
}

find("leave").addEventListener("click", () => leave());
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = find("key").value.trim();
  if (/^[\x21-\x7e]+$/.test(key)) tryKey(key, { typed: true });
  else ask(key ? "A key may contain only printable ASCII characters." : "Enter a key first.");
});

/** Stores the key for a reload of this tab, or removes it. Without storage the page asks again. */
function keep(key) {
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // No storage, or it is full.
  }
}

function kept() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return "";
  }
}

if (kept()) tryKey(kept(), { typed: false });
else ask("");
