// Clients that are not the SDK: the predecessor's, and one that publishes where it receives.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Bare } from "./lib/bare.js";
import { launchChromium } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startServer } from "./lib/server.js";
import { serveFiles } from "./lib/static.js";
import { until } from "./lib/wait.js";

describe("clients that are not the SDK", () => {
  let server;
  let files;
  /** @type {Awaited<ReturnType<typeof launchChromium>>[]} */
  let browsers = [];

  before(async () => {
    server = await startServer();
    files = await serveFiles([fileURLToPath(new URL("pages", import.meta.url))], { host: "localhost" });
    browsers = await Promise.all([launchChromium(), launchChromium(), launchChromium()]);
  });
  after(async () => {
    await Promise.all(browsers.map((browser) => browser.close()));
    await files?.close();
    await server?.stop();
  });

  const pages = () => Promise.all(browsers.map((browser) => browser.page()));
  const socketAt = (path) => `ws://localhost:${server.port}${path}`;

  test("two of the predecessor's and one on the demo page see and hear each other", async () => {
    const [first, second, third] = await pages();
    const options = { url: socketAt("/"), room: "old" };
    const una = await new Bare(first, "una").join(files.url, "predecessor", options);
    const demo = await new Demo(second, "Demo").join(server.url, "old", { peer: "demo" });
    const vic = await new Bare(third, "vic é").join(files.url, "predecessor", options);
    await Promise.all([
      una.seesAndHears("demo"),
      una.seesAndHears("vic é"),
      vic.seesAndHears("demo"),
      vic.seesAndHears("una"),
      ...["una", "vic é"].flatMap((id) => [demo.sees(id), demo.hears(id)]),
    ]);
    assert.deepEqual(await una.failures(), []);
    assert.deepEqual(await vic.failures(), []);
    const ignored = await una.page.evaluate(() => [...globalThis.client.ignored]);
    assert.ok(ignored.includes("joined") && ignored.includes("peer-joined"), `ignored: ${ignored}`);
    assert.ok(!ignored.includes("error"), "the server finds no fault with it");

    // A third of its kind comes and goes on the demo page, and nothing breaks for those who stay.
    await demo.click("#leave");
    await until("una no longer has the demo page", async () => (await una.received("demo")) === null, 5000);
    await demo.until("is back at the door", () => !document.getElementById("join").hidden);
    await demo.click("#join-submit");
    await Promise.all([una.seesAndHears("demo"), vic.seesAndHears("demo"), demo.sees("una"), demo.sees("vic é")]);
    assert.deepEqual(await una.failures(), []);
  });

  test("addTrack on a section that receives: both ways flow", async () => {
    const [first, second, third] = await pages();
    const demo = await new Demo(first, "Demo").join(server.url, "reuse", { peer: "demo" });
    const roy = await new Bare(second, "roy").join(files.url, "reuse", { url: socketAt("/ws"), room: "reuse" });
    await roy.seesAndHears("demo");
    assert.equal(await roy.page.evaluate(() => globalThis.client.publish()), true, "the browser re-uses the sections");
    await Promise.all([demo.sees("roy"), demo.hears("roy"), roy.seesAndHears("demo")]);
    assert.deepEqual(await roy.failures(), []);

    // Somebody else comes: more sections, and the shared ones go on.
    const late = await new Demo(third, "Late").join(server.url, "reuse", { peer: "late" });
    await Promise.all([late.sees("roy"), late.hears("roy"), late.sees("Demo"), roy.seesAndHears("late"), roy.seesAndHears("demo"), demo.sees("roy")]);
    // The one received in the shared sections goes: what is sent there must stay.
    await demo.click("#leave");
    await until("roy no longer receives demo", async () => (await roy.received("demo")) === null, 5000);
    await Promise.all([late.sees("roy"), late.hears("roy"), roy.seesAndHears("late")]);
    assert.deepEqual(await roy.failures(), []);
  });

  test("three sizes by a group of SSRCs, as older clients write it into their offer by hand", async () => {
    const [first, second] = await pages();
    await first.evaluateOnNewDocument(groupInPage);
    const una = await new Bare(first, "una").join(files.url, "predecessor", { url: socketAt("/"), room: "group" });
    await una.page.evaluate(async () => {
      const sender = globalThis.client.pc.getSenders().find(({ track }) => track?.kind === "video");
      const parameters = sender.getParameters();
      [4, 2, 1].forEach((divisor, at) => (parameters.encodings[at].scaleResolutionDownBy = divisor));
      await sender.setParameters(parameters);
    });
    const widths = async () => (await streams(una)).map(({ frameWidth }) => frameWidth ?? 0).sort((a, b) => a - b);
    await until("three sizes are sent", async () => (await widths()).join() === "240,480,960", 30_000);
    assert.ok((await streams(una)).every(({ rid, rtxSsrc }) => rid === undefined && rtxSsrc > 0), "no RIDs, and retransmission");

    const demo = await new Demo(second, "Demo").join(server.url, "group", { width: "160", height: "120", fps: "2" });
    await demo.sees("una");
    const shown = () =>
      demo.page.evaluate(() => {
        const peer = globalThis.shardcast.room.peers.get("una");
        const track = [...(peer?.tracks.values() ?? [])].find(({ kind }) => kind === "video");
        const video = document.querySelector('.tile[data-peer="una"] video');
        return `${track?.quality?.layer?.encoding} ${video?.videoWidth}`;
      });
    await until("the largest comes", async () => (await shown()) === "2 960", 30_000);
    await demo.page.evaluate(() => Object.assign(document.querySelector('.tile[data-peer="una"]').style, { width: "200px", height: "110px" }));
    await until("the smallest comes", async () => (await shown()) === "0 240", 15_000);
    await demo.page.evaluate(() => Object.assign(document.querySelector('.tile[data-peer="una"]').style, { width: "", height: "" }));
    await until("the largest comes again", async () => (await shown()) === "2 960", 20_000);
    await demo.sees("una");
    assert.deepEqual(await una.failures(), []);
  });
});

