// @ts-check
// One RTCPeerConnection and its descriptions: the polite side of "perfect negotiation"
// (https://www.w3.org/TR/webrtc/#perfect-negotiation-example). Knows mids and transceivers; who
// the peers are is the room's business.

import { adjusted, encodingsOf, preferring } from "./encodings.js";
import { hasMedia, receivedSections, renameTracks } from "./sdp.js";
import { ConnectionWatch } from "./watch.js";

/** @import { Broken, LocalTrack, ReceivedSection } from "./types.js" */
/** @import { Encoding, WantedEncoding } from "./encodings.js" */

/**
 * @typedef {object} NegotiationHandlers
 * @property {(event: "offer" | "answer" | "ice-candidate", data: object) => void} send
 * @property {(received: Map<ReceivedSection, MediaStreamTrack>) => void} onReceived What the
 *   server sends from now on: replaces all it sent before.
 * @property {(state: RTCPeerConnectionState) => void} onConnection
 * @property {(reason: Broken) => void} onBroken This connection will not recover: start over with a
 *   new one.
 */

export class Negotiation {
  /** @type {RTCPeerConnection} */
  pc;
  #handlers;
  #closed = false;
  /**
   * Descriptions are applied one after the other; everything that touches them waits in line.
   * @type {Promise<void>}
   */
  #queue = Promise.resolve();
  /** @type {Map<string, RTCRtpTransceiver>} by source */
  #senders = new Map();
  /** @type {Map<string, string>} track id by source */
  #trackIds = new Map();
  /** @type {Map<string, MediaStream>} */
  #streams = new Map();
  /** @type {Map<string, WantedEncoding[]>} by source: what the server said somebody wants */
  #wanted = new Map();
  /** @type {Map<string, Encoding[]>} by source: what the present picture is worth */
  #planned = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #answerTimer;
  #watch;

