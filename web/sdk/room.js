// @ts-check
// A room as one participant sees it: who is there, what they publish, what we publish. Holds the
// session with the server and comes back by itself when it is lost.

import { backoffMs } from "./backoff.js";
import { Negotiation } from "./negotiation.js";
import { Signaling } from "./signaling.js";
import { diagnose } from "./stats.js";

/**
 * @import { Kind, LocalTrack, LocalTrackInit, PublishOptions, Reason, ReceivedSection, RemotePeer,
 *   RemoteTrack, Retry, RoomOptions, RoomState, Source, Speakers, SubscriptionWish,
 *   WireActiveSpeakers, WireJoined, WireLayerChanged, WireLayersWanted, WirePeer,
 *   WireTrack } from "./types.js"
 * @import { Diagnosis } from "./stats.js"
 */

/**
 * Events (all `CustomEvent`s):
 * - `state`: `room.state`, `room.reason` or `room.retry` changed;
 * - `peers`: anything about `room.peers` or their tracks changed;
 * - `local`: `room.local` changed;
 * - `peer-joined`, `peer-left`: detail is the {@link RemotePeer};
 * - `connection`: `room.connection` changed;
 * - `layer-changed`: detail is the {@link RemoteTrack} whose `quality` changed;
 * - `active-speakers`: `room.speakers` changed;
 * - `layers-wanted`: detail is `{ source, encodings }`; encodings of ours that nobody wants stop being
 *   encoded, unless a listener calls `preventDefault`;
 * - `server-error`: detail is `{code, message, event}`; the session goes on.
 */
export class Room extends EventTarget {
  /** @type {RoomState} */
  state = "connecting";
  /**
   * Why the room was closed or is reconnecting.
   * @type {Reason | null}
   */
  reason = null;
  /**
   * The next attempt, while reconnecting and waiting for it.
   * @type {Retry | null}
   */
  retry = null;
  /**
   * How media flows.
   * @type {RTCPeerConnectionState}
   */
  connection = "new";
  /** @type {Map<string, RemotePeer>} by peer id, in the order in which they joined */
  peers = new Map();
  /** @type {Map<Source, LocalTrack>} */
  local = new Map();
  /**
   * Who speaks, as the server hears it.
   * @type {Speakers | null} Null until it says so; older servers never do.
   */
  speakers = null;

  #options;
  #url;
  /** @type {string} */
  #self;
  /** @type {Signaling | null} */
  #signaling = null;
  /** @type {Negotiation | null} */
  #negotiation = null;
  #attempt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #stableTimer;
  /** @type {RTCStatsReport | null} */
  #lastStats = null;
  /** @type {Map<string, SubscriptionWish>} by peer and track: what was last asked for */
  #wishes = new Map();
  /** @type {number | null | undefined} */
  #lastN;
  /** False once the server has said that it does not know `subscribe`. */
  #takesWishes = true;
  #onOnline = () => this.retryNow();

