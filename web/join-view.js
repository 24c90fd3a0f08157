// @ts-check
// The page before the call: name, room, and a look into one's own camera.

import { renderChoices } from "./device-choice.js";
import { byId, setIcon, setText } from "./dom.js";
import { hue, initials } from "./names.js";

/** @import { DeviceKind } from "./media.js" */
/** @import { State } from "./store.js" */

const frame = byId("preview", HTMLElement);
const video = byId("preview-video", HTMLVideoElement);
const avatar = byId("preview-avatar", HTMLElement);
const text = byId("preview-text", HTMLElement);
const start = byId("preview-start", HTMLButtonElement);
const name = byId("join-name", HTMLInputElement);
const room = byId("join-room", HTMLInputElement);
const submit = byId("join-submit", HTMLButtonElement);
const buttons = {
  microphone: byId("preview-mic", HTMLButtonElement),
  camera: byId("preview-camera", HTMLButtonElement),
};
const selects = {
  microphone: byId("device-mic", HTMLSelectElement),
  camera: byId("device-camera", HTMLSelectElement),
};

/** @type {MediaStreamTrack | null} */
let shown = null;

/** @param {Readonly<State>} state */
export function renderJoin(state) {
  const here = state.view === "join";
  if (name.value !== state.name && document.activeElement !== name) name.value = state.name;
  if (room.value !== state.roomId && document.activeElement !== room) room.value = state.roomId;
  showCamera(here ? state.camera : null);
  frame.style.setProperty("--hue", String(hue(state.name)));
  setText(avatar, initials(state.name));
  setText(text, previewText(state));
  start.hidden = state.microphone !== null || state.camera !== null || !(state.wantsCamera || state.wantsMicrophone);
  start.disabled = state.busy.size > 0;
  setToggle("microphone", state, state.wantsMicrophone);
  setToggle("camera", state, state.wantsCamera);
  submit.disabled = state.joining;
  setText(submit, state.joining ? "Joining…" : "Join room");
  if (here) renderChoices(selects, state);
}

/** @param {MediaStreamTrack | null} camera */
function showCamera(camera) {
  frame.classList.toggle("picture", camera !== null);
  if (camera === shown) return;
  shown = camera;
  video.srcObject = camera ? new MediaStream([camera]) : null;
}

/**
 * @param {DeviceKind} device
 * @param {Readonly<State>} state
 * @param {boolean} on
 */
function setToggle(device, state, on) {
  const button = buttons[device];
  const label = device === "microphone" ? "Join with microphone" : "Join with camera";
  const icon = device === "microphone" ? "mic" : "camera";
  button.setAttribute("aria-pressed", String(on));
  button.setAttribute("aria-label", label);
  button.title = `${label}: ${on ? "on" : "off"}`;
  button.disabled = state.busy.has(device);
  setIcon(button, on ? icon : `${icon}-off`);
}

/** @param {Readonly<State>} state */
function previewText({ busy, microphone, camera, wantsCamera, wantsMicrophone }) {
  if (busy.size > 0) return "The browser asks for permission…";
  if (camera !== null) return "";
  if (microphone !== null) return wantsCamera ? "No camera" : "Your camera is off";
  if (!wantsCamera && !wantsMicrophone) return "You will watch and listen";
  return "See how you look before you go in";
}
