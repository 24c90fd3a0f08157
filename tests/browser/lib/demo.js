// A participant on the demo page.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { until } from "./wait.js";

const SCREENSHOTS = fileURLToPath(new URL("../../../target/browser", import.meta.url));

/** Small pictures: what is tested is whether they come, on machines with two cores. */
const PICTURE = { width: "320", height: "240", fps: "10" };

export class Demo {
  /** @type {string[]} What the page's console said. */
  console = [];

  /**
   * @param {import("puppeteer-core").Page} page
   * @param {string} name
   */
  constructor(page, name) {
    this.page = page;
    this.name = name;
    page.on("console", (message) => this.console.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => this.console.push(`error: ${error.message}`));
  }

  /**
   * @param {string} url Of the server.
   * @param {string} room
   * @param {Record<string, string>} [flags]
   */
  async open(url, room, flags = {}) {
    const search = new URLSearchParams({ ...PICTURE, room, name: this.name, ...flags });
    await this.page.goto(`${url}/?${search}`);
    return this;
  }

  /** Joins by the address alone, and waits until the server has let it in. */
  async join(url, room, flags = {}) {
    await this.open(url, room, { join: "1", ...flags });
    await this.joined();
    return this;
  }

  joined(timeoutMs = 15_000) {
    return this.until("is joined", () => globalThis.shardcast?.room?.state === "joined", undefined, timeoutMs);
  }

  /**
   * Waits for a condition in the page.
   * @template A
   * @param {string} what
   * @param {(argument: A) => unknown} ask
   * @param {A} [argument]
   * @param {number} [timeoutMs]
   */
  async until(what, ask, argument, timeoutMs) {
    try {
      return await until(`${this.name} ${what}`, () => this.page.evaluate(ask, argument), timeoutMs);
    } catch (error) {
      error.message += `\nconsole of ${this.name}:\n${this.console.slice(-20).join("\n")}`;
      throw error;
    }
  }

  /** @param {string} selector */
  click(selector) {
    // Not by coordinates: what is meant is the button, wherever the layout is just moving it.
    return this.page.$eval(selector, (element) => element.click());
  }

  /**
   * The peers whose tiles are on the page.
   * @param {"camera" | "screen"} source
   * @returns {Promise<string[]>} Names.
   */
  tiles(source = "camera") {
    return this.page.$$eval(`.tile[data-source="${source}"]:not([data-self])`, (tiles) =>
      tiles.map((tile) => tile.querySelector("figcaption")?.textContent?.trim() ?? ""),
    );
  }

  /**
   * How large the tile of somebody's camera is, there being one; as usual if nothing is given.
   * @param {string} [width] In the words of a style sheet.
   * @param {string} [height]
   */
  resizeTile(width = "", height = "") {
    const resize = (/** @type {string} */ width, /** @type {string} */ height) => {
      const { style } = document.querySelector('.tile[data-source="camera"]:not([data-self])');
      Object.assign(style, { width, height });
    };
    return this.page.evaluate(resize, width, height);
  }

  /** How wide the pictures are that come of it, in pixels. */
  pictureWidth() {
    return this.page.evaluate(() => document.querySelector('.tile[data-source="camera"]:not([data-self]) video')?.videoWidth ?? 0);
  }

  /**
   * What has arrived of somebody's track.
   * @param {string} name
   * @param {string} source
   */
  received(name, source) {
    return this.page.evaluate(receivedInPage, { name, source });
  }

  /** Waits until new frames of somebody's picture are decoded and shown. */
  async sees(name, source = "camera", timeoutMs = 15_000) {
    let first = null;
    await until(
      `${this.name} sees ${name}'s ${source}`,
      async () => {
        const now = await this.received(name, source);
        if (now === null || !now.shown) return false;
        // From the frames there were on the first look: old ones prove nothing.
        first = first?.track === now.track ? first : now;
        return now.framesDecoded >= first.framesDecoded + 3;
      },
      timeoutMs,
    ).catch((error) => this.explain(error));
  }

  /** Waits until somebody's sound arrives and is not silence. */
  async hears(name, timeoutMs = 15_000) {
    let first = null;
    await until(
      `${this.name} hears ${name}`,
      async () => {
        const now = await this.received(name, "microphone");
        if (now === null) return false;
        first = first?.track === now.track ? first : now;
        return now.totalAudioEnergy > first.totalAudioEnergy && now.totalSamplesReceived > first.totalSamplesReceived;
      },
      timeoutMs,
    ).catch((error) => this.explain(error));
  }

  /** @param {Error} error */
  async explain(error) {
    const state = await this.page.evaluate(stateInPage).catch(String);
    error.message += `\nstate of ${this.name}: ${state}\nconsole:\n${this.console.slice(-20).join("\n")}`;
    throw error;
  }

  /** The texts of the banner and the toasts that are on the page. */
  messages() {
    return this.page.$$eval(".banner:not([hidden]), .toast", (elements) =>
      elements.map((element) => (element.querySelector("p")?.textContent ?? "").trim()),
    );
  }

  /** @param {string} file */
  async screenshot(file) {
    await mkdir(SCREENSHOTS, { recursive: true });
    await this.page.screenshot({ path: join(SCREENSHOTS, file) });
  }
}

/** Runs in the page. */
async function receivedInPage({ name, source }) {
  const room = globalThis.shardcast?.room;
  const peer = [...(room?.peers.values() ?? [])].find((each) => each.name === name || each.id === name);
  const track = [...(peer?.tracks.values() ?? [])].find((each) => each.source === source && each.published);
  if (!track?.media) return null;
  const transceiver = room.pc.getTransceivers().find((each) => each.receiver.track === track.media);
  const report = await transceiver.receiver.getStats();
  const stats = [...report.values()].find((entry) => entry.type === "inbound-rtp" && entry.kind === track.kind);
  if (!stats) return null;
  const tile = [...document.querySelectorAll(`.tile[data-source="${source}"]`)].find((each) => each.dataset.peer === peer.id);
  return {
    track: track.id,
    framesDecoded: stats.framesDecoded ?? 0,
    totalAudioEnergy: stats.totalAudioEnergy ?? 0,
    totalSamplesReceived: stats.totalSamplesReceived ?? 0,
    shown: (tile?.classList.contains("picture") && tile.querySelector("video").videoWidth > 0) ?? false,
  };
}

/** Runs in the page: what one wants to know when nothing arrives. */
async function stateInPage() {
  const room = globalThis.shardcast?.room;
  const sections = (room?.pc?.getTransceivers() ?? []).map((each) => [
    each.mid,
    each.direction,
    each.currentDirection,
    each.receiver.track.kind,
    each.receiver.track.muted ? "muted" : "unmuted",
  ].join(" "));
  const peers = [...(room?.peers.values() ?? [])].map((peer) => ({
    id: peer.id,
    name: peer.name,
    tracks: [...peer.tracks.values()].map(({ id, published, media }) => ({ id, published, media: media !== null })),
  }));
  const inbound = [...((await room?.pc?.getStats())?.values() ?? [])]
    .filter(({ type }) => type === "inbound-rtp")
    .map(({ kind, mid, ssrc, packetsReceived, framesReceived, framesDecoded, pliCount }) => ({ kind, mid, ssrc, packetsReceived, framesReceived, framesDecoded, pliCount }));
  return JSON.stringify({ state: room?.state, reason: room?.reason, connection: room?.connection, signaling: room?.pc?.signalingState, sections, peers, inbound });
}
