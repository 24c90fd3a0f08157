// @ts-check
// Plays the others' microphones, each through an element of its own.

import { state, update } from "./store.js";

/** @import { State } from "./store.js" */

/** @type {Map<MediaStreamTrack, HTMLAudioElement>} */
const players = new Map();

/**
 * Plays exactly the audio that the room receives.
 * @param {Readonly<State>} now
 */
export function renderSound({ room }) {
  /** @type {Set<MediaStreamTrack>} */
  const wanted = new Set();
  for (const peer of room?.peers.values() ?? []) {
    for (const { kind, media, published } of peer.tracks.values()) {
      if (kind === "audio" && media !== null && published) wanted.add(media);
    }
  }
  for (const [track, player] of players) {
    if (wanted.has(track)) continue;
    player.srcObject = null;
    players.delete(track);
  }
  for (const track of wanted) {
    if (players.has(track)) continue;
    const player = new Audio();
    player.srcObject = new MediaStream([track]);
    players.set(track, player);
    void play(player);
  }
}

/** To be called from a click: browsers let a page make noise only then. */
export async function unblockSound() {
  update({ soundBlocked: false });
  await Promise.all([...players.values()].map(play));
}

/** @param {HTMLAudioElement} player */
async function play(player) {
  try {
    await player.play();
  } catch (error) {
    const blocked = error instanceof DOMException && error.name === "NotAllowedError";
    if (blocked && !state.soundBlocked) update({ soundBlocked: true });
  }
}
