// Who speaks, as real browsers' audio levels (RFC 6464) tell it.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launchChromium, launchFirefox } from "./lib/browsers.js";
import { startServer } from "./lib/server.js";
import { until } from "./lib/wait.js";

/** Joins with a tone for a voice and no picture; notes every `active-speakers`. */
async function prepare(/** @type {string} */ peer) {
  globalThis.told = [];
  const Native = globalThis.WebSocket;
  globalThis.WebSocket = class extends Native {
    /** @param {ConstructorParameters<typeof WebSocket>} args */
    constructor(...args) {
      super(...args);
      this.addEventListener("message", ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.event === "active-speakers") globalThis.told.push(frame.data);
      });
    }
  };
  const tone = () => {
    const context = new AudioContext();
    const out = new MediaStreamAudioDestinationNode(context);
    const tone = new OscillatorNode(context, { frequency: 300 });
    tone.connect(new GainNode(context, { gain: 0.5 })).connect(out);
    tone.start();
    return out.stream;
  };
  // Chromium's fake microphone beeps, Firefox's hums; where there is no sound card, Firefox plays nothing.
  const hums = navigator.userAgent.includes("Firefox");
  const stream = hums ? await navigator.mediaDevices.getUserMedia({ audio: true }) : tone();
  const [track] = stream.getAudioTracks();
  track.enabled = false;
  globalThis.voice = track;
  const { Room } = await import("/sdk/room.js");
  globalThis.room = new Room({ room: "speakers", peer, name: peer, tracks: [{ track, source: "microphone" }] });
}

describe("who speaks", () => {
  let server;
  const browsers = [];
  const pages = new Map();

  before(async () => {
    server = await startServer({ args: ["--shards", "2", "--spill-peers", "1"] });
    for (const [name, launch] of [["ada", launchChromium], ["bob", launchChromium], ["fox", launchFirefox]]) {
      const browser = await launch();
      browsers.push(browser);
      const page = await browser.page();
      await page.goto(server.url);
      await page.evaluate(prepare, name);
      pages.set(name, page);
    }
    for (const page of pages.values()) {
      await until("media flows", () => page.evaluate(() => globalThis.room.connection === "connected"), 20_000);
    }
  });
  after(async () => {
    await Promise.all(browsers.map((browser) => browser.close()));
    await server?.stop();
  });

  const speak = (name, aloud) =>
    pages.get(name).evaluate((aloud) => void (globalThis.voice.enabled = aloud), aloud);
  const latest = (name) => pages.get(name).evaluate(() => globalThis.told.at(-1) ?? null);

  test("everybody is told of each speaker in turn, on two shards", async () => {
    for (const speaker of ["ada", "fox", "bob", "ada"]) {
      await speak(speaker, true);
      for (const name of pages.keys()) {
        const isTold = async () => {
          const told = await latest(name);
          return told?.dominant === speaker && told.speakers[0].peer_id === speaker;
        };
        await until(`${name} is told of ${speaker}`, isTold, 15_000);
      }
      const { speakers } = await latest("bob");
      assert.ok(speakers[0].level > 0 && speakers[0].level < 40, `level ${speakers[0].level}`);
      await speak(speaker, false);
    }
  });

  test("silence is told of, and leaves the last speaker with the floor", async () => {
    const isSilent = async () => (await latest("fox")).speakers.length === 0;
    await until("nobody talks", isSilent, 15_000);
    assert.equal((await latest("fox")).dominant, "ada");
  });
});
