// @ts-check
// The page's one state. Views are functions of it; they are called once after any number of
// changes made in the same turn.

/** @import { Room } from "./sdk/shardcast.js" */
/** @import { Diagnosis } from "./sdk/stats.js" */
/** @import { Reason } from "./sdk/types.js" */
/** @import { DeviceKind } from "./media.js" */
/** @import { Theme } from "./theme.js" */

/**
 * @typedef {object} State
 * @property {"join" | "call"} view
 * @property {string} name
 * @property {string} roomId
 * @property {boolean} joining Join was pressed and the devices are being asked for.
 * @property {boolean} wantsMicrophone To be captured when joining.
 * @property {boolean} wantsCamera To be captured when joining.
 * @property {MediaStreamTrack | null} microphone
 * @property {MediaStreamTrack | null} camera
 * @property {MediaStreamTrack | null} screen
 * @property {boolean} muted
 * @property {ReadonlySet<DeviceKind | "screen">} busy Devices being asked for.
 * @property {MediaDeviceInfo[]} devices
 * @property {Room | null} room
 * @property {Reason | null} ended Why the last room was closed on us.
 * @property {ReadonlySet<string>} speaking Peer ids.
 * @property {string | null} pinned The key of the tile that was put on the stage.
 * @property {boolean} panel The list of people is open.
 * @property {boolean} soundBlocked The browser wants a tap before it plays sound.
 * @property {Diagnosis | null} diagnosis
 * @property {Theme} theme
 */

/** @type {State} */
export const state = {
  view: "join",
  name: "",
  roomId: "",
  joining: false,
  wantsMicrophone: true,
  wantsCamera: true,
  microphone: null,
  camera: null,
  screen: null,
  muted: false,
  busy: new Set(),
  devices: [],
  room: null,
  ended: null,
  speaking: new Set(),
  pinned: null,
  panel: false,
  soundBlocked: false,
  diagnosis: null,
  theme: "dark",
};

/** @type {Set<(state: Readonly<State>) => void>} */
const views = new Set();
let scheduled = false;

/**
 * Changes the state and redraws.
 * @param {Partial<State>} [patch] Left out when something inside the room changed.
 */
export function update(patch) {
  Object.assign(state, patch);
  if (scheduled) return;
  scheduled = true;
  queueMicrotask(() => {
    scheduled = false;
    for (const view of views) view(state);
  });
}

/** @param {(state: Readonly<State>) => void} view */
export function addView(view) {
  views.add(view);
}