  /**
   * @param {RTCIceServer[]} iceServers
   * @param {NegotiationHandlers} handlers
   */
  constructor(iceServers, handlers) {
    this.#handlers = handlers;
    this.pc = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" });
    this.#watch = new ConnectionWatch({
      restart: () => this.pc.restartIce(),
      onBroken: handlers.onBroken,
    });
    this.pc.addEventListener("negotiationneeded", () => this.#enqueue(() => this.#offer()));
    this.pc.addEventListener("icecandidate", ({ candidate }) => {
      // The empty candidate that ends the gathering means nothing to a lite agent.
      if (candidate && candidate.candidate !== "") {
        handlers.send("ice-candidate", { candidate: candidate.toJSON() });
      }
    });
    this.pc.addEventListener("connectionstatechange", () => {
      this.#watch.onState(this.pc.connectionState);
      handlers.onConnection(this.pc.connectionState);
    });
  }

  /**
   * Makes what is sent follow the local track: sends it, or stops to, re-using the section it had.
   * @param {LocalTrack} local
   */
  async apply(local) {
    if (this.#closed) return;
    const sends = local.track !== null && !local.muted;
    const transceiver = this.#senders.get(local.source);
    this.#trackIds.set(local.source, local.id);
    if (transceiver === undefined || transceiver.currentDirection === "stopped") {
      if (!sends || local.track === null) return;
      this.#senders.set(local.source, this.#add(local, local.track));
      return;
    }
    // What starts to be sent is a new track for the server, of which everything is wanted.
    if (!sends) this.#wanted.delete(local.source);
    transceiver.direction = direction(sends, receives(transceiver));
    if (transceiver.sender.track !== local.track) {
      await transceiver.sender.replaceTrack(local.track);
    }
    if (local.kind === "video" && local.track !== null) {
      this.#planned.set(local.source, encodingsOf(local.source, pictureOf(local.track), local.options));
      this.#adjust(local.source);
    }
  }

  /**
   * Which encodings of a source somebody wants; the others are not encoded until they are.
   * @param {string} source
   * @param {WantedEncoding[]} wanted
   */
  setWanted(source, wanted) {
    this.#wanted.set(source, wanted);
    this.#adjust(source);
  }

  /**
   * Before the first offer: a browser takes encodings only now.
   * @param {LocalTrack} local
   * @param {MediaStreamTrack} track
   */
  #add(local, track) {
    /** @type {RTCRtpTransceiverInit} */
    const init = { direction: SENDONLY, streams: [this.#stream(local.source)] };
    if (local.kind !== "video") return this.pc.addTransceiver(track, init);
    const encodings = encodingsOf(local.source, pictureOf(track), local.options);
    this.#planned.set(local.source, encodings);
    const transceiver = this.#addWith(track, init, encodings);
    chooseExtensions(transceiver);
    const { codec } = local.options;
    const known = RTCRtpReceiver.getCapabilities("video");
    if (codec !== undefined && known !== null) {
      transceiver.setCodecPreferences?.(preferring(known.codecs, codec));
    }
    return transceiver;
  }

  /**
   * @param {MediaStreamTrack} track
   * @param {RTCRtpTransceiverInit} init
   * @param {Encoding[]} encodings
   */
  #addWith(track, init, encodings) {
    try {
      return this.pc.addTransceiver(track, { ...init, sendEncodings: encodings });
    } catch {
      // Not every browser has every mode of layering; all have simulcast.
      const plain = encodings.map(({ scalabilityMode: _, ...encoding }) => encoding);
      return this.pc.addTransceiver(track, { ...init, sendEncodings: plain });
    }
  }

  /**
   * Brings what is encoded into line with the picture and with what is wanted of it. In line with the
   * descriptions: each of them makes the parameters that were read before it void.
   * @param {string} source
   */
  #adjust(source) {
    this.#enqueue(async () => {
      const sender = this.#senders.get(source)?.sender;
      const planned = this.#planned.get(source);
      const parameters = sender?.getParameters();
      if (sender === undefined || planned === undefined || !parameters?.encodings?.length) return;
      const encodings = adjusted(parameters.encodings, planned, this.#wanted.get(source) ?? []);
      if (JSON.stringify(encodings) === JSON.stringify(parameters.encodings)) return;
      await sender.setParameters({ ...parameters, encodings });
    });
  }

  /** @param {RTCSessionDescriptionInit} offer */
  handleOffer(offer) {
    this.#enqueue(async () => {
      // Polite: an offer of ours that is under way is rolled back by this very call, and the
      // browser asks for a new one once the connection is stable.
      const restore = this.#rememberActive();
      await this.pc.setRemoteDescription(offer);
      clearTimeout(this.#answerTimer);
      this.#onRemoteDescription(offer.sdp ?? "");
      await restore();
      await this.pc.setLocalDescription();
      this.#sendDescription("answer");
    });
  }

  /**
   * An offer says what the server is ready to receive, which is everything: Chromium takes that for a
   * wish and switches every encoding on.
   * @returns {() => Promise<void>} Switches off again what is off now.
   */
  #rememberActive() {
    /** @type {[RTCRtpSender, Set<string | undefined>][]} */
    const resting = this.pc.getSenders().map((sender) => {
      const { encodings = [] } = sender.getParameters();
      return [sender, new Set(encodings.filter(({ active }) => active === false).map(({ rid }) => rid))];
    });
    return async () => {
      for (const [sender, rids] of resting) {
        const parameters = sender.getParameters();
        const woken = (parameters.encodings ?? []).filter(({ rid, active }) => active && rids.has(rid));
        if (woken.length === 0) continue;
        for (const encoding of woken) encoding.active = false;
        await sender.setParameters(parameters);
      }
    };
  }

  /** @param {RTCSessionDescriptionInit} answer */
  handleAnswer(answer) {
    this.#enqueue(async () => {
      // The answer to an offer that has been rolled back meanwhile.
      if (this.pc.signalingState !== "have-local-offer") return;
      await this.pc.setRemoteDescription(answer);
      clearTimeout(this.#answerTimer);
      this.#onRemoteDescription(answer.sdp ?? "");
    });
  }

  /** @param {RTCIceCandidateInit} candidate */
  handleCandidate(candidate) {
    this.#enqueue(() => this.pc.addIceCandidate(candidate));
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#answerTimer);
    this.#watch.stop();
    this.pc.close();
  }

  /** @param {() => Promise<void>} step */
  #enqueue(step) {
    this.#queue = this.#queue.then(async () => {
      if (this.#closed) return;
      try {
        await step();
      } catch (error) {
        if (!this.#closed) console.warn("shardcast: negotiation", error);
      }
    });
  }

  async #offer() {
    // Not stable: the browser fires `negotiationneeded` again when it is.
    if (this.pc.signalingState !== "stable") return;
    await this.pc.setLocalDescription();
    this.#sendDescription("offer");
    clearTimeout(this.#answerTimer);
    this.#answerTimer = setTimeout(
      () => this.#handlers.onBroken("negotiation-timeout"),
      ANSWER_TIMEOUT_MS,
    );
  }

  /** @param {"offer" | "answer"} event */
  #sendDescription(event) {
    const description = this.pc.localDescription;
    if (this.#closed || description === null) return;
    /** @type {Map<string, string>} */
    const names = new Map();
    for (const [source, transceiver] of this.#senders) {
      const id = this.#trackIds.get(source);
      if (transceiver.mid !== null && id !== undefined) names.set(transceiver.mid, id);
    }
    const sdp = renameTracks(description.sdp, names);
    this.#handlers.send(event, { [event]: { type: description.type, sdp } });
  }

  /**
   * Reads off who is in which section. The server recycles sections, so the same receiver may
   * carry somebody else's track from one description to the next: neither `track` events nor
   * `event.track.id` can be relied on, the description can.
   * @param {string} sdp
   */
  #onRemoteDescription(sdp) {
    if (hasMedia(sdp)) this.#watch.expect();
    /** @type {Map<ReceivedSection, MediaStreamTrack>} */
    const received = new Map();
    const transceivers = this.pc.getTransceivers();
    for (const section of receivedSections(sdp)) {
      const transceiver = transceivers.find(({ mid }) => mid === section.mid);
      if (transceiver === undefined || transceiver.currentDirection === "stopped") continue;
      // A section on which we only sent so far, now used the other way too: take it.
      if (!receives(transceiver)) {
        transceiver.direction = direction(sends(transceiver), true);
      }
      received.set(section, transceiver.receiver.track);
    }
    this.#handlers.onReceived(received);
    for (const [source, planned] of this.#planned) {
      const { encodings = [] } = this.#senders.get(source)?.sender.getParameters() ?? {};
      // The server has not taken all of them. Else an application's own settings stay.
      if (encodings.length < planned.length) this.#adjust(source);
    }
  }

  /**
   * Microphone and camera belong together (lip sync), a screen stands alone.
   * @param {string} source
   */
  #stream(source) {
    const key = source === "screen" ? "screen" : "user";
    const stream = this.#streams.get(key) ?? new MediaStream();
    this.#streams.set(key, stream);
    return stream;
  }
}

