// A forwarding server inside the page, for the SDK's own tests: it speaks DESIGN.md §5 through a
// replaced WebSocket, and its transport is the browser's. Impolite, and it recycles sections.

/** @type {Set<Session>} */
const sessions = new Set();

/** What the tests look at and turn. */
export const server = {
  sessions,
  /** Sockets fail to open while this is set. */
  down: false,
  /** Delays the server's frames, so that offers cross on the way. */
  delayMs: 0,
  find: (peer) => [...sessions].find((session) => session.peer === peer),
  dropAll: () => [...sessions].forEach((session) => session.socket.drop()),
};

/** Stands in for the browser's WebSocket. */
export class FakeSocket extends EventTarget {
  static OPEN = 1;
  readyState = 0;

  constructor() {
    super();
    setTimeout(() => {
      if (server.down) return this.drop();
      this.readyState = 1;
      this.session = new Session(this);
      this.dispatchEvent(new Event("open"));
    });
  }

  send(text) {
    const { event, data } = JSON.parse(text);
    setTimeout(() => this.session?.handle(event, data), server.delayMs);
  }

  /** From the server's side. */
  receive(event, data) {
    setTimeout(() => {
      if (this.readyState !== 1) return;
      this.dispatchEvent(new MessageEvent("message", { data: JSON.stringify({ event, data }) }));
    }, server.delayMs);
  }

  drop() {
    this.close();
    this.dispatchEvent(new Event("close"));
  }

  close() {
    this.readyState = 3;
    this.session?.end();
    this.session = undefined;
  }
}

class Session {
  /** What this peer publishes: track id to {kind, mid, media}. */
  tracks = new Map();
  /** What this peer is sent: `peer track` to transceiver. */
  subscriptions = new Map();
  /** `mid` to msid, for the sections the server sends in. */
  names = new Map();
  queue = Promise.resolve();
  ignoredOffers = 0;
  offersMade = 0;

  constructor(socket) {
    this.socket = socket;
    this.pc = new RTCPeerConnection();
    this.pc.addEventListener("icecandidate", ({ candidate }) => {
      if (candidate) socket.receive("candidate", JSON.stringify(candidate));
    });
  }

  handle(event, data) {
    if (event === "joinRoom") this.join(data);
    else if (event === "leaveRoom") this.end();
    else if (event === "ice-candidate") this.enqueue(() => this.pc.addIceCandidate(data.candidate));
    else if (event === "offer") this.enqueue(() => this.onOffer(data.offer));
    else if (event === "answer") this.enqueue(() => this.onAnswer(data.answer));
  }

  join({ self_id, room_id, name, offerer }) {
    this.peer = self_id;
    this.name = name;
    this.offered = offerer === "server";
    const old = server.find(self_id);
    if (old) {
      old.socket.receive("error", { code: "replaced", message: "joined again" });
      old.end();
    }
    const others = [...sessions];
    sessions.add(this);
    this.socket.receive("joined", {
      peer_id: self_id,
      room_id,
      peers: others.map(({ peer, name }) => ({ id: peer, name })),
      tracks: others.flatMap((other) => [...other.tracks].map(([id, { kind }]) => wireTrack(other.peer, id, kind))),
      ice_servers: [],
      protocol: 1,
    });
    for (const other of others) other.socket.receive("peer-joined", { peer: { id: self_id, name } });
    this.negotiate();
  }

  end() {
    if (!sessions.delete(this)) return;
    this.pc.close();
    for (const other of sessions) {
      for (const id of this.tracks.keys()) {
        other.socket.receive("track-unpublished", { peer_id: this.peer, track_id: id });
      }
      other.socket.receive("peer-left", { peer_id: this.peer });
      other.negotiate();
    }
  }

  enqueue(step) {
    this.queue = this.queue.then(step).catch((error) => {
      if (this.pc.signalingState !== "closed") console.error("fake server", error);
    });
  }

