// Who publishes late, or whose first offer is late: the server has offered before, with numbers of its own.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { launchChromium, launchFirefox } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startServer } from "./lib/server.js";

/** Chromium sends three sizes from here on. */
const THREE = { width: "960", height: "540", fps: "6" };

describe("after an offer of the server's", () => {
  let server;
  /** @type {Awaited<ReturnType<typeof launchChromium>>[]} */
  let browsers = [];
  before(async () => {
    server = await startServer();
  });
  afterEach(async () => {
    await Promise.all(browsers.splice(0).map((browser) => browser.close()));
  });
  after(() => server?.stop());

  async function person(name, launch = launchChromium) {
    const browser = await launch();
    browsers.push(browser);
    return new Demo(await browser.page(), name);
  }

  for (const [name, launch] of [["Chromium", launchChromium], ["Firefox", launchFirefox]]) {
    test(`${name}: a viewer turns on camera and microphone, and then shares a screen`, async () => {
      const [ada, bob] = await Promise.all([person("Ada"), person("Bob", launch)]);
      const room = `viewer-${name}`;
      await ada.join(server.url, room, THREE);
      await bob.page.evaluateOnNewDocument(withoutDevices);
      await bob.join(server.url, room, THREE);
      await bob.sees("Ada");
      await bob.page.evaluate(() => (globalThis.hasDevices = true));
      await bob.click("#toggle-camera");
      await ada.sees("Bob");
      await bob.click("#toggle-mic");
      await ada.hears("Bob");
      await bob.page.evaluate(stubScreen);
      await bob.click("#toggle-screen");
      await ada.sees("Bob", "screen");
      await bob.sees("Ada");
      complained(bob);
    });

    test(`${name}: an offer that is overtaken is made again`, async () => {
      const [ada, bob] = await Promise.all([person("Ada"), person("Bob", launch)]);
      const room = `overtaken-${name}`;
      await ada.join(server.url, room, THREE);
      await bob.page.evaluateOnNewDocument(delayOffer);
      await bob.join(server.url, room, THREE);
      await bob.sees("Ada");
      await ada.sees("Bob");
      await ada.hears("Bob");
      complained(bob);
    });
  }
});

/** @param {Demo} person */
function complained({ console, name }) {
  assert.deepEqual(console.filter((line) => /negotiation|InvalidAccess/.test(line)), [], name);
}

/** Runs in the page: there is neither camera nor microphone until `hasDevices`. */
function withoutDevices() {
  const getUserMedia = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (constraints) => {
    if (!globalThis.hasDevices) throw new DOMException("none", "NotFoundError");
    return getUserMedia(constraints);
  };
}

/** Runs in the page: the first offer takes longer than the server waits for it (1 s). */
function delayOffer() {
  const { send } = WebSocket.prototype;
  let isFirst = true;
  WebSocket.prototype.send = function (text) {
    const isLate = isFirst && JSON.parse(text).event === "offer";
    if (isLate) isFirst = false;
    if (isLate) setTimeout(() => send.call(this, text), 2500);
    else send.call(this, text);
  };
}

/** Runs in the page: a screen that needs no picker. */
function stubScreen() {
  navigator.mediaDevices.getDisplayMedia = async () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1280, height: 720 });
    const context = canvas.getContext("2d");
    let count = 0;
    setInterval(() => {
      context.fillStyle = (count += 1) % 2 ? "#fafafa" : "#eee";
      context.fillRect(0, 0, 1280, 720);
    }, 200);
    return canvas.captureStream(5);
  };
}
