// @ts-check
// One tile: a picture, or initials while there is none, and whose it is.

import { icon, make, setText } from "./dom.js";
import { hue, initials } from "./names.js";

/** @import { Tile } from "./tiles.js" */

export class TileView {
  element = make("figure", { class: "tile" });
  #video = make("video", { playsinline: "" });
  #avatar = make("div", { class: "avatar", "aria-hidden": "true" });
  #name = make("span");
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
    );
  }

  /** @param {Tile} tile */
  update(tile) {
    this.#show(tile.video);
    setText(this.#avatar, initials(tile.name));
    setText(this.#name, tile.self && tile.source === "camera" ? `${tile.name} (you)` : tile.name);
    this.#video.setAttribute("aria-label", tile.name);
    this.#silent.hidden = !tile.silent;
    const classes = this.element.classList;
    classes.toggle("speaking", tile.speaking && !tile.silent);
    classes.toggle("waiting", tile.waiting && !classes.contains("picture"));
  }

  remove() {
    this.#video.srcObject = null;
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
