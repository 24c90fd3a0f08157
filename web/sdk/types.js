// @ts-check
// The SDK's vocabulary, as types only: nothing here runs.

/**
 * Where a published track comes from. Other words are allowed (lower-case letters); viewers that
 * do not know one treat the track by its kind.
 * @typedef {"microphone" | "camera" | "screen" | (string & {})} Source
 */

/** @typedef {"audio" | "video"} Kind */

/**
 * `connecting` until the first `joined`; `reconnecting` while the SDK tries to come back by
 * itself; `closed` is final.
 * @typedef {"connecting" | "joined" | "reconnecting" | "closed"} RoomState
 */

/**
 * @typedef {object} RoomOptions
 * @property {string} room The room's id: 1 to 128 printable characters.
 * @property {string} [url] `ws:` or `wss:` address of the server; this page's origin by default.
 * @property {string} [peer] This peer's id, unique in the room; random by default.
 * @property {string} [name] What others are shown, at most 128 characters.
 * @property {unknown} [metadata] Any JSON, at most 4 KiB, handed to the others.
 * @property {string} [token] For servers that ask for one.
 * @property {LocalTrackInit[]} [tracks] What to publish in the first offer.
 */

/**
 * @typedef {object} LocalTrackInit
 * @property {MediaStreamTrack} track
 * @property {Source} [source] By the track's kind when left out.
 * @property {boolean} [muted] Publish it later, at `setMuted(source, false)`.
 */

/**
 * What this peer publishes from one source. Survives reconnects.
 * @typedef {object} LocalTrack
 * @property {Source} source
 * @property {Kind} kind
 * @property {string} id The track's id on the wire, the same for as long as the room lasts.
 * @property {MediaStreamTrack | null} track Null while nothing is captured.
 * @property {boolean} muted
 */

/**
 * A track somebody else publishes.
 * @typedef {object} RemoteTrack
 * @property {string} id
 * @property {string} peer Who publishes it.
 * @property {Kind} kind
 * @property {Source} source
 * @property {boolean} published The server has announced it.
 * @property {MediaStreamTrack | null} media Null until it is negotiated.
 */

/**
 * @typedef {object} RemotePeer
 * @property {string} id
 * @property {string | undefined} name
 * @property {unknown} metadata
 * @property {Map<string, RemoteTrack>} tracks By track id, oldest first.
 */

/**
 * Why a room is in its state.
 * @typedef {object} Reason
 * @property {string} code An error code of the server, or `left`, `socket-closed`, `unreachable`,
 *   `join-timeout`, `negotiation-timeout`, `media-failed`, `bad-url`.
 * @property {string} message
 */

/**
 * @typedef {object} Retry
 * @property {number} attempt Counted from 1.
 * @property {number} at When, in milliseconds since the epoch.
 */

/**
 * A part of the server's description in which it sends a track.
 * @typedef {object} ReceivedSection
 * @property {string} mid
 * @property {Kind} kind
 * @property {string} peer The publishing peer.
 * @property {string} track The track id.
 */

/**
 * @typedef {object} WirePeer
 * @property {string} id
 * @property {string} [name]
 * @property {unknown} [metadata]
 */

/**
 * @typedef {object} WireTrack
 * @property {string} peer_id
 * @property {string} track_id
 * @property {Kind} kind
 */

/**
 * @typedef {object} WireJoined
 * @property {string} peer_id
 * @property {string} room_id
 * @property {WirePeer[]} peers
 * @property {WireTrack[]} tracks
 * @property {RTCIceServer[]} [ice_servers]
 * @property {unknown} [protocol]
 */

export {};