/**
 * Where the server was the first to offer, Chromium leaves the names of simulcast streams out of what it sends later, and gives
 * extensions of its own ids that the server has for others; either way it then refuses its own offer. So the names are
 * asked for, and what the server does not know is left out.
 * @param {RTCRtpTransceiver} transceiver
 */
function chooseExtensions(transceiver) {
  // Not in every browser, and not in TypeScript's library.
  const { getHeaderExtensionsToNegotiate: get, setHeaderExtensionsToNegotiate: set } = /** @type {any} */ (transceiver);
  if (get === undefined || set === undefined) return;
  /** @type {{ uri: string, direction: string }[]} */
  const known = get.call(transceiver);
  const chosen = known.map(({ uri, direction }) => {
    if (NAMES.test(uri)) return { uri, direction: "sendrecv" };
    return { uri, direction: UNKNOWN.test(uri) ? "stopped" : direction };
  });
  set.call(transceiver, chosen);
}

/** RFC 8852. */
const NAMES = /:sdes:(repaired-)?rtp-stream-id$/;
/** To the server. */
const UNKNOWN = /:toffset$|\/(video-content-type|video-timing|color-space|video-layers-allocation00)$/;

/** @type {RTCRtpTransceiverDirection} */
const SENDONLY = "sendonly";
/** A server that lives answers within milliseconds. */
const ANSWER_TIMEOUT_MS = 10_000;

/** @param {RTCRtpTransceiver} transceiver */
function sends({ direction }) {
  return direction === "sendonly" || direction === "sendrecv";
}

/** @param {RTCRtpTransceiver} transceiver */
function receives({ direction }) {
  return direction === "recvonly" || direction === "sendrecv";
}

/**
 * @param {boolean} send
 * @param {boolean} receive
 * @returns {RTCRtpTransceiverDirection}
 */
function direction(send, receive) {
  if (send) return receive ? "sendrecv" : "sendonly";
  return receive ? "recvonly" : "inactive";
}

/**
 * @param {MediaStreamTrack} track
 * @returns {import("./encodings.js").Picture}
 */
function pictureOf(track) {
  const { width = 640, height = 360, frameRate = 30 } = track.getSettings();
  return { width, height, frameRate };
}
