// @ts-check
// Which tiles a call has: a function of the state and nothing else.

/** @import { State } from "./store.js" */
/** @import { Quality, RemotePeer, RemoteTrack, Source } from "./sdk/types.js" */

/**
 * @typedef {object} Tile
 * @property {string} key
 * @property {string} peer
 * @property {string} name
 * @property {boolean} self
 * @property {"camera" | "screen"} source
 * @property {MediaStreamTrack | null} video
 * @property {string | null} track The id of what it shows; null for one's own.
 * @property {Quality | null} quality What comes of it, and why.
 * @property {boolean} pinned It was put on the stage.
 * @property {boolean} waiting A picture is to come and is not here yet.
 * @property {boolean} silent Nobody hears this peer.
 * @property {boolean} speaking
 */

/**
 * @param {Readonly<State>} state
 * @returns {{ screens: Tile[], people: Tile[] }} This peer last, others in the order they came.
 */
export function tilesOf(state) {
  /** @type {Tile[]} */
  const screens = [];
  /** @type {Tile[]} */
  const people = [];
  const room = state.room;
  if (room === null) return { screens, people };
  for (const peer of room.peers.values()) {
    people.push(personTile(peer, state.speaking.has(peer.id)));
    for (const track of published(peer, "screen")) screens.push(screenTile(peer, track));
  }
  const at = people.findIndex(({ key }) => key === state.pinned);
  for (const tile of at === -1 ? [] : people.splice(at, 1)) screens.push({ ...tile, pinned: true });
  people.push({
    key: "self/camera",
    peer: room.self,
    name: state.name || "You",
    self: true,
    source: "camera",
    video: state.camera,
    track: null,
    quality: null,
    pinned: false,
    waiting: false,
    silent: state.microphone === null || state.muted,
    speaking: state.speaking.has(room.self),
  });
  if (state.screen) {
    screens.push({
      key: "self/screen",
      peer: room.self,
      name: "Your screen",
      self: true,
      source: "screen",
      video: state.screen,
      track: null,
      quality: null,
      pinned: false,
      waiting: false,
      silent: false,
      speaking: false,
    });
  }
  return { screens, people };
}

/**
 * What a peer is called on the page.
 * @param {{ id: string, name: string | undefined }} peer
 */
export function displayName({ id, name }) {
  return name || (/^[0-9a-f]{24}$/.test(id) ? "Guest" : id);
}

/**
 * The published tracks of a peer that come from this source.
 * @param {RemotePeer} peer
 * @param {Source} source
 * @returns {RemoteTrack[]}
 */
export function published(peer, source) {
  return [...peer.tracks.values()].filter((track) => track.published && track.source === source);
}

/**
 * @param {RemotePeer} peer
 * @param {boolean} speaking
 * @returns {Tile}
 */
function personTile(peer, speaking) {
  const [camera] = published(peer, "camera");
  return {
    key: `${peer.id}/camera`,
    peer: peer.id,
    name: displayName(peer),
    self: false,
    source: "camera",
    video: camera?.media ?? null,
    track: camera?.id ?? null,
    quality: camera?.quality ?? null,
    pinned: false,
    waiting: camera !== undefined,
    silent: published(peer, "microphone").length === 0,
    speaking,
  };
}

/**
 * @param {RemotePeer} peer
 * @param {RemoteTrack} track
 * @returns {Tile}
 */
function screenTile(peer, track) {
  return {
    key: `${peer.id}/${track.id}`,
    peer: peer.id,
    name: `${displayName(peer)}’s screen`,
    self: false,
    source: "screen",
    video: track.media,
    track: track.id,
    quality: track.quality,
    pinned: false,
    waiting: true,
    silent: false,
    speaking: false,
  };
}
