// @ts-check
// Everything that can go wrong, in words that say what to do about it.

/** @import { CaptureProblem } from "./media.js" */
/** @import { Reason } from "./sdk/types.js" */

/** @typedef {{ title: string, hint: string }} Message */

/**
 * @param {readonly CaptureProblem[]} problems
 * @returns {Message[]} One message where camera and microphone failed alike.
 */
export function captureMessages(problems) {
  /** @type {Map<string, CaptureProblem["device"][]>} */
  const byName = new Map();
  for (const { device, name } of problems) {
    byName.set(name, [...(byName.get(name) ?? []), device]);
  }
  return [...byName].map(([name, devices]) => captureMessage(name, devices));
}

/**
 * @param {string} name
 * @param {CaptureProblem["device"][]} devices
 * @returns {Message}
 */
function captureMessage(name, devices) {
  const what = devices.join(" and ");
  const What = what.charAt(0).toUpperCase() + what.slice(1);
  switch (name) {
    case "NotAllowedError":
    case "SecurityError":
      return {
        title: `${What} not allowed`,
        hint: `Allow the ${what} for this site in the browser's address bar, then try again. Others can still be seen and heard.`,
      };
    case "NotFoundError":
      return {
        title: `No ${what.replace(" and ", " and no ")} found`,
        hint: "Plug one in and try again. Others can still be seen and heard.",
      };
    case "NotReadableError":
    case "AbortError":
      return {
        title: `${What} in use`,
        hint: "Another program or tab holds it, or the system refuses it. Close the other one and try again.",
      };
    case "OverconstrainedError":
      return { title: `${What} cannot do that`, hint: "Choose another device and try again." };
    case "InsecureContext":
      return {
        title: `No ${what} over plain http`,
        hint: "Browsers give devices only to https:// pages and to localhost. You can watch and listen meanwhile.",
      };
    default:
      return { title: `${What} failed`, hint: `The browser says: ${name}.` };
  }
}

/**
 * Why a room is closed or being reconnected.
 * @param {Reason} reason
 * @returns {Message}
 */
export function roomMessage(reason) {
  switch (reason.code) {
    case "unreachable":
      return { title: "The server cannot be reached", hint: "Check your connection." };
    case "socket-closed":
    case "join-timeout":
    case "negotiation-timeout":
      return { title: "The server is gone", hint: "You will join again as soon as it answers." };
    case "shutting-down":
      return { title: "The server is restarting", hint: "You will be back in a moment." };
    case "media-timeout":
    case "media-failed":
      return {
        title: "Sound and picture do not get through",
        hint: "A firewall may block UDP to the server.",
      };
    case "replaced":
      return {
        title: "You joined from somewhere else",
        hint: "The same participant is now connected in another window or on another device; this one has stopped.",
      };
    case "room-full":
      return { title: "This room is full", hint: "Try again when somebody has left, or use another room." };
    case "too-many-rooms":
      return { title: "The server is full", hint: "It cannot open another room now. Try again later." };
    case "bad-id":
      return { title: "That room or id is not allowed", hint: reason.message };
    case "removed":
      return { title: "You were removed from this room", hint: reason.message };
    case "slow-consumer":
    case "timeout":
      return { title: "The connection was too slow", hint: "Joining again." };
    case "dtls-failed":
    case "dtls-closed":
    case "fingerprint-mismatch":
      return { title: "The media connection could not be secured", hint: reason.message };
    case "bad-url":
      return { title: "That is not a server's address", hint: reason.message };
    default:
      return { title: "The server refused", hint: reason.message || reason.code };
  }
}
