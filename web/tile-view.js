// @ts-check
// One tile: a picture, or initials while there is none, and whose it is.

import { Badge } from "./badge.js";
import { icon, make, setIcon, setText } from "./dom.js";
import { hue, initials } from "./names.js";
import { state, update } from "./store.js";
import { shownSize, watchTile } from "./wishes.js";

/** @import { Tile } from "./tiles.js" */

export class TileView {
  element = make("figure", { class: "tile" });
  #video = make("video", { playsinline: "" });
  #avatar = make("div", { class: "avatar", "aria-hidden": "true" });
  #name = make("span");
  #badge = new Badge();
  #pin = make("button", { type: "button", class: "tile-pin" }, icon("pin"));
  #silent = make("span", { class: "tile-silent", role: "img", "aria-label": "microphone off" });
  /** @type {MediaStreamTrack | null} */
  #shown = null;

  /** @param {Tile} tile */
  constructor(tile) {
    const { element } = this;
    element.dataset.peer = tile.peer;
    element.dataset.source = tile.source;
    if (tile.self) element.dataset.self = "";
    element.style.setProperty("--hue", String(hue(tile.peer)));
    this.#video.autoplay = true;
    // Sound has elements of its own: a muted video may always play.
    this.#video.muted = true;
    this.#silent.append(icon("mic-off"));
    element.append(
      make("div", { class: "tile-back" }, this.#avatar),
      this.#video,
      make("figcaption", {}, this.#silent, this.#name),
      make("div", { class: "tile-tools" }, this.#pin, this.#badge.element),
    );
    this.#pin.hidden = tile.self || tile.source === "screen";
    this.#pin.addEventListener("click", () => update({ pinned: state.pinned === tile.key ? null : tile.key }));
  }

  /** @param {Tile} tile */
  update(tile) {
    this.#show(tile.video);
    setText(this.#avatar, initials(tile.name));
    setText(this.#name, tile.self && tile.source === "camera" ? `${tile.name} (you)` : tile.name);
    this.#video.setAttribute("aria-label", tile.name);
    this.#silent.hidden = !tile.silent;
    const pinLabel = tile.pinned ? `Unpin ${tile.name}` : `Pin ${tile.name}`;
    this.#pin.setAttribute("aria-label", pinLabel);
    this.#pin.title = pinLabel;
    setIcon(this.#pin, tile.pinned ? "unpin" : "pin");
    const priority = tile.source === "screen" ? SCREEN_PRIORITY : tile.pinned ? PINNED_PRIORITY : PRIORITY;
    watchTile(this.element, tile.track === null ? null : { peer: tile.peer, track: tile.track, priority });
    this.#badge.update(tile.name, tile.quality, shownSize(this.element));
    const classes = this.element.classList;
    classes.toggle("speaking", tile.speaking && !tile.silent);
    classes.toggle("waiting", tile.waiting && !classes.contains("picture"));
  }

  remove() {
    this.#video.srcObject = null;
    this.#badge.remove();
    watchTile(this.element, null);
  }

  /** @param {MediaStreamTrack | null} track */
  #show(track) {
    if (this.#shown === track) return;
    this.#shown = track;
    this.element.classList.remove("picture");
    this.#video.srcObject = track ? new MediaStream([track]) : null;
    if (track === null) return;
    // The first frame, not the track's arrival: a receiver may have carried somebody else before.
    const onFrame = () => {
      if (this.#shown !== track) return;
      this.element.classList.add("picture");
      this.element.classList.remove("waiting");
    };
    this.#video.addEventListener("loadeddata", onFrame, { once: true });
    this.#video.requestVideoFrameCallback?.(onFrame);
    this.#video.play().catch(() => {}); // interrupted by the next track: that one plays
  }
}

/** Who is served first when bandwidth is short: a screen is there to be read. */
const SCREEN_PRIORITY = 90;
const PINNED_PRIORITY = 80;
const PRIORITY = 50;