  async onOffer(offer) {
    if (this.pc.signalingState !== "stable") {
      this.ignoredOffers += 1;
      return;
    }
    this.offered = true;
    this.lastOffer = offer.sdp;
    await this.pc.setRemoteDescription(offer);
    await this.pc.setLocalDescription();
    this.socket.receive("answer", JSON.stringify({ type: "answer", sdp: this.named(this.pc.localDescription.sdp) }));
    this.publishFrom(offer.sdp);
    this.negotiate();
  }

  async onAnswer(answer) {
    await this.pc.setRemoteDescription(answer);
    // A client whose offer was ignored may say the same in its answer, and never offer again.
    this.publishFrom(answer.sdp);
    this.negotiate();
  }

  /** Reads the tracks off a description of the client. */
  publishFrom(sdp) {
    const now = new Map();
    for (const section of sdp.split(/^(?=m=)/m).slice(1)) {
      const mid = /^a=mid:(\S+)/m.exec(section)?.[1];
      const id = /^a=msid:\S+ (\S+)/m.exec(section)?.[1];
      if (!id || !/^a=send(only|recv)/m.test(section)) continue;
      const transceiver = this.pc.getTransceivers().find((candidate) => candidate.mid === mid);
      now.set(id, { kind: section.slice(2, 7), media: transceiver.receiver.track });
    }
    const before = this.tracks;
    this.tracks = now;
    for (const other of sessions) {
      if (other === this) continue;
      for (const id of before.keys()) {
        if (!now.has(id)) other.socket.receive("track-unpublished", { peer_id: this.peer, track_id: id });
      }
      for (const [id, { kind }] of now) {
        if (!before.has(id)) other.socket.receive("track-published", { track: wireTrack(this.peer, id, kind) });
      }
      other.negotiate();
    }
  }

  /** Offers what the room has, if that differs from what is sent. */
  negotiate() {
    this.enqueue(async () => {
      if (!this.offered || this.pc.signalingState !== "stable" || !(await this.subscribe())) return;
      this.offersMade += 1;
      await this.pc.setLocalDescription();
      this.socket.receive("offer", JSON.stringify({ type: "offer", sdp: this.named(this.pc.localDescription.sdp) }));
    });
  }

  async subscribe() {
    let changed = false;
    const wanted = new Map();
    for (const other of sessions) {
      if (other === this) continue;
      for (const [id, { media }] of other.tracks) wanted.set(`${encodeURIComponent(other.peer)} ${id}`, media);
    }
    for (const [name, transceiver] of this.subscriptions) {
      if (wanted.has(name)) continue;
      transceiver.direction = "inactive";
      await transceiver.sender.replaceTrack(null);
      this.subscriptions.delete(name);
      changed = true;
    }
    for (const [name, media] of wanted) {
      if (this.subscriptions.has(name)) continue;
      let transceiver = this.pc
        .getTransceivers()
        .find((each) => each.direction === "inactive" && each.receiver.track.kind === media.kind);
      if (transceiver) {
        transceiver.direction = "sendonly";
        await transceiver.sender.replaceTrack(media);
      } else {
        transceiver = this.pc.addTransceiver(media, { direction: "sendonly", streams: [new MediaStream()] });
      }
      this.subscriptions.set(name, transceiver);
      changed = true;
    }
    return changed;
  }

  named(sdp) {
    const names = new Map([...this.subscriptions].map(([name, { mid }]) => [mid, name]));
    return sdp
      .split(/^(?=m=)/m)
      .map((section) => {
        const name = names.get(/^a=mid:(\S+)/m.exec(section)?.[1]);
        const bare = section.replace(/^a=(msid:|ssrc:\d+ msid:).*\r\n/gm, "");
        return name ? bare.replace(/^(a=mid:.*\r\n)/m, `$1a=msid:${name}\r\n`) : bare;
      })
      .join("");
  }
}

function wireTrack(peer_id, track_id, kind) {
  return { peer_id, track_id, kind };
}
