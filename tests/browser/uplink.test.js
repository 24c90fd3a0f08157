// A browser that takes no feedback on each packet is told what it may send: REMB.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launchChromium } from "./lib/browsers.js";
import { busyCamera } from "./lib/busy-camera.js";
import { Demo } from "./lib/demo.js";
import { startImpairer } from "./lib/impair.js";
import { startServer } from "./lib/server.js";
import { until } from "./lib/wait.js";

describe("a publisher without transport-cc", () => {
  let server;
  let impairer;
  let link;
  const browsers = [];
  /** @type {Demo} */ let ada;
  /** @type {Demo} */ let bob;

  before(async () => {
    server = await startServer();
    impairer = await startImpairer();
    link = await impairer.link("ada", server);
    [ada, bob] = await Promise.all(
      ["Ada", "Bob"].map(async (name) => {
        const browser = await launchChromium();
        browsers.push(browser);
        return new Demo(await browser.page(), name);
      }),
    );
    await link.set({ up: { delay_ms: 20 }, down: { delay_ms: 20 } });
    await link.carry(ada.page);
    await ada.page.evaluateOnNewDocument(withoutTransportWideInPage);
    await busyCamera(ada.page);
  });
  after(async () => {
    await Promise.all(browsers.map((browser) => browser.close()));
    await server?.stop();
    await impairer?.close();
  });

  test("its bitrate follows what the server tells it", async (context) => {
    await ada.join(server.url, "remb", { width: "960", height: "540", fps: "10" });
    await bob.join(server.url, "remb", { width: "160", height: "120", fps: "2" });
    await bob.sees("Ada");
    const descriptions = await ada.page.evaluate(() => {
      const { currentLocalDescription, currentRemoteDescription } = globalThis.shardcast.room.pc;
      return [currentLocalDescription.sdp, currentRemoteDescription.sdp];
    });
    for (const sdp of descriptions) assert.doesNotMatch(sdp.replaceAll("\r", ""), /transport-cc|transport-wide-cc/);
    assert.match(descriptions[1], /goog-remb/);

    const begun = Date.now();
    await until("it knows of 1 Mbit/s", async () => (await available(ada)) > 1e6, 20_000);
    const climbedMs = Date.now() - begun;
    await link.set({ up: { delay_ms: 20, rate_bps: 400_000 } });
    const squeezed = Date.now();
    await until("it is told of less", async () => (await available(ada)) < 450_000, 10_000);
    const fellMs = Date.now() - squeezed;
    // It stays there, and the pictures go on.
    await until("five seconds have passed", async () => Date.now() - squeezed > 5000, 10_000);
    const low = await available(ada);
    assert.ok(low > 150_000 && low < 450_000, `${low} bit/s behind 400 kbit/s`);
    await bob.sees("Ada");
    await link.set({ up: { delay_ms: 20 } });
    const released = Date.now();
    await until("it is told of more", async () => (await available(ada)) > 700_000, 20_000);
    context.diagnostic(`1 Mbit/s after ${climbedMs} ms; less told after ${fellMs} ms, then ${Math.round(low / 1000)} kbit/s; more after ${Date.now() - released} ms`);

    const metrics = await (await fetch(`${server.url}/metrics`)).text();
    const count = (name) => Number(new RegExp(`^shardcast_${name}_total\\S* (\\d+)`, "m").exec(metrics)?.[1]);
    assert.ok(count("remb_sent") > 10, "estimates were sent");
  });
});

/** What a page thinks that it can send, in bits per second. */
function available(person) {
  return person.page.evaluate(async () => {
    const stats = [...(await globalThis.shardcast.room.pc.getStats()).values()];
    const pairs = stats.filter(({ type }) => type === "candidate-pair").map(({ availableOutgoingBitrate }) => availableOutgoingBitrate ?? 0);
    return Math.max(0, ...pairs);
  });
}

/** Runs in the page, before any of its scripts: neither side hears of transport-wide feedback. */
function withoutTransportWideInPage() {
  const strip = (/** @type {string} */ sdp) =>
    sdp
      .split(/(?<=\n)/)
      .filter((line) => !/^a=rtcp-fb:\S+ transport-cc|^a=extmap:.*transport-wide-cc/.test(line))
      .join("");
  const { setLocalDescription, setRemoteDescription, createOffer, createAnswer } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.setLocalDescription = async function (description) {
    // Without one the browser would make its own.
    const made = description ?? (this.signalingState === "have-remote-offer" ? await createAnswer.call(this) : await createOffer.call(this));
    return setLocalDescription.call(this, { type: made.type, sdp: strip(made.sdp) });
  };
  RTCPeerConnection.prototype.setRemoteDescription = function (description) {
    const { type, sdp } = description;
    return setRemoteDescription.call(this, { type, sdp: sdp && strip(sdp) });
  };
}
