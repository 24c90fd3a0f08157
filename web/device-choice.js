// @ts-check
// Which microphone and which camera: the same two lists before the call and during it.

import { make } from "./dom.js";

/** @import { DeviceKind } from "./media.js" */
/** @import { State } from "./store.js" */

/** @type {readonly [DeviceKind, MediaDeviceKind][]} */
const KINDS = [["microphone", "audioinput"], ["camera", "videoinput"]];

/**
 * A choice is offered only where there is one.
 * @param {Readonly<Record<DeviceKind, HTMLSelectElement>>} selects Each in its label.
 * @param {Readonly<State>} state
 * @returns {boolean} Whether anything is offered.
 */
export function renderChoices(selects, state) {
  let isAny = false;
  for (const [device, kind] of KINDS) {
    const select = selects[device];
    const devices = state.devices.filter((info) => info.kind === kind && info.deviceId !== "");
    const track = state[device];
    const isOffered = devices.length > 1 && track !== null;
    isAny ||= isOffered;
    const field = select.parentElement;
    if (field) field.hidden = !isOffered;
    const signature = devices.map(({ deviceId, label }) => `${deviceId} ${label}`).join();
    if (select.dataset.devices !== signature) {
      select.dataset.devices = signature;
      select.replaceChildren(...devices.map(({ deviceId, label }) => make("option", { value: deviceId }, label || "Device")));
    }
    const current = track?.getSettings().deviceId;
    if (current !== undefined && select.value !== current) select.value = current;
  }
  return isAny;
}
