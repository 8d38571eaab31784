// Order form, generated from a model's JSON Schema (GET /api/models). Each field has `read()`, which returns its value
// (undefined if unchanged), `find()`, which returns the field of a path such as ["chunks", "0", "audio"], and `fault()`,
// which shows an error.

import { make, spoken } from "./dom.js";

const LONG = new Set(["prompt", "content"]);
let fields = 0;

/** Form of one model. `upload` takes a file and returns a promise of an asset. */
export class Form {
  #model;
  #top;
  #context;
  #faulty = new Set();

  constructor(model, upload) {
    this.#model = model.id;
    this.#context = { definitions: model.fields.$defs ?? {}, styles: model.styles, upload, uploads: new Set() };
    this.#top = new Group(model.fields, this.#context);
    const [main, more] = parted(model.fields, this.#top.children);
    this.node = make("div", {}, ...main.map((field) => field.node));
    if (more.length) {
      const summary = make("summary", {}, "More options");
      this.node.append(make("details", {}, summary, ...more.map((field) => field.node)));
    }
  }

  get prompt() {
    return this.#top.children.prompt?.input.value ?? "";
  }

  set prompt(text) {
    if (this.#top.children.prompt) this.#top.children.prompt.input.value = text;
  }

  /** Returns the order after all uploads. Throws a Fault for an invalid field. */
  async order() {
    await Promise.allSettled(this.#context.uploads);
    return { model: this.#model, ...this.#top.read() };
  }

  clear() {
    for (const field of this.#faulty) field.fault("");
    this.#faulty.clear();
  }

  /** Shows each error at its field and focuses the first. Returns the errors without a field in this form. */
  show(faults) {
    const strangers = [];
    for (const { field: path, message } of faults) {
      const [field, rest] = this.#top.find(path.split("."));
      if (field === this.#top) strangers.push({ field: path, message });
      else this.showAt(field, rest.length ? `${rest.join(".")}: ${message}` : message);
    }
    return strangers;
  }

  showAt(field, message) {
    field.fault(message);
    field.node.closest("details")?.setAttribute("open", "");
    if (!this.#faulty.size) field.focus();
    this.#faulty.add(field);
  }
}

/** A field's value is invalid. */
class Fault extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** Common fields are shown first. Rare fields, and fields with a default, are under "More options". */
function parted(schema, children) {
  const isRare = ([name, { type, default: usual, items }]) =>
    !schema.required?.includes(name) &&
    (usual !== undefined || !["string", "array"].includes(type) || Boolean(items && !items["x-media"]));
  const all = Object.entries(schema.properties);
  const pick = (wanted) => all.filter((entry) => isRare(entry) === wanted).map(([name]) => children[name]);
  return [pick(false), pick(true)];
}

function fieldOf(name, schema, context, required = false) {
  const resolved = schema.$ref ? { ...context.definitions[schema.$ref.split("/").at(-1)], ...schema } : schema;
  const kind = kindOf(resolved);
  return new kind(resolved, context, name, required);
}

function kindOf(schema) {
  if (schema["x-media"]) return Media;
  if (schema.enum) return Choice;
  if (schema.type === "boolean") return Switch;
  if (schema.type === "number" || schema.type === "integer") return Numeric;
  if (schema.type === "string") return Text;
  if (schema.type === "object" && schema.properties) return Group;
  if (schema.type === "array" && (schema.items.$ref || schema.items.type === "string")) return List;
  return Json;
}

// --- fields with one input ---

class Field {
  constructor(schema, context, name, required) {
    const id = `field-${++fields}`;
    this.path = name;
    this.schema = schema;
    this.context = context;
    this.input = this.control(schema, name);
    this.input.id = id;
    this.input.setAttribute("aria-describedby", `${id}-hint ${id}-fault`);
    if (required) this.input.required = true;
    const mark = required ? make("span", { class: "mark", "aria-hidden": "true" }, "*") : "";
    const label = make("label", { for: id }, spoken(name), mark);
    const hint = make("span", { id: `${id}-hint`, class: "hint" }, this.hint());
    this.told = make("span", { id: `${id}-fault`, class: "fault" });
    this.node = make("div", { class: "field" }, ...this.arranged(label, this.input), hint, this.told);
  }

  arranged(label, input) {
    return [label, input];
  }

  hint() {
    return this.schema.description ?? "";
  }

  read() {
    return this.input.value.trim() === "" ? undefined : this.input.value;
  }

  find(path) {
    return [this, path];
  }

  fault(message) {
    this.told.textContent = message;
    this.input.setAttribute("aria-invalid", String(Boolean(message)));
  }

  focus() {
    this.input.focus();
  }
}

class Text extends Field {
  control({ default: usual = "", maxLength }, name) {
    if (LONG.has(name)) return make("textarea", { rows: 3 });
    return make("input", { type: "text", placeholder: usual, maxlength: maxLength, autocomplete: "off" });
  }
}

class Numeric extends Field {
  control({ type, default: usual = "", minimum, maximum }) {
    const step = type === "integer" ? 1 : "any";
    return make("input", { type: "number", step, min: minimum, max: maximum, placeholder: usual });
  }

  read() {
    if (this.input.validity.badInput) throw new Fault(this, "This is not a number.");
    if (this.input.value === "") return undefined;
    const number = Number(this.input.value);
    if (Number.isInteger(number) && !Number.isSafeInteger(number))
      throw new Fault(this, "The number has too many digits.");
    return number;
  }
}

class Choice extends Field {
  control({ enum: values, default: usual }) {
    const names = new Map(this.context.styles.map(({ value, name }) => [value, name]));
    const unsaid = make("option", { value: "" }, usual === undefined ? "Not set" : `Usual: ${usual}`);
    return make("select", {}, unsaid, ...values.map((value) => make("option", { value }, names.get(value) ?? value)));
  }
}

class Switch extends Field {
  control({ default: usual }) {
    return make("input", { type: "checkbox", checked: Boolean(usual) });
  }

  arranged(label, input) {
    return [make("span", { class: "switch" }, input, label)];
  }

  read() {
    return this.input.checked === Boolean(this.schema.default) ? undefined : this.input.checked;
  }
}

class Json extends Field {
  control({ type }) {
    const example = type === "array" ? '[{"unique_id": "a", "name": "Ada"}]' : "{}";
    return make("textarea", { rows: 4, class: "code", spellcheck: "false", placeholder: example });
  }

  hint() {
    return `${this.schema.description ?? ""} As JSON.`.trim();
  }

  read() {
    if (this.input.value.trim() === "") return undefined;
    try {
      return JSON.parse(this.input.value);
    } catch (error) {
      throw new Fault(this, `This is not JSON: ${error.message}`);
    }
  }
}

/** Field for an asset id or a URL. A dropped or chosen file is uploaded and replaced by its id. */
class Media extends Field {
  #failed = "";

  control() {
    const typed = () => this.#forget();
    return make("input", {
      type: "text",
      placeholder: "Drop a file, or paste a URL",
      autocomplete: "off",
      input: typed,
    });
  }

  arranged(label, input) {
    const accept = this.schema["x-media"].map((kind) => `${kind}/*`).join(",");
    const chosen = ({ target }) => target.files[0] && this.take(target.files[0]);
    const file = make("input", { type: "file", accept, hidden: true, change: chosen });
    const choose = make("button", { type: "button", click: () => file.click() }, "Choose file");
    choose.setAttribute("aria-label", `Choose file: ${spoken(this.path)}`);
    this.preview = make("div", { class: "preview", role: "status" });
    const row = make("div", { class: "drop" }, input, choose, file);
    row.addEventListener("dragover", (event) => {
      event.preventDefault();
      row.classList.add("over");
    });
    row.addEventListener("dragleave", () => row.classList.remove("over"));
    row.addEventListener("drop", (event) => {
      event.preventDefault();
      row.classList.remove("over");
      const [dropped] = event.dataTransfer.files;
      if (dropped) this.take(dropped);
      else this.input.value = event.dataTransfer.getData("text/uri-list").split("\n")[0];
    });
    return [label, row, this.preview];
  }

  read() {
    if (this.#failed) throw new Fault(this, this.#failed);
    return super.read()?.trim();
  }

  async take(file) {
    this.#forget();
    this.fault("");
    this.input.value = "";
    this.preview.textContent = `Uploading ${file.name} …`;
    const upload = this.context.upload(file);
    this.context.uploads.add(upload);
    try {
      const asset = await upload;
      this.input.value = asset.id;
      this.#show(file, asset);
    } catch (error) {
      this.preview.textContent = "";
      this.#failed = error.message;
      this.fault(error.message);
    } finally {
      this.context.uploads.delete(upload);
    }
  }

  #show(file, { type }) {
    this.shown = URL.createObjectURL(file);
    const kind = type.split("/")[0];
    const tag = { image: "img", video: "video" }[kind] ?? "audio";
    const played = make(tag, { src: this.shown, alt: kind === "image" ? "" : undefined, controls: kind !== "image" });
    this.preview.replaceChildren(played, make("span", {}, `${file.name}, ${Math.ceil(file.size / 1024)} KiB`));
  }

  #forget() {
    this.#failed = "";
    this.preview.replaceChildren();
    if (this.shown) URL.revokeObjectURL(this.shown);
    this.shown = undefined;
  }
}

// --- nested fields ---

class Group {
  constructor(schema, context, name = "") {
    const required = new Set(schema.required);
    this.children = Object.fromEntries(
      Object.entries(schema.properties).map(([name, inner]) => [
        name,
        fieldOf(name, inner, context, required.has(name)),
      ]),
    );
    const hint = schema.description ? make("p", { class: "hint" }, schema.description) : "";
    this.told = make("p", { class: "fault" });
    this.node = make("fieldset", {}, make("legend", {}, spoken(name || "order")), hint, this.told);
    this.node.append(...Object.values(this.children).map((child) => child.node));
  }

  read() {
    const said = Object.entries(this.children).map(([name, child]) => [name, child.read()]);
    const values = said.filter(([, value]) => value !== undefined);
    return values.length ? Object.fromEntries(values) : undefined;
  }

  find([name, ...rest]) {
    return this.children[name]?.find(rest) ?? [this, name === undefined ? [] : [name, ...rest]];
  }

  fault(message) {
    this.told.textContent = message;
  }

  focus() {
    this.node.querySelector("input, select, textarea")?.focus();
  }
}

/** List of fields of one kind. */
class List {
  #items = [];
  #sent = [];

  constructor(schema, context, name, required) {
    this.schema = schema;
    this.context = context;
    this.path = name;
    this.holder = make("div", { class: "items" });
    this.told = make("p", { class: "fault" });
    const one = spoken(name).replace(/s$/, "").toLowerCase();
    this.one = one;
    this.button = make("button", { type: "button", class: "quiet", click: () => this.#add().focus() }, `Add ${one}`);
    const hint = schema.description ? make("p", { class: "hint" }, schema.description) : "";
    const mark = required ? make("span", { class: "mark", "aria-hidden": "true" }, "*") : "";
    this.node = make("fieldset", {}, make("legend", {}, spoken(name), mark), hint, this.holder, this.told, this.button);
    if (schema.items["x-media"]) this.#add(); // an empty field to drop a file on
  }

  #add() {
    const item = fieldOf(this.one, this.schema.items, this.context);
    const remove = make("button", { type: "button", class: "quiet remove" }, "Remove");
    remove.setAttribute("aria-label", `Remove ${this.one} ${this.#items.length + 1}`);
    const row = make("div", { class: "item" }, item.node, remove);
    remove.addEventListener("click", () => {
      this.#items = this.#items.filter((other) => other !== item);
      row.remove();
      this.button.focus();
    });
    this.#items.push(item);
    this.holder.append(row);
    return item;
  }

  read() {
    // Blank texts are omitted. An empty group is sent, so that the server reports its missing fields.
    this.#sent = this.#items.filter((item) => item instanceof Group || item.read() !== undefined);
    return this.#sent.length ? this.#sent.map((item) => item.read() ?? {}) : undefined;
  }

  find([index, ...rest]) {
    return this.#sent[index]?.find(rest) ?? [this, index === undefined ? [] : [index, ...rest]];
  }

  fault(message) {
    this.told.textContent = message;
  }

  focus() {
    this.button.focus();
  }
}