  /** @param {RoomOptions} options */
  constructor(options) {
    super();
    this.#options = options;
    this.#url = options.url ?? defaultUrl();
    this.#self = options.peer ?? randomId();
    for (const init of options.tracks ?? []) this.#setLocal(init);
    globalThis.addEventListener("online", this.#onOnline);
    this.#open();
  }

  /** This peer's own id. */
  get self() {
    return this.#self;
  }

  /** The room's id. */
  get id() {
    return this.#options.room;
  }

  /** What others are shown of this peer. */
  get name() {
    return this.#options.name;
  }

  /** The present connection, for statistics and tests; another one after a reconnect. */
  get pc() {
    return this.#negotiation?.pc ?? null;
  }

  /**
   * Publishes a track, in place of what was published from the same source before.
   * @param {MediaStreamTrack} track Stays the caller's: the room never stops it.
   * @param {{ source?: Source, muted?: boolean } & PublishOptions} [options]
   * @returns {Promise<void>}
   */
  async publish(track, options = {}) {
    await this.#apply(this.#setLocal({ track, ...options }));
  }

  /**
   * Takes a source's track back; others are told.
   * @param {Source} source
   */
  async unpublish(source) {
    const local = this.local.get(source);
    if (!local) return;
    local.track = null;
    await this.#apply(local);
  }

  /**
   * Silence at once, and the track is unpublished so that others are told; unmuting reverses both.
   * @param {Source} source
   * @param {boolean} muted
   */
  async setMuted(source, muted) {
    const local = this.local.get(source);
    if (!local) return;
    local.muted = muted;
    if (local.track) local.track.enabled = !muted;
    await this.#apply(local);
  }

  /**
   * Says what this peer wants of others' tracks: each wish replaces the former one for its track, and
   * holds until the peer leaves, across reconnects and mutes.
   * @param {readonly SubscriptionWish[]} wishes
   * @param {{ lastN?: number | null }} [options] `lastN`: receive the video of that many recent speakers
   *   at most; null for all.
   */
  subscribe(wishes, { lastN } = {}) {
    for (const wish of wishes) this.#wishes.set(wishKey(wish.peer, wish.track), { ...wish });
    if (lastN !== undefined) this.#lastN = lastN;
    this.#sendWishes(wishes, lastN);
  }

  /** While waiting to reconnect: do not wait. */
  retryNow() {
    if (this.state === "reconnecting" && this.retry !== null) this.#open();
  }

  /** Says good-bye. The room cannot be used afterwards; the local tracks still run. */
  leave() {
    if (this.state === "closed") return;
    this.#signaling?.send("leaveRoom", { self_id: this.#self, room_id: this.id });
    this.#close({ code: "left", message: "left the room" });
  }

  /**
   * How well media flows: rates since the last call.
   * @returns {Promise<Diagnosis | null>} Null without a connection.
   */
  async diagnose() {
    const pc = this.pc;
    if (pc === null || pc.connectionState === "closed") return null;
    const report = await pc.getStats();
    const diagnosis = diagnose(report, this.#lastStats);
    this.#lastStats = report;
    return diagnosis;
  }

  /**
   * How loud everybody is, 0 to 1 by peer id, this peer included; those who are silent are left
   * out.
   * @returns {Promise<Map<string, number>>}
   */
  async audioLevels() {
    /** @type {Map<string, number>} */
    const levels = new Map();
    const pc = this.pc;
    if (pc === null || pc.connectionState !== "connected") return levels;
    /** @type {Map<string, string>} */
    const publishers = new Map();
    for (const peer of this.peers.values()) {
      for (const { kind, media } of peer.tracks.values()) {
        if (kind === "audio" && media !== null) publishers.set(media.id, peer.id);
      }
    }
    for (const entry of (await pc.getStats()).values()) {
      if (entry.kind !== "audio" || !entry.audioLevel) continue;
      if (entry.type === "inbound-rtp") {
        const peer = publishers.get(entry.trackIdentifier);
        if (peer !== undefined) levels.set(peer, Math.max(entry.audioLevel, levels.get(peer) ?? 0));
      } else if (entry.type === "media-source" && this.local.get("microphone")?.muted === false) {
        levels.set(this.#self, entry.audioLevel);
      }
    }
    return levels;
  }

  // --- the session ---------------------------------------------------------------------------

  #open() {
    clearTimeout(this.#timer);
    this.#attempt += 1;
    this.retry = null;
    this.#emit("state");
    let signaling;
    try {
      signaling = new Signaling(this.#url, {
        onOpen: () => this.#join(),
        onEvent: (event, data) => this.#handleEvent(event, data),
        onClose: (opened) =>
          this.#reconnect(
            opened
              ? { code: "socket-closed", message: "the server closed the connection" }
              : { code: "unreachable", message: "the server cannot be reached" },
          ),
      });
    } catch (error) {
      this.#close({ code: "bad-url", message: String(error) });
      return;
    }
    this.#signaling = signaling;
    this.#timer = setTimeout(
      () => this.#reconnect({ code: "join-timeout", message: "the server does not answer" }),
      JOIN_TIMEOUT_MS,
    );
  }