/** The streams of video that a page sends. */
function streams(person) {
  return person.page.evaluate(async () => {
    const stats = [...(await globalThis.client.pc.getStats()).values()];
    return stats
      .filter(({ type, kind, framesEncoded }) => type === "outbound-rtp" && kind === "video" && framesEncoded > 0)
      .map(({ rid, frameWidth, rtxSsrc }) => ({ rid, frameWidth, rtxSsrc }));
  });
}

/**
 * Runs in the page: its camera is large enough for three sizes, and its offers announce them by `a=ssrc-group:SIM`, which
 * Chromium still takes (156 did).
 */
function groupInPage() {
  const { mediaDevices } = navigator;
  const getUserMedia = mediaDevices.getUserMedia.bind(mediaDevices);
  mediaDevices.getUserMedia = (constraints) => getUserMedia({ ...constraints, video: { width: 960, height: 540, frameRate: 8 } });
  const { createOffer } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.createOffer = async function (...given) {
    const { type, sdp } = await createOffer.apply(this, given);
    const sections = sdp.split(/^(?=m=)/m).map((section) => {
      const cname = /^a=ssrc:\d+ cname:(\S+)/m.exec(section)?.[1];
      const msid = /^a=msid:(.*?)\r?$/m.exec(section)?.[1];
      if (!section.startsWith("m=video") || cname === undefined) return section;
      const [media, repairs] = [[1001, 1002, 1003], [2001, 2002, 2003]];
      const lines = section.split("\r\n").filter((line) => line !== "" && !line.startsWith("a=ssrc"));
      lines.push(`a=ssrc-group:SIM ${media.join(" ")}`, ...media.map((ssrc, at) => `a=ssrc-group:FID ${ssrc} ${repairs[at]}`));
      for (const ssrc of [...media, ...repairs]) lines.push(`a=ssrc:${ssrc} cname:${cname}`, `a=ssrc:${ssrc} msid:${msid}`);
      return `${lines.join("\r\n")}\r\n`;
    });
    return { type, sdp: sections.join("") };
  };
}
