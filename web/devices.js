// @ts-check
// The page's own camera, microphone and screen: captures them into the state, publishes them when
// there is a room, and gives them back.

import { capture, captureScreen, listDevices } from "./media.js";
import { captureMessages } from "./messages.js";
import { toast } from "./notices.js";
import { state, update } from "./store.js";

/** @import { DeviceKind } from "./media.js" */
/** @import { Flags } from "./flags.js" */
/** @import { PublishOptions } from "./sdk/types.js" */

/** @type {{ width: number, height: number, fps: number }} */
const picture = { width: 1280, height: 720, fps: 30 };
/** @type {Partial<Record<DeviceKind, string>>} */
const deviceIds = {};
/** @type {PublishOptions} */
const publishing = {};

/** @param {{ width: number, height: number, fps: number }} wanted */
export function setPicture({ width, height, fps }) {
  Object.assign(picture, { width, height, fps });
}

/** @param {Flags} flags */
export function setPublishing({ codec, layers, simulcast }) {
  if (codec !== null) publishing.codec = /** @type {PublishOptions["codec"]} */ (codec);
  if (layers !== null) publishing.scalabilityMode = layers;
  publishing.simulcast = simulcast;
}

/**
 * How a device's track is published.
 * @param {DeviceKind | "screen"} kind
 * @returns {PublishOptions}
 */
export function publishOptions(kind) {
  // Layers of time are enough for a screen: its pictures are few and have to be sharp.
  const { scalabilityMode: _, ...screen } = publishing;
  return kind === "screen" ? screen : publishing;
}

/**
 * Captures those that are not yet; what fails is told and no longer wanted.
 * @param {readonly DeviceKind[]} kinds
 */
export async function acquire(kinds) {
  const missing = kinds.filter((kind) => state[kind] === null && !state.busy.has(kind));
  if (missing.length === 0) return;
  update({ busy: new Set([...state.busy, ...missing]) });
  const { microphone, camera, problems } = await capture(missing, { ...picture, deviceIds });
  update({ busy: without(state.busy, missing) });
  if (microphone) adopt("microphone", microphone);
  if (camera) adopt("camera", camera);
  for (const { device } of problems) {
    if (device === "camera") update({ wantsCamera: false });
    if (device === "microphone") update({ wantsMicrophone: false });
  }
  for (const message of captureMessages(problems)) toast(message, "error");
  update({ devices: await listDevices() });
}

/** @param {DeviceKind | "screen"} kind */
export function release(kind) {
  const track = state[kind];
  if (track === null) return;
  track.stop();
  update({ [kind]: null });
  void state.room?.unpublish(kind);
}

export function releaseAll() {
  for (const kind of /** @type {const} */ (["microphone", "camera", "screen"])) {
    state[kind]?.stop();
  }
  update({ microphone: null, camera: null, screen: null, muted: false });
}

/** In a call, keeps the device and only silences it: unmuting must not wait for a prompt. */
export async function toggleMicrophone() {
  if (state.microphone === null) {
    update({ muted: false, wantsMicrophone: true });
    await acquire(["microphone"]);
  } else if (state.room === null) {
    update({ wantsMicrophone: false });
    release("microphone");
  } else {
    update({ muted: !state.muted });
    await state.room.setMuted("microphone", state.muted);
  }
}

/** Off means off: the camera's light goes out. */
export async function toggleCamera() {
  if (state.camera === null) {
    update({ wantsCamera: true });
    await acquire(["camera"]);
  } else {
    update({ wantsCamera: false });
    release("camera");
  }
}

export async function toggleScreen() {
  if (state.busy.has("screen")) return; // the picker is open
  if (state.screen !== null) return release("screen");
  update({ busy: new Set([...state.busy, "screen"]) });
  const result = await captureScreen();
  update({ busy: without(state.busy, ["screen"]) });
  if (result === null) return;
  if ("problem" in result) {
    for (const message of captureMessages([result.problem])) toast(message, "error");
  } else if (state.room === null) {
    result.track.stop(); // left while choosing
  } else {
    adopt("screen", result.track);
  }
}

/**
 * @param {DeviceKind} kind
 * @param {string} deviceId
 */
export async function chooseDevice(kind, deviceId) {
  deviceIds[kind] = deviceId;
  release(kind);
  await acquire([kind]);
}

/**
 * @param {DeviceKind | "screen"} kind
 * @param {MediaStreamTrack} track
 */
function adopt(kind, track) {
  update({ [kind]: track });
  // Fires for an unplugged device and the browser's own "stop sharing", not for `stop()`.
  track.addEventListener("ended", () => {
    if (state[kind] !== track) return;
    release(kind);
    if (kind !== "screen") {
      toast({ title: `The ${kind} was disconnected.`, hint: "Turn it on again to go on." }, "error");
    }
  });
  const muted = kind === "microphone" && state.muted;
  void state.room?.publish(track, { source: kind, muted, ...publishOptions(kind) });
}

/**
 * @template T
 * @param {ReadonlySet<T>} set
 * @param {readonly T[]} gone
 */
function without(set, gone) {
  return new Set([...set].filter((item) => !gone.includes(item)));
}
