// @ts-check
// The SDK's front door.
//
//     import { connect } from "/sdk/shardcast.js";
//     const room = connect({ room: "stand-up", name: "Ada", tracks: [{ track }] });
//     room.addEventListener("peers", () => render(room.peers));

import { Room } from "./room.js";

/** @import { RoomOptions } from "./types.js" */

/**
 * Joins a room, and keeps joining until it works or is refused: listen to the room's `state`.
 * @param {RoomOptions} options
 * @returns {Room}
 */
export function connect(options) {
  return new Room(options);
}

export { Room };
