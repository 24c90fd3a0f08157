// Everything that can go wrong is told, in words.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launchChromium } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startServer } from "./lib/server.js";
import { until } from "./lib/wait.js";

describe("what the page tells", () => {
  let server;
  const browsers = [];
  const launch = async (name, options) => {
    const browser = await launchChromium(options);
    browsers.push(browser);
    return new Demo(await browser.page(), name);
  };
  /** @type {Demo} Somebody with a camera, to be seen. */
  let ada;

  before(async () => {
    server = await startServer();
    ada = await launch("Ada");
    await ada.join(server.url, "errors");
  });
  after(async () => {
    await Promise.all(browsers.map((browser) => browser.close()));
    await server?.stop();
  });

  /**
   * @param {Demo} person
   * @param {RegExp} pattern
   */
  const tells = (person, pattern) =>
    until(`${person.name} is told ${pattern}`, async () => (await person.messages()).find((text) => pattern.test(text)));

  test("no devices: joins as a viewer, sees and hears", async () => {
    const eve = await launch("Eve", { devices: "none", args: ["--use-fake-ui-for-media-stream"] });
    await eve.join(server.url, "errors");
    await tells(eve, /No microphone and no camera found/);
    await eve.sees("Ada");
    await eve.hears("Ada");
    await until("Ada has a tile for Eve", async () => (await ada.tiles()).includes("Eve"));
    await eve.screenshot("no-camera.png");
  });

  test("permission refused: says how to give it, joins as a viewer", async () => {
    const dan = await launch("Dan", { devices: "none", args: ["--use-fake-device-for-media-stream", "--deny-permission-prompts"] });
    await dan.join(server.url, "errors");
    await tells(dan, /Microphone and camera not allowed/);
    await dan.sees("Ada");
    await dan.screenshot("refused.png");
  });

  test("plain http on another address than localhost: says why there are no devices", async () => {
    // Resolved by the browser itself: a name that is not localhost, and so not a secure context.
    const url = `http://${INSECURE_HOST}:${server.port}`;
    const insecure = await launch("Gus", { args: [`--host-resolver-rules=MAP ${INSECURE_HOST} 127.0.0.1`] });
    await insecure.join(url, "errors");
    await tells(insecure, /over plain http/);
    await insecure.sees("Ada");
  });

  test("sound held back by the browser: one tap brings it", async () => {
    const ben = await launch("Ben", { devices: "none", args: ["--autoplay-policy=document-user-activation-required"] });
    // Whatever puppeteer evaluates counts as a gesture of the user; the bare protocol does not.
    const protocol = await ben.page.createCDPSession();
    await ben.open(server.url, "errors", { join: "1" });
    const expression = "document.querySelector('.banner:not([hidden])')?.textContent ?? ''";
    await until("Ben is told that the sound is held back", async () =>
      /holds the sound back/.test((await protocol.send("Runtime.evaluate", { expression })).result.value),
    );
    await ben.click(".banner button");
    await until("the banner goes", async () => (await ben.messages()).every((text) => !/holds the sound back/.test(text)));
    await ben.hears("Ada");
  });

  test("the same participant from elsewhere: the first window says so and stays away", async () => {
    const first = await launch("Hal");
    const second = await launch("Hal");
    await first.join(server.url, "errors", { peer: "hal" });
    await second.join(server.url, "errors", { peer: "hal" });
    await tells(first, /joined from somewhere else/);
    await second.sees("Ada");
    assert.equal(await first.page.evaluate(() => document.getElementById("join").hidden), false);
    assert.equal(await second.page.evaluate(() => globalThis.shardcast.room.state), "joined");
    await first.screenshot("replaced.png");
  });

  test("an id that is not allowed is refused in words", async () => {
    const ivy = await launch("Ivy");
    await ivy.open(server.url, "errors", { join: "1", peer: "x".repeat(129) });
    await tells(ivy, /not allowed/);
  });

  test("a full room", async () => {
    const small = await startServer({ args: ["--max-peers-per-room", "1"] });
    try {
      const jon = await launch("Jon");
      const kim = await launch("Kim");
      await jon.join(small.url, "small");
      await kim.open(small.url, "small", { join: "1" });
      await tells(kim, /This room is full/);
    } finally {
      await small.stop();
    }
  });

  test("a media connection that does not come about is given up in bounded time, said so, and tried again", async () => {
    const hal = await launch("Hal");
    await hal.page.evaluateOnNewDocument(withoutCandidates);
    await hal.join(server.url, "errors");
    // Nothing to check, nothing to fail: the browser would leave it `new` or `connecting`.
    await until("it is given up", async () => (await hal.messages()).some((text) => /do not get through/.test(text)), 60_000);
    await hal.page.evaluate(() => (globalThis.hasCandidates = true));
    // The attempt that is under way has to run out first.
    await hal.sees("Ada", "camera", 40_000);
    await until("the banner goes", async () => (await hal.messages()).every((text) => !/do not get through/.test(text)));
  });

  test("a server that is gone is counted down to, and found again", async () => {
    const { port } = server;
    await server.stop("SIGKILL");
    await tells(ada, /server (is gone|cannot be reached)/);
    await tells(ada, /Trying again in \d+ s/);
    server = await startServer({ port });
    await ada.joined(25_000);
    await until("the banner goes", async () => (await ada.messages()).every((text) => !/server/.test(text)));
  });
});

const INSECURE_HOST = "shardcast.test";

/** Runs in the page: it learns no address of the server until `hasCandidates`. */
function withoutCandidates() {
  const { setRemoteDescription, addIceCandidate } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
    const known = globalThis.hasCandidates ? sdp : sdp.replace(/^a=candidate:.*\r\n/gm, "");
    return setRemoteDescription.call(this, { type, sdp: known });
  };
  RTCPeerConnection.prototype.addIceCandidate = async function (candidate) {
    if (globalThis.hasCandidates) await addIceCandidate.call(this, candidate);
  };
}
