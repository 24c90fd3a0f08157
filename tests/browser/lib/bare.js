// A participant on a page of the tests' own, driving RTCPeerConnection by hand.

import { until } from "./wait.js";

export class Bare {
  /**
   * @param {import("puppeteer-core").Page} page
   * @param {string} id
   */
  constructor(page, id) {
    this.page = page;
    this.id = id;
  }

  /**
   * @param {string} files The address of the tests' pages.
   * @param {"predecessor" | "reuse"} client
   * @param {{ url: string, room: string }} options `url`: of the WebSocket.
   */
  async join(files, client, { url, room }) {
    await this.page.goto(`${files}/blank.html`);
    await this.page.evaluate(
      async (module, options) => {
        const { join } = await import(module);
        globalThis.client = await join(options);
      },
      `/${client}.js`,
      { url, room, self: this.id },
    );
    return this;
  }

  /** What arrives from a peer: by the stream's id, which is the peer's. */
  received(peer) {
    return this.page.evaluate(receivedInPage, peer);
  }

  /** Waits until new frames and sound of somebody arrive. */
  async seesAndHears(peer, timeoutMs = 15_000) {
    let first = null;
    await until(
      `${this.id} sees and hears ${peer}`,
      async () => {
        const now = await this.received(peer);
        if (now === null) return false;
        first ??= now;
        return now.framesDecoded >= first.framesDecoded + 3 && now.totalAudioEnergy > first.totalAudioEnergy;
      },
      timeoutMs,
    ).catch(async (error) => {
      const state = await this.page.evaluate(() => {
        const { pc, failures, ignored } = globalThis.client;
        const sections = pc.getTransceivers().map(({ mid, direction, currentDirection }) => [mid, direction, currentDirection].join(" "));
        return JSON.stringify({ connection: pc.connectionState, signaling: pc.signalingState, sections, failures, ignored: [...(ignored ?? [])], remote: pc.remoteDescription?.sdp.match(/^(m=\S+ \d+|a=(mid|msid|send|recv|inactive).*)/gm) });
      });
      error.message += `\nstate of ${this.id}: ${state}`;
      throw error;
    });
  }

  failures() {
    return this.page.evaluate(() => globalThis.client.failures);
  }
}

/** Runs in the page. */
async function receivedInPage(peer) {
  const { pc } = globalThis.client;
  const found = { framesDecoded: null, totalAudioEnergy: null };
  const sections = (pc.remoteDescription?.sdp ?? "").split(/^(?=m=)/m).slice(1);
  for (const section of sections) {
    const stream = /^a=msid:(\S+)/m.exec(section)?.[1];
    if (stream === undefined || decodeURIComponent(stream) !== peer || !/^a=send(recv|only)/m.test(section)) continue;
    const mid = /^a=mid:(\S+)/m.exec(section)?.[1];
    const receiver = pc.getTransceivers().find((each) => each.mid === mid)?.receiver;
    for (const entry of (await receiver?.getStats())?.values() ?? []) {
      if (entry.type !== "inbound-rtp") continue;
      if (entry.kind === "video") found.framesDecoded = entry.framesDecoded ?? 0;
      else found.totalAudioEnergy = entry.totalAudioEnergy ?? 0;
    }
  }
  return found.framesDecoded === null || found.totalAudioEnergy === null ? null : found;
}
