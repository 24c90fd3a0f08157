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
 * In which qualities a video is sent. A browser fixes them when the source is first published, until
 * the next reconnect: `maxBitrate` alone may change later.
 * @typedef {object} PublishOptions
 * @property {boolean} [simulcast] Several sizes at once, so that each viewer gets what it can
 *   receive and show; true when left out.
 * @property {string} [scalabilityMode] Layers inside each stream (`L1T3` when left out). With spatial
 *   ones (as `L3T3_KEY`; needs `codec` `vp9` or `av1`) one stream takes the place of simulcast.
 * @property {"vp8" | "vp9" | "h264" | "av1"} [codec] To be preferred, where the browser has it.
 * @property {number} [maxBitrate] Of the best quality, in bits/s; by size and frame rate when left out.
 */

/**
 * @typedef {object} LocalTrackInitOnly
 * @property {MediaStreamTrack} track
 * @property {Source} [source] By the track's kind when left out.
 * @property {boolean} [muted] Publish it later, at `setMuted(source, false)`.
 */

/** @typedef {LocalTrackInitOnly & PublishOptions} LocalTrackInit */

/**
 * What this peer publishes from one source. Survives reconnects.
 * @typedef {object} LocalTrack
 * @property {Source} source
 * @property {Kind} kind
 * @property {string} id The track's id on the wire, the same for as long as the room lasts.
 * @property {MediaStreamTrack | null} track Null while nothing is captured.
 * @property {boolean} muted
 * @property {PublishOptions} options
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
 * @property {Quality | null} quality What of it comes, and why; null until the server says so.
 */

/**
 * Which part of a track somebody is sent: a whole, with everything below it.
 * @typedef {object} Layer
 * @property {number} encoding Counted from the lowest, 0.
 * @property {string} [rid] What its publisher calls the encoding.
 * @property {number} spatial Inside the encoding.
 * @property {number} temporal
 */

/**
 * What decides a layer. Others may come with a newer server.
 * @typedef {"best" | "wanted" | "bandwidth" | "cpu" | "no-keyframe-yet" | "publisher-muted" |
 *   "last-n" | "paused" | "not-sent" | (string & {})} LayerReason
 */

/**
 * What this peer is sent of a track, and the numbers behind it, all in bits/s.
 * @typedef {object} Quality
 * @property {Layer | null} layer Null while nothing is sent.
 * @property {LayerReason} reason Why not more.
 * @property {number | null} availableBps What the server believes the network carries for this track.
 * @property {number | null} layerBps What the layer takes.
 * @property {number | null} nextLayerBps What the next better one would take; null if there is none.
 * @property {number | null} width Of the layer's picture, where known.
 * @property {number | null} height
 */

/**
 * What this peer wants of somebody's track. What is left out is not limited.
 * @typedef {object} SubscriptionWish
 * @property {string} peer Who publishes it.
 * @property {string} track Its id.
 * @property {number} [width] Of where it is shown, in device pixels.
 * @property {number} [height]
 * @property {number} [maxFramerate]
 * @property {number} [priority] 0 to 100, 50 when left out: who is served first when bandwidth is short.
 * @property {boolean} [paused] Nothing of it for now.
 */

/**
 * Who speaks, the loudest first.
 * @typedef {object} Speakers
 * @property {string | null} dominant The peer that leads the conversation.
 * @property {{ peer: string, level: number }[]} active `level`: 0 to 1.
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
 *   `join-timeout`, `bad-url`, or one of {@link Broken}.
 * @property {string} message
 */

/**
 * Why a connection is given up, and a new one begun: the server did not answer an offer within 10 s; no media connection came about
 * within 15 s of the first description (UDP may be blocked); it was lost, and a restart of ICE did not bring it back within 10 s.
 * @typedef {"negotiation-timeout" | "media-timeout" | "media-failed"} Broken
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
 * @typedef {object} WireLayerChanged
 * @property {string} peer_id
 * @property {string} track_id
 * @property {Layer | null} layer
 * @property {LayerReason} reason
 * @property {number} [available_bps]
 * @property {number} [layer_bps]
 * @property {number} [next_layer_bps]
 * @property {number} [width]
 * @property {number} [height]
 */

/**
 * @typedef {object} WireActiveSpeakers
 * @property {string | null} dominant
 * @property {{ peer_id: string, level: number }[]} speakers `level` in -dBov, 0 (loudest) to 127.
 */

/**
 * @typedef {object} WireLayersWanted
 * @property {string} track_id
 * @property {import("./encodings.js").WantedEncoding[]} encodings
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
