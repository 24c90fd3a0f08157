// @ts-check
// The signal sign of a tile: three bars that open into the reason for the picture's quality.

import { make, setText } from "./dom.js";
import { explain } from "./quality.js";

/** @import { Size } from "./quality.js" */
/** @import { Quality } from "./sdk/types.js" */

let count = 0;

export class Badge {
  /** The sign and, right behind it for those who go by the keyboard, what it opens. */
  element = make("div", { class: "badge-box" });
  #sign = make("button", { type: "button", class: "badge", "aria-expanded": "false" }, make("i"), make("i"), make("i"));
  // In the top layer when open, so that the tile does not cut it off.
  #panel = make("div", { class: "badge-panel", popover: "auto", role: "dialog", tabindex: "-1" });
  #title = make("h3");
  // Read out when it changes while it is open.
  #text = make("p", { "aria-live": "polite" });
  #numbers = make("dl");

  constructor() {
    const id = `badge-${(count += 1)}`;
    this.#panel.id = id;
    this.#title.id = `${id}-title`;
    this.#text.id = `${id}-text`;
    this.#sign.setAttribute("aria-controls", id);
    this.#panel.setAttribute("aria-labelledby", this.#title.id);
    this.#panel.setAttribute("aria-describedby", this.#text.id);
    this.#panel.append(this.#title, this.#text, this.#numbers);
    this.element.append(this.#sign, this.#panel);
    // A press on the sign is not one beside the panel, which would close it. What it does is done here, as the
    // panel has to be put into its place.
    this.#sign.popoverTargetElement = this.#panel;
    this.#sign.addEventListener("click", (event) => {
      event.preventDefault();
      this.#toggle();
    });
    this.#panel.addEventListener("toggle", (event) => {
      const open = /** @type {ToggleEvent} */ (event).newState === "open";
      this.#sign.setAttribute("aria-expanded", String(open));
    });
    // As soon as one leaves it with the keyboard it is only in the way.
    this.element.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget instanceof Node && !this.element.contains(relatedTarget)) this.#close();
    });
    addEventListener("resize", this.#onResize);
  }

  /**
   * @param {string} whose
   * @param {Quality | null} quality Null hides the sign.
   * @param {Size | null} shown How large the picture is shown.
   */
  update(whose, quality, shown) {
    this.element.hidden = quality === null;
    if (quality === null) return this.#close();
    const { bars, tone, name, text, numbers } = explain(quality, shown);
    this.#sign.dataset.bars = String(bars);
    this.#sign.dataset.tone = tone;
    const label = `${whose}’s picture: ${name.toLowerCase()}. Why?`;
    if (this.#sign.getAttribute("aria-label") !== label) this.#sign.setAttribute("aria-label", label);
    if (this.#sign.title !== text) this.#sign.title = text;
    setText(this.#title, whose);
    setText(this.#text, text);
    const flat = numbers.flat().join("\n");
    if (this.#numbers.dataset.text === flat) return;
    this.#numbers.dataset.text = flat;
    this.#numbers.replaceChildren(...numbers.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
  }

  remove() {
    removeEventListener("resize", this.#onResize);
  }

  #onResize = () => this.#close();

  #toggle() {
    if (this.#panel.matches(":popover-open")) return this.#close();
    this.#panel.showPopover();
    this.#place();
    // There it is read out, and from there both Escape and closing come back to the sign.
    this.#panel.focus({ preventScroll: true });
  }

  #close() {
    if (this.#panel.matches(":popover-open")) this.#panel.hidePopover();
  }

  /** Below the sign or above it, inside the window. */
  #place() {
    const sign = this.#sign.getBoundingClientRect();
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
