// What the page's parts share: elements, links that are safe to follow, words for times, and the clipboard.

export const find = (id) => document.getElementById(id);

/** An element with its attributes (functions are listeners) and children. Text becomes text, never markup. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined));
  return element;
}

/** The URL, if it is http or https; anything else that a provider may send is not followed. */
export function webUrl(text) {
  const url = URL.parse?.(text) ?? parsed(text);
  return ["http:", "https:"].includes(url?.protocol) ? url.href : undefined;
}

function parsed(text) {
  try {
    return new URL(text);
  } catch {
    return undefined;
  }
}

/** "aspect_ratio" as "Aspect ratio". */
export const spoken = (name) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");

/** 75 as "1:15". */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** A range of seconds, in words. */
export function range(low, high) {
  if (high < 90) return low === high ? `${low} s` : `${low} to ${high} s`;
  const [from, to] = [Math.max(1, Math.round(low / 60)), Math.round(high / 60)];
  return from === to ? `${to} min` : `${from} to ${to} min`;
}

/** "just now", "12 min ago", or the day. */
export function ago(at) {
  const seconds = (Date.now() - at) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(at).toLocaleDateString();
}

/** Say something to those who do not see the page. */
export function announce(text) {
  find("news").textContent = text;
}

/** Copy the text; where the page may not (it is not a secure one), show it to be copied by hand. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.dataset.label ??= button.textContent;
    button.textContent = "Copied";
    announce("Copied.");
    setTimeout(() => (button.textContent = button.dataset.label), 1500);
  } catch {
    find("code-text").value = text;
    find("code").showModal();
    find("code-text").select();
  }
}

/** The order as a shell command; the key is a variable. */
export function asCurl(base, order) {
  const quoted = JSON.stringify(order).replaceAll("'", "'\\''");
  return [
    `curl -N ${base}/api/generate \\`,
    `  -H "Authorization: Bearer $POLLCAST_KEY" -H "Idempotency-Key: ${anyKey()}" \\`,
    `  -d '${quoted}'`,
  ].join("\n");
}

/** The order as a module; the key is a placeholder. */
export function asJavaScript(base, order) {
  return `import { connect } from "${base}/pollcast.js";

const pollcast = connect({ key: "YOUR_KEY" });
const order = ${JSON.stringify(order, null, 2)};
const { url } = await pollcast.generate(order, {
  onEvent: ({ status, detail, progress }) => console.log(status, detail ?? "", progress ?? ""),
});
console.log(url);
`;
}

const anyKey = () => crypto.getRandomValues(new Uint32Array(3)).join("-");
