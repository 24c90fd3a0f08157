// A bad network for one or more pages: `shardcast impair` between them and the server, and an init script that
// turns the server's candidates into the ports of its own.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { binary } from "./server.js";

/**
 * @typedef {object} Conditions What is not named is perfect.
 * @property {number} [rate_bps]
 * @property {number} [queue_ms] How much waits for the line before what comes is dropped; 300 ms unless given.
 * @property {number} [queue_bytes]
 * @property {number} [delay_ms] One way.
 * @property {number} [jitter_ms]
 * @property {boolean} [keeps_order] Jitter does not reorder.
 * @property {number} [loss] 0–1.
 * @property {{ enter: number, leave: number, loss: number }} [bursts]
 * @property {{ chance: number, held_ms: number }} [reordering]
 * @property {number} [duplication]
 */

/**
 * One process for all links of a test file.
 * @param {{ seed?: number }} [options]
 */
export async function startImpairer({ seed = 1 } = {}) {
  const child = spawn(binary(), ["impair", "--seed", String(seed)], { stdio: ["pipe", "pipe", "inherit"] });
  /** @type {{ resolve: (answer: any) => void, reject: (error: Error) => void }[]} */
  const waiting = [];
  const exited = new Promise((done) => child.once("exit", done));
  const fail = (/** @type {string} */ why) => waiting.splice(0).forEach(({ reject }) => reject(new Error(why)));
  child.once("error", (error) => fail(`shardcast impair: ${error.message}`));
  void exited.then(() => fail("shardcast impair has ended"));
  createInterface({ input: child.stdout }).on("line", (line) => {
    const answer = JSON.parse(line);
    const { resolve, reject } = waiting.shift() ?? {};
    if (answer.error !== undefined) reject?.(new Error(`shardcast impair: ${answer.error}`));
    else resolve?.(answer);
  });
  /** @param {object} command */
  const ask = (command) =>
    new Promise((resolve, reject) => {
      waiting.push({ resolve, reject });
      child.stdin.write(`${JSON.stringify(command)}\n`);
    });
  return {
    /**
     * A link to the server; pages that are put on the same one share its rate.
     * @param {string} name
     * @param {{ candidates: string[] }} server
     */
    async link(name, server) {
      /** @type {Record<string, string>} The server's addresses and the ones to use instead. */
      const ports = {};
      for (const candidate of server.candidates) {
        const { opened } = await ask({ open: { link: name, to: candidate } });
        ports[candidate] = opened.address;
      }
      return {
        /**
         * Puts a page on the link. To be called before it is opened.
         * @param {import("puppeteer-core").Page} page
         */
        carry: (page) => page.evaluateOnNewDocument(rewriteInPage, ports),
        /**
         * What holds from now on, in the directions that are named. `down` is from the server to the page.
         * @param {{ up?: Conditions, down?: Conditions, after_ms?: number }} conditions
         */
        set: (conditions) => ask({ set: { link: name, ...conditions } }),
        /** Loses the next datagrams of a direction: @param {"up" | "down"} direction @param {number} count */
        drop: (direction, count) => ask({ drop: { link: name, direction, count } }),
        /** What each direction has done, in datagrams. */
        stats: async () => (await ask({ stats: { link: name } })).stats,
      };
    },
    async close() {
      child.stdin.end();
      const timer = setTimeout(() => child.kill("SIGKILL"), 5000);
      await exited;
      clearTimeout(timer);
    },
  };
}

/**
 * Runs in the page, before any of its scripts: a candidate of the server becomes the port that stands for it, and
 * one that has none is unusable, so that nothing goes round the link.
 * @param {Record<string, string>} ports
 */
function rewriteInPage(ports) {
  // RFC 8839 §5.1: foundation, component, transport, priority, address, port.
  const line = /candidate:(\S+ \d+ \S+ \d+) (\S+) (\d+) /g;
  const rewrite = (/** @type {string} */ text) =>
    text.replaceAll(line, (_, head, ip, port) => {
      const key = ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`;
      const address = ports[key] ?? "192.0.2.1:9";
      const at = address.lastIndexOf(":");
      return `candidate:${head} ${address.slice(0, at).replace(/^\[|\]$/g, "")} ${address.slice(at + 1)} `;
    });
  const { setRemoteDescription, addIceCandidate } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.setRemoteDescription = function (description) {
    const { type, sdp } = description;
    return setRemoteDescription.call(this, { type, sdp: sdp && rewrite(sdp) });
  };
  RTCPeerConnection.prototype.addIceCandidate = function (given) {
    if (!given?.candidate) return addIceCandidate.call(this, given);
    const { candidate, sdpMid, sdpMLineIndex, usernameFragment } = given;
    return addIceCandidate.call(this, { candidate: rewrite(candidate), sdpMid, sdpMLineIndex, usernameFragment });
  };
}
