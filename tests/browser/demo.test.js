// Three people on the demo page, in Chromium, through the real server.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launchChromium } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startServer } from "./lib/server.js";
import { until } from "./lib/wait.js";

/** DESIGN: join to first frame below 1 s. */
const ROOM = "three";

describe("three people on the demo page", () => {
  let server;
  const browsers = [];
  /** @type {Demo} */ let ada;
  /** @type {Demo} */ let bob;
  /** @type {Demo} */ let cyd;

  before(async () => {
    server = await startServer();
    const people = await Promise.all(
      ["Ada", "Bob", "Cyd"].map(async (name) => {
        const browser = await launchChromium();
        browsers.push(browser);
        return new Demo(await browser.page(), name);
      }),
    );
    [ada, bob, cyd] = people;
  });
  after(async () => {
    await Promise.all(browsers.map((browser) => browser.close()));
    await server?.stop();
  });

  const everybody = () => [ada, bob, cyd];
  const all = () => everybody().flatMap((one) => everybody().filter((other) => other !== one).map((other) => [one, other.name]));
  const allSeeAndHearAll = async () => {
    await Promise.all(all().map(([one, name]) => one.sees(name)));
    await Promise.all(all().map(([one, name]) => one.hears(name)));
  };

  test("each sees and hears the two others", async () => {
    await Promise.all(everybody().map((person) => person.join(server.url, ROOM)));
    await allSeeAndHearAll();
    for (const person of everybody()) assert.equal((await person.tiles()).length, 2);
    await ada.screenshot("three.png");
  });

  test("media is protected by AES-GCM with 128 bits", async () => {
    for (const person of everybody()) {
      const ciphers = await person.page.evaluate(async () =>
        [...(await globalThis.shardcast.room.pc.getStats()).values()]
          .filter(({ type }) => type === "transport")
          .map(({ srtpCipher }) => srtpCipher),
      );
      assert.deepEqual(ciphers, ["SRTP_AEAD_AES_128_GCM"], person.name);
    }
  });

  test("who leaves is gone from the others' pages within 5 s, and may come back", async (context) => {
    const times = [];
    for (let round = 0; round < 3; round += 1) {
      await cyd.click("#leave");
      await Promise.all(
        [ada, bob].map((person) =>
          until(`Cyd's tile leaves ${person.name}'s page`, async () => !(await person.tiles()).includes("Cyd"), 5000),
        ),
      );
      await cyd.until("is back at the door", () => !document.getElementById("join").hidden);
      times.push(await firstFrameMs(cyd));
      await Promise.all([ada.sees("Cyd"), bob.sees("Cyd"), cyd.sees("Ada"), cyd.sees("Bob")]);
    }
    await allSeeAndHearAll();
    times.sort((a, b) => a - b);
    context.diagnostic(`join to first frame: ${times.map((ms) => `${ms.toFixed(0)} ms`).join(", ")}`);
  });

  test("descriptions do not grow with joins and leaves", async () => {
    // Own microphone and camera, and two of each from the others.
    for (const person of [ada, bob]) {
      const sections = await person.page.evaluate(() => globalThis.shardcast.room.pc.getTransceivers().length);
      assert.ok(sections <= 6, `${person.name} has ${sections} sections`);
    }
  });

  test("a shared screen is a second tile for the others", async () => {
    await ada.page.evaluate(stubScreen);
    await ada.click("#toggle-screen");
    await Promise.all([bob, cyd].map((person) => person.sees("Ada", "screen")));
    await Promise.all([bob, cyd].map((person) => person.sees("Ada", "camera")));
    assert.deepEqual(await bob.tiles("screen"), ["Ada’s screen"]);
    await bob.screenshot("screen.png");
    await ada.click("#toggle-screen");
    for (const person of [bob, cyd]) {
      await until(`the screen leaves ${person.name}'s page`, async () => (await person.tiles("screen")).length === 0);
    }
    await bob.sees("Ada", "camera");
    // Again: the section is used once more.
    await ada.click("#toggle-screen");
    await Promise.all([bob, cyd].map((person) => person.sees("Ada", "screen")));
    // The browser's own "stop sharing".
    await ada.page.evaluate(() => globalThis.shardcast.room.local.get("screen").track.dispatchEvent(new Event("ended")));
    await until("the screen leaves Bob's page again", async () => (await bob.tiles("screen")).length === 0);
  });

  test("a muted microphone and a camera that is off are shown, and come back", async () => {
    const silent = (name) => document.querySelector(`.tile[data-peer="${name}"][data-source="camera"] .tile-silent`)?.hidden === false;
    const pictured = (name) => document.querySelector(`.tile[data-peer="${name}"][data-source="camera"]`)?.classList.contains("picture");
    const id = await bob.page.evaluate(() => globalThis.shardcast.room.self);
    await bob.click("#toggle-mic");
    await bob.click("#toggle-camera");
    for (const person of [ada, cyd]) {
      await person.until("sees that Bob is muted", silent, id);
      await until(`${person.name} sees no camera of Bob's`, async () => !(await person.page.evaluate(pictured, id)));
    }
    assert.equal(await bob.page.evaluate(() => globalThis.shardcast.room.local.get("camera").track), null, "the light is off");
    await ada.screenshot("muted.png");
    await bob.click("#toggle-mic");
    await bob.click("#toggle-camera");
    for (const person of [ada, cyd]) {
      await person.sees("Bob");
      await person.hears("Bob");
      await until(`${person.name} sees that Bob is not muted`, async () => !(await person.page.evaluate(silent, id)));
    }
  });

  test("the panel lists everybody, and how the connection does", async () => {
    await ada.click("#toggle-people");
    await ada.click("#diagnosis summary");
    await ada.until("lists three", () => document.querySelectorAll("#people-list li").length === 3);
    await ada.until("shows the cipher", () => document.getElementById("diagnosis-list").textContent.includes("AEAD AES 128 GCM"));
    await ada.screenshot("panel.png");
    await ada.click("#close-people");
  });

  test("when the server is killed and comes back, so do the pages", async () => {
    const { port } = server;
    await server.stop("SIGKILL");
    for (const person of everybody()) {
      await person.until("tells that the server is gone", () => /server/.test(document.querySelector(".banner:not([hidden])")?.textContent ?? ""));
    }
    await ada.screenshot("server-gone.png");
    server = await startServer({ port });
    await Promise.all(everybody().map((person) => person.joined(25_000)));
    await allSeeAndHearAll();
    for (const person of everybody()) assert.equal(await person.page.$(".banner:not([hidden])"), null);
  });

  test("a server that is told to stop says so and ends with 0", async () => {
    const { port } = server;
    assert.deepEqual(await server.stop("SIGTERM"), { code: 0, signal: null });
    await ada.until("tells why", () => /The server is (restarting|gone)|cannot be reached/.test(document.querySelector(".banner:not([hidden])")?.textContent ?? ""));
    server = await startServer({ port });
    await Promise.all(everybody().map((person) => person.joined(25_000)));
    await allSeeAndHearAll();
  });

  test("no page complained", () => {
    for (const person of everybody()) {
      const errors = person.console.filter((line) => line.startsWith("error:") && !/WebSocket|ERR_CONNECTION|favicon/.test(line));
      assert.deepEqual(errors, [], person.name);
    }
  });
});

/**
 * Presses Join and measures until somebody else's picture is on the page.
 * @param {Demo} person
 */
function firstFrameMs(person) {
  return person.page.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const started = performance.now();
        const observer = new MutationObserver(() => {
          if (!document.querySelector(".tile.picture:not([data-self])")) return;
          observer.disconnect();
          resolve(performance.now() - started);
        });
        observer.observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["class"] });
        setTimeout(() => reject(new Error("no frame within 15 s")), 15_000);
        document.getElementById("join-submit").click();
      }),
  );
}

/** Runs in the page: a screen that needs no picker. */
function stubScreen() {
  navigator.mediaDevices.getDisplayMedia = async () => {
    const canvas = document.createElement("canvas");
    canvas.width = 640;
    canvas.height = 360;
    const context = canvas.getContext("2d");
    let count = 0;
    setInterval(() => {
      context.fillStyle = "#fafafa";
      context.fillRect(0, 0, 640, 360);
      context.fillStyle = "#14181c";
      context.font = "600 40px sans-serif";
      context.fillText(`slide ${(count += 1)}`, 40, 190);
    }, 100);
    return canvas.captureStream(10);
  };
}
