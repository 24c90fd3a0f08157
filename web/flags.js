// @ts-check
// What the address asks for: `?room=` is the invite; the others serve tests and experiments.

/**
 * @typedef {object} Flags
 * @property {string | null} room
 * @property {string | null} name
 * @property {string | null} peer The id to join under.
 * @property {boolean} join Join without waiting for the button.
 * @property {string | null} codec Of the pictures that are sent.
 * @property {string | null} layers Inside each stream, as `L3T3_KEY`.
 * @property {boolean} simulcast
 * @property {number} width Of the camera, in pixels.
 * @property {number} height
 * @property {number} fps
 */

/**
 * @param {string} search
 * @returns {Flags}
 */
export function parseFlags(search) {
  const params = new URLSearchParams(search);
  return {
    room: params.get("room"),
    name: params.get("name"),
    peer: params.get("peer"),
    join: params.get("join") === "1",
    codec: params.get("codec"),
    layers: params.get("layers"),
    simulcast: params.get("simulcast") !== "0",
    width: number(params.get("width"), 1280),
    height: number(params.get("height"), 720),
    fps: number(params.get("fps"), 30),
  };
}

/**
 * The link that brings somebody into a room.
 * @param {string} room
 */
export function inviteLink(room) {
  const url = new URL(globalThis.location.pathname, globalThis.location.href);
  url.searchParams.set("room", room);
  return url.href;
}

/**
 * @param {string | null} text
 * @param {number} otherwise
 */
function number(text, otherwise) {
  const value = Number(text);
  return text !== null && Number.isFinite(value) && value > 0 ? value : otherwise;
}
