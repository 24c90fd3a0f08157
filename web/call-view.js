// @ts-check
// The call: tiles, their layout, and the bar of controls.

import { byId, setIcon, setText, syncChildren } from "./dom.js";
import { bestGrid } from "./layout.js";
import { canShareScreen } from "./media.js";
import { TileView } from "./tile-view.js";
import { tilesOf } from "./tiles.js";

/** @import { State } from "./store.js" */
/** @import { Tile } from "./tiles.js" */

const floor = byId("floor", HTMLElement);
const stage = byId("stage", HTMLElement);
const tiles = byId("tiles", HTMLElement);
const alone = byId("alone", HTMLElement);
const roomName = byId("room-name", HTMLElement);
const roomStatus = byId("room-status", HTMLElement);
const peopleCount = byId("people-count", HTMLElement);
const buttons = {
  microphone: byId("toggle-mic", HTMLButtonElement),
  camera: byId("toggle-camera", HTMLButtonElement),
  screen: byId("toggle-screen", HTMLButtonElement),
};

/** @type {Map<string, TileView>} */
const stageViews = new Map();
/** @type {Map<string, TileView>} */
const tileViews = new Map();

buttons.screen.hidden = !canShareScreen();
new ResizeObserver(() => layOut()).observe(floor);

/** @param {Readonly<State>} state */
export function renderCall(state) {
  const { room } = state;
  const { screens, people } = tilesOf(state);
  syncChildren(stage, stageViews, screens, tileSteps);
  syncChildren(tiles, tileViews, people, tileSteps);
  stage.hidden = screens.length === 0;
  floor.classList.toggle("with-stage", screens.length > 0);
  floor.classList.toggle("stale", room !== null && room.state !== "joined");
  alone.hidden = room?.state !== "joined" || room.peers.size > 0 || screens.length > 0;
  layOut();

  setText(roomName, state.roomId);
  setText(roomStatus, statusOf(state));
  setText(peopleCount, String((room?.peers.size ?? 0) + 1));
  const micOn = state.microphone !== null && !state.muted;
  setControl(buttons.microphone, micOn, micOn ? "mic" : "mic-off", micOn ? "Mute" : "Unmute", "m");
  const cameraOn = state.camera !== null;
  const cameraText = cameraOn ? "Camera off" : "Camera on";
  setControl(buttons.camera, cameraOn, cameraOn ? "camera" : "camera-off", cameraText, "c");
  const sharing = state.screen !== null;
  setControl(buttons.screen, sharing, "screen", sharing ? "Stop sharing" : "Share screen");
  // Not `disabled`: who has pressed it with the keyboard would lose their place.
  for (const device of /** @type {const} */ (["microphone", "camera", "screen"])) {
    buttons[device].setAttribute("aria-disabled", String(state.busy.has(device)));
  }
}

/** Gives every tile as much room as there is. */
function layOut() {
  const style = getComputedStyle(floor);
  const gap = Number.parseFloat(style.rowGap) || 0;
  if (!stage.hidden) {
    fit(stage, stageViews.size, { gap, narrowest: 0.5, widest: 4 });
    tiles.style.removeProperty("--tile-width");
    tiles.style.removeProperty("--tile-height");
    return;
  }
  // Cameras are wide: only a phone held upright cuts their sides off.
  const narrowest = tiles.clientWidth > tiles.clientHeight ? 5 / 4 : 3 / 4;
  fit(tiles, tileViews.size, { gap, narrowest, widest: 16 / 9 });
}

/**
 * @param {HTMLElement} area
 * @param {number} count
 * @param {{ gap: number, narrowest: number, widest: number }} options
 */
function fit(area, count, options) {
  if (count === 0 || area.clientWidth === 0) return;
  const grid = bestGrid(count, area.clientWidth, area.clientHeight, options);
  // Below this nobody is recognised: rather scroll.
  const tooSmall = grid.width < TILE_WIDTH_MIN;
  area.classList.toggle("scrolls", tooSmall);
  const columns = Math.max(1, Math.floor(area.clientWidth / (TILE_WIDTH_MIN + options.gap)));
  const width = tooSmall ? (area.clientWidth - options.gap * (columns - 1)) / columns : grid.width;
  const height = tooSmall ? (width * 3) / 4 : grid.height;
  area.style.setProperty("--tile-width", `${Math.floor(width)}px`);
  area.style.setProperty("--tile-height", `${Math.floor(height)}px`);
}

const TILE_WIDTH_MIN = 132;

const tileSteps = {
  key: (/** @type {Tile} */ tile) => tile.key,
  create: (/** @type {Tile} */ tile) => new TileView(tile),
  update: (/** @type {TileView} */ view, /** @type {Tile} */ tile) => view.update(tile),
  remove: (/** @type {TileView} */ view) => view.remove(),
};

/**
 * @param {HTMLButtonElement} button
 * @param {boolean} on
 * @param {string} icon
 * @param {string} label
 * @param {string} [key] That does the same.
 */
function setControl(button, on, icon, label, key) {
  // Not `aria-pressed`: the label names what a press does, and "Mute, pressed" would mean silence.
  button.dataset.on = String(on);
  setIcon(button, icon);
  const text = button.querySelector(".control-label");
  if (text) setText(text, label);
  button.setAttribute("aria-label", label);
  button.title = key === undefined ? label : `${label} (${key.toUpperCase()})`;
  if (key !== undefined) button.setAttribute("aria-keyshortcuts", key);
}

/** @param {Readonly<State>} state */
function statusOf({ room }) {
  switch (room?.state) {
    case "connecting":
      return "joining…";
    case "reconnecting":
      return "reconnecting…";
    case "joined":
      return room.connection === "disconnected" || room.connection === "failed" ? "poor connection…" : "";
    default:
      return "";
  }
}