  #join() {
    const { room, name, metadata, token } = this.#options;
    this.#signaling?.send("joinRoom", {
      self_id: this.#self,
      room_id: room,
      name,
      metadata,
      token,
      protocol: PROTOCOL,
      // With nothing to send there is nothing to offer: the server begins.
      offerer: this.#hasMedia() ? undefined : "server",
    });
  }

  /**
   * @param {string} event
   * @param {any} data
   */
  #handleEvent(event, data) {
    switch (event) {
      case "joined":
        return this.#onJoined(data);
      case "offer":
        return this.#negotiation?.handleOffer(data);
      case "answer":
        return this.#negotiation?.handleAnswer(data);
      case "candidate":
        return this.#negotiation?.handleCandidate(data);
      case "peer-joined":
        return this.#onPeerJoined(data.peer);
      case "peer-left":
        return this.#onPeerLeft(data.peer_id);
      case "track-published":
        this.#onTrackPublished(data.track);
        this.#repeatWish(data.track);
        return this.#emit("peers");
      case "track-unpublished":
        return this.#onTrackUnpublished(data.peer_id, data.track_id);
      case "layer-changed":
        return this.#onLayerChanged(data);
      case "active-speakers":
        return this.#onActiveSpeakers(data);
      case "layers-wanted":
        return this.#onLayersWanted(data);
      case "error":
        return this.#onError(data);
      default: // a newer server's: not for us
    }
  }

  /** @param {WireJoined} joined */
  #onJoined(joined) {
    if (this.state === "joined" || this.state === "closed") return;
    clearTimeout(this.#timer);
    this.#self = joined.peer_id;
    const before = this.peers;
    this.peers = new Map(joined.peers.map((peer) => [peer.id, remotePeer(peer)]));
    for (const track of joined.tracks) this.#onTrackPublished(track);
    this.#startMedia(joined.ice_servers ?? []);
    this.#repeatWishes();
    this.state = "joined";
    this.reason = null;
    this.#emit("state");
    for (const [id, peer] of before) if (!this.peers.has(id)) this.#emit("peer-left", peer);
    if (before.size > 0) {
      for (const [id, peer] of this.peers) if (!before.has(id)) this.#emit("peer-joined", peer);
    }
    this.#emit("peers");
  }

  /** @param {RTCIceServer[]} iceServers */
  #startMedia(iceServers) {
    this.#negotiation?.close();
    this.#lastStats = null;
    const negotiation = new Negotiation(iceServers, {
      send: (event, data) =>
        this.#signaling?.send(event, { self_id: this.#self, room_id: this.id, ...data }),
      onReceived: (received) => this.#onReceived(received),
      onConnection: (state) => {
        this.connection = state;
        clearTimeout(this.#stableTimer);
        if (state === "connected") {
          this.#stableTimer = setTimeout(() => (this.#attempt = 0), STABLE_AFTER_MS);
        }
        this.#emit("connection");
      },
      onBroken: (code) => this.#reconnect({ code, message: BROKEN[code] }),
    });
    this.#negotiation = negotiation;
    // All at once, so that the browser makes one offer of them.
    for (const local of this.local.values()) void negotiation.apply(local);
    // Without media nothing ever connects, and being joined is all there is to be stable.
    if (!this.#hasMedia()) {
      this.#stableTimer = setTimeout(() => (this.#attempt = 0), STABLE_AFTER_MS);
    }
  }

  /** @param {{ code: string, message: string, event?: string }} error */
  #onError(error) {
    const reason = { code: String(error.code), message: String(error.message ?? "") };
    if (reason.code === "unknown-event" && error.event === "subscribe") {
      this.#takesWishes = false; // an older server: it sends everything
      return;
    }
    if (REJOIN.has(reason.code)) return this.#reconnect(reason);
    if (FINAL.has(reason.code) || (this.state !== "joined" && error.event === "joinRoom")) {
      return this.#close(reason);
    }
    this.#emit("server-error", { ...reason, event: error.event });
  }

  /** @param {Reason} reason */
  #reconnect(reason) {
    if (this.state === "closed") return;
    this.#dropSession();
    this.state = "reconnecting";
    this.reason = reason;
    const wait = backoffMs(Math.max(1, this.#attempt));
    this.retry = { attempt: this.#attempt + 1, at: Date.now() + wait };
    this.#timer = setTimeout(() => this.#open(), wait);
    this.#emit("state");
    this.#emit("peers");
  }

  /** @param {Reason} reason */
  #close(reason) {
    this.#dropSession();
    globalThis.removeEventListener("online", this.#onOnline);
    this.state = "closed";
    this.reason = reason;
    this.retry = null;
    this.#emit("state");
    this.#emit("peers");
  }

  #dropSession() {
    clearTimeout(this.#timer);
    clearTimeout(this.#stableTimer);
    this.#signaling?.close();
    this.#signaling = null;
    this.#negotiation?.close();
    this.#negotiation = null;
    this.connection = "new";
    this.speakers = null;
    for (const peer of this.peers.values()) {
      for (const track of peer.tracks.values()) {
        track.media = null;
        track.quality = null;
      }
    }
  }

  // --- others --------------------------------------------------------------------------------

  /** @param {WirePeer} wire */
  #onPeerJoined(wire) {
    const peer = remotePeer(wire);
    this.peers.set(peer.id, peer);
    this.#emit("peer-joined", peer);
    this.#emit("peers");
  }

  /** @param {string} id */
  #onPeerLeft(id) {
    const peer = this.peers.get(id);
    if (!peer) return;
    this.peers.delete(id);
    for (const [key, wish] of this.#wishes) if (wish.peer === id) this.#wishes.delete(key);
    this.#emit("peer-left", peer);
    this.#emit("peers");
  }

  /** @param {WireTrack} wire */
  #onTrackPublished(wire) {
    const peer = this.peers.get(wire.peer_id);
    if (!peer) return;
    const track = peer.tracks.get(wire.track_id);
    if (track) track.published = true;
    else peer.tracks.set(wire.track_id, remoteTrack(wire.peer_id, wire.track_id, wire.kind, peer));
  }

  /**
   * @param {string} peer
   * @param {string} track
   */
  #onTrackUnpublished(peer, track) {
    this.peers.get(peer)?.tracks.delete(track);
    this.#emit("peers");
  }

  /** @param {Map<ReceivedSection, MediaStreamTrack>} received */
  #onReceived(received) {
    /** @type {Set<RemoteTrack>} */
    const live = new Set();
    for (const [section, media] of received) {
      const peer = this.peers.get(section.peer);
      if (!peer) continue; // its `peer-left` has overtaken the offer that takes it away
      let track = peer.tracks.get(section.track);
      if (!track) {
        // Described before it was announced: shown once it is.
        track = remoteTrack(peer.id, section.track, section.kind, peer);
        track.published = false;
        peer.tracks.set(track.id, track);
      }
      track.media = media;
      live.add(track);
    }
    for (const peer of this.peers.values()) {
      for (const track of peer.tracks.values()) {
        if (live.has(track)) continue;
        track.media = null;
        if (!track.published) peer.tracks.delete(track.id);
      }
    }
    this.#emit("peers");
  }

  // --- quality -------------------------------------------------------------------------------

  /** @param {WireLayerChanged} wire */
  #onLayerChanged(wire) {
    const track = this.peers.get(wire.peer_id)?.tracks.get(wire.track_id);
    if (!track) return; // its end has overtaken this
    track.quality = {
      layer: wire.layer,
      reason: wire.reason,
      availableBps: wire.available_bps ?? null,
      layerBps: wire.layer_bps ?? null,
      nextLayerBps: wire.next_layer_bps ?? null,
      width: wire.width ?? null,
      height: wire.height ?? null,
    };
    this.#emit("layer-changed", track);
  }

  /** @param {WireActiveSpeakers} wire */
  #onActiveSpeakers({ dominant, speakers }) {
    this.speakers = {
      dominant: dominant ?? null,
      active: speakers.map(({ peer_id, level }) => ({ peer: peer_id, level: 10 ** (-level / 20) })),
    };
    this.#emit("active-speakers", this.speakers);
  }

  /** @param {WireLayersWanted} wire */
  #onLayersWanted({ track_id, encodings }) {
    const local = [...this.local.values()].find(({ id }) => id === track_id);
    if (!local) return;
    const detail = { source: local.source, encodings };
    const event = new CustomEvent("layers-wanted", { detail, cancelable: true });
    if (this.dispatchEvent(event)) this.#negotiation?.setWanted(local.source, encodings);
  }

  /**
   * @param {readonly SubscriptionWish[]} wishes
   * @param {number | null} [lastN]
   */
  #sendWishes(wishes, lastN) {
    if (!this.#takesWishes || (wishes.length === 0 && lastN === undefined)) return;
    for (let from = 0; from === 0 || from < wishes.length; from += WISHES_PER_FRAME) {
      const subscriptions = wishes.slice(from, from + WISHES_PER_FRAME).map(wireWish);
      const last_n = from === 0 ? lastN : undefined;
      this.#signaling?.send("subscribe", { subscriptions, last_n });
    }
  }

  /** The server of a new session knows nothing of what the former one was told. */
  #repeatWishes() {
    this.#takesWishes = true;
    for (const [key, { peer }] of this.#wishes) if (!this.peers.has(peer)) this.#wishes.delete(key);
    this.#sendWishes([...this.#wishes.values()], this.#lastN);
  }

  /**
   * A track that comes back is a new one for the server.
   * @param {WireTrack} wire
   */
  #repeatWish({ peer_id, track_id }) {
    const wish = this.#wishes.get(wishKey(peer_id, track_id));
    if (wish) this.#sendWishes([wish]);
  }

  // --- our own -------------------------------------------------------------------------------

  /** @param {LocalTrackInit} init */
  #setLocal({ track, source = track.kind === "audio" ? "microphone" : "camera", muted = false, ...options }) {
    if (!/^[a-z]{1,32}$/.test(source)) throw new TypeError(`not a source's name: ${source}`);
    const former = this.local.get(source);
    const id = former?.id ?? `${source}-${randomId()}`;
    /** @type {LocalTrack} */
    const local = { source, kind: /** @type {Kind} */ (track.kind), id, track, muted, options: { ...former?.options, ...options } };
    if (muted) track.enabled = false;
    this.local.set(source, local);
    return local;
  }

  /** @param {LocalTrack} local */
  async #apply(local) {
    this.#emit("local");
    await this.#negotiation?.apply(local);
  }

  #hasMedia() {
    return [...this.local.values()].some(({ track, muted }) => track !== null && !muted);
  }

  /**
   * @param {string} type
   * @param {unknown} [detail]
   */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** The version of DESIGN.md §5 that this client speaks. */
