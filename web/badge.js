// @ts-check
// The signal sign of a tile: three bars that open into the reason for the picture's quality.

import { make, setText } from "./dom.js";
import { explain } from "./quality.js";

/** @import { Quality } from "./sdk/types.js" */

let count = 0;

export class Badge {
  element = make("button", { type: "button", class: "badge", "aria-haspopup": "true", "aria-expanded": "false" });
  #panel = make("div", { class: "badge-panel", popover: "auto", role: "note" });
  #title = make("h3");
  // Read out when it changes while it is open.
  #text = make("p", { "aria-live": "polite" });
  #numbers = make("dl");

  constructor() {
    this.#panel.id = `badge-${(count += 1)}`;
    this.element.append(make("i"), make("i"), make("i"));
    this.element.setAttribute("aria-controls", this.#panel.id);
    this.#panel.append(this.#title, this.#text, this.#numbers);
    // Not `popovertarget`: the panel has to be in its place before it is shown.
    this.element.addEventListener("click", () => this.#toggle());
    this.#panel.addEventListener("toggle", (event) => {
      const open = /** @type {ToggleEvent} */ (event).newState === "open";
      this.element.setAttribute("aria-expanded", String(open));
    });
    addEventListener("resize", this.#onResize);
  }

  /**
   * @param {string} whose
   * @param {Quality | null} quality Null hides the sign.
   */
  update(whose, quality) {
    this.element.hidden = quality === null;
    if (quality === null) return this.#close();
    const { bars, tone, name, text, numbers } = explain(quality);
    this.element.dataset.bars = String(bars);
    this.element.dataset.tone = tone;
    const label = `${whose}’s picture: ${name.toLowerCase()}. Why?`;
    if (this.element.getAttribute("aria-label") !== label) {
      this.element.setAttribute("aria-label", label);
      this.element.title = text;
    }
    setText(this.#title, whose);
    setText(this.#text, text);
    const flat = numbers.flat().join("\n");
    if (this.#numbers.dataset.text === flat) return;
    this.#numbers.dataset.text = flat;
    this.#numbers.replaceChildren(...numbers.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
  }

  remove() {
    removeEventListener("resize", this.#onResize);
    this.#panel.remove();
  }

  #onResize = () => this.#close();

  #toggle() {
    if (this.element.getAttribute("aria-expanded") === "true") return this.#close();
    // In the body: a tile cuts off what leaves it.
    if (!this.#panel.isConnected) document.body.append(this.#panel);
    this.#panel.showPopover();
    this.#place();
  }

  #close() {
    if (this.#panel.isConnected && this.#panel.matches(":popover-open")) this.#panel.hidePopover();
  }

  /** Below the sign or above it, inside the window. */
  #place() {
    const sign = this.element.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.#panel;
    const left = Math.min(Math.max(MARGIN, sign.right - width), innerWidth - width - MARGIN);
    const below = sign.bottom + GAP;
    const top = below + height + MARGIN <= innerHeight ? below : Math.max(MARGIN, sign.top - GAP - height);
    this.#panel.style.left = `${Math.max(MARGIN, left)}px`;
    this.#panel.style.top = `${top}px`;
  }
}

const GAP = 8;
const MARGIN = 10;
