// Shared functions of the page: elements, safe links, formatted times and the clipboard.

export const find = (id) => document.getElementById(id);

/** Creates an element with attributes (functions become listeners) and children. Strings become text, never markup. */
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

/** Returns the URL if it is http or https. Other URLs from a provider are not linked. */
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

/** Formats "aspect_ratio" as "Aspect ratio". */
export const spoken = (name) => (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");

/** Formats 75 seconds as "1:15". */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** Formats a range of seconds. */
export function range(low, high) {
  if (high < 90) return low === high ? `${low} s` : `${low} to ${high} s`;
  const [from, to] = [Math.max(1, Math.round(low / 60)), Math.round(high / 60)];
  return from === to ? `${to} min` : `${from} to ${to} min`;
}

/** Formats a time as "just now", "12 min ago" or a date. */
export function ago(at) {
  const seconds = (Date.now() - at) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(at).toLocaleDateString();
}

/** Announces a text to screen readers. */
export function announce(text) {
  find("news").textContent = text;
}

/** Copies the text. On an insecure page, which has no clipboard access, it shows the text instead. */
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

/** Returns the order as a curl command. The key is a shell variable. */
export function asCurl(base, order) {
  const quoted = JSON.stringify(order).replaceAll("'", "'\\''");
  return [
    `curl -N ${base}/api/generate \\`,
    `  -H "Authorization: Bearer $POLLCAST_KEY" -H "Idempotency-Key: ${anyKey()}" \\`,
    `  -d '${quoted}'`,
  ].join("\n");
}

/** Returns the order as a JavaScript module. The key is a placeholder. */
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