const PROTOCOL = 1;
const JOIN_TIMEOUT_MS = 10_000;
/** A connection that lasted this long was a good one: the next loss begins with a short wait. */
const STABLE_AFTER_MS = 5_000;

/** A frame has its bounds at the server. */
const WISHES_PER_FRAME = 64;

/** The server wants this participant gone: coming back would start a fight. */
const FINAL = new Set(["replaced", "removed"]);
/** The session is over, and a new one may do better. */
const REJOIN = new Set([
  "shutting-down",
  "slow-consumer",
  "rate-limited",
  "too-many-errors",
  "too-large",
  "timeout",
  "not-joined",
  "dtls-closed",
  "dtls-failed",
  "fingerprint-mismatch",
]);

const BROKEN = {
  "negotiation-timeout": "the server does not answer",
  "media-timeout": "no media connection came about: UDP to the server may be blocked",
  "media-failed": "the media connection was lost",
};

/**
 * @param {WirePeer} wire
 * @returns {RemotePeer}
 */
function remotePeer({ id, name, metadata }) {
  return { id, name: name ?? undefined, metadata, tracks: new Map() };
}

/**
 * @param {string} peer
 * @param {string} id
 * @param {Kind} kind
 * @param {RemotePeer} publisher
 * @returns {RemoteTrack}
 */
