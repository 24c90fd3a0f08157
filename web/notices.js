// @ts-check
// What the page tells in passing: toasts that go by themselves, and one banner for what stays.

import { icon, byId, make } from "./dom.js";

/** @import { Message } from "./messages.js" */

/**
 * @typedef {object} Banner
 * @property {string} key The same banner keeps its place (and is not read out again).
 * @property {"info" | "warn" | "error"} tone
 * @property {string} title
 * @property {string} hint
 * @property {string} [icon]
 * @property {{ label: string, run: () => void }} [action]
 */

const toasts = byId("toasts", HTMLElement);
const banner = byId("banner", HTMLElement);
const bannerTitle = make("b");
// Read out once with its banner; the seconds counted down in it are not.
const bannerHint = make("span", { "aria-live": "off" });
let bannerKey = "";

/**
 * @param {Message} message
 * @param {"info" | "error"} [tone]
 */
export function toast({ title, hint }, tone = "info") {
  const close = make("button", { type: "button", class: "square bare", "aria-label": "Dismiss" });
  close.append(icon("close"));
  const element = make("div", { class: `toast ${tone}` }, icon(tone === "error" ? "warn" : "info"));
  element.append(make("p", {}, make("b", {}, title), hint ? ` ${hint}` : ""), close);
  const remove = () => element.remove();
  close.addEventListener("click", remove);
  // Long enough to be read, and as long as it is looked at.
  let timer = setTimeout(remove, lifetimeMs(title + hint));
  element.addEventListener("pointerenter", () => clearTimeout(timer));
  element.addEventListener("pointerleave", () => (timer = setTimeout(remove, 2000)));
  toasts.append(element);
  while (toasts.childElementCount > TOASTS_MAX) toasts.firstElementChild?.remove();
}

/**
 * Takes away what belongs to the view before.
 * @param {"info" | "error"} tone
 */
export function clearToasts(tone) {
  for (const element of toasts.querySelectorAll(`.${tone}`)) element.remove();
}

/** @param {Banner | null} shown */
export function showBanner(shown) {
  banner.hidden = shown === null;
  if (shown === null) {
    bannerKey = "";
    return;
  }
  if (shown.key !== bannerKey) {
    bannerKey = shown.key;
    banner.className = `banner ${shown.tone}`;
    banner.replaceChildren(
      icon(shown.icon ?? (shown.tone === "info" ? "info" : "warn")),
      make("p", {}, bannerTitle, " ", bannerHint),
    );
    if (shown.action) {
      const button = make("button", { type: "button", class: "button small" }, shown.action.label);
      button.addEventListener("click", shown.action.run);
      banner.append(button);
    }
    bannerTitle.textContent = shown.title;
  }
  if (bannerHint.textContent !== shown.hint) bannerHint.textContent = shown.hint;
}

const TOASTS_MAX = 4;

/** @param {string} text */
function lifetimeMs(text) {
  return 3000 + text.length * 60;
}