function remoteTrack(peer, id, kind, publisher) {
  return { id, peer, kind, source: sourceOf(id, kind, publisher), published: true, media: null, quality: null };
}

/**
 * Our own tracks carry their source in their id. Of anybody else's, the first video is the camera
 * and any further one a screen.
 * @param {string} id
 * @param {Kind} kind
 * @param {RemotePeer} publisher
 * @returns {Source}
 */
function sourceOf(id, kind, publisher) {
  const named = /^(microphone|camera|screen)-/.exec(id)?.[1];
  if (named) return named;
  if (kind === "audio") return "microphone";
  const hasVideo = [...publisher.tracks.values()].some((track) => track.kind === "video");
  return hasVideo ? "screen" : "camera";
}

/**
 * @param {string} peer
 * @param {string} track
 */
function wishKey(peer, track) {
  return JSON.stringify([peer, track]);
}

/** @param {number | undefined} number */
function whole(number) {
  return number === undefined ? undefined : Math.ceil(number);
}

/** @param {SubscriptionWish} wish */
function wireWish({ peer, track, width, height, maxFramerate, priority, paused }) {
  return {
    peer_id: peer,
    track_id: track,
    width: whole(width),
    height: whole(height),
    max_framerate: whole(maxFramerate),
    priority: whole(priority),
    paused,
  };
}

function defaultUrl() {
  const url = new URL("/ws", globalThis.location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

/** 96 random bits. `crypto.randomUUID` would need a secure context, this does not. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
