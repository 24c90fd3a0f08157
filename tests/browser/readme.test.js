// The README's examples, as they stand there, in pages of their own.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { launchChromium } from "./lib/browsers.js";
import { startServer } from "./lib/server.js";
import { serveFiles } from "./lib/static.js";
import { until } from "./lib/wait.js";

const roots = ["../../web", "pages"].map((path) => fileURLToPath(new URL(path, import.meta.url)));

describe("the README's examples", () => {
  let server, files;
  const people = [];
  /** @type {string[]} */ let examples;

  before(async () => {
    const readme = await readFile(new URL("../../README.md", import.meta.url), "utf8");
    examples = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code);
    server = await startServer();
    // As with a proxy in front: pages from elsewhere, WebSockets to the server.
    files = await serveFiles(roots, { host: "localhost", upgradesTo: server.port });
    for (const name of ["Ada", "Bob"]) {
      const browser = await launchChromium();
      const page = await browser.page();
      const said = [];
      page.on("console", (message) => said.push(message.text()));
      page.on("pageerror", (error) => said.push(`error: ${error.message}`));
      people.push({ name, browser, page, said });
    }
  });
  after(async () => {
    await Promise.all(people.map(({ browser }) => browser.close()));
    await files?.close();
    await server?.stop();
  });

  test("there are two, and the first is a whole call in few lines", () => {
    assert.equal(examples.length, 2);
    assert.ok(examples[0].trim().split("\n").length <= 20);
  });

  test("two people who run them see and hear each other, and are told what they get", async () => {
    for (const { name, page } of people) {
      await page.goto(`${files.url}/blank.html`);
      if (name === "Ada") await page.evaluate(humInPage);
      // Both are one module: the second goes on where the first ends. The room is named for this test to look at.
      const content = `${examples.join("\n").replace('"Ada"', JSON.stringify(name))}\nglobalThis.room = room;`;
      await page.addScriptTag({ type: "module", content });
    }
    for (const { name, page, said } of people) {
      const players = () =>
        page.evaluate(async () => {
          const report = await globalThis.room?.pc?.getStats();
          const inbound = [...(report?.values() ?? [])].filter(({ type }) => type === "inbound-rtp");
          return {
            videos: [...document.querySelectorAll("video")].filter(({ videoWidth, paused }) => videoWidth > 0 && !paused).length,
            sounds: [...document.querySelectorAll("audio")].filter(({ paused }) => !paused).length,
            frames: inbound.find(({ kind }) => kind === "video")?.framesDecoded ?? 0,
            energy: inbound.find(({ kind }) => kind === "audio")?.totalAudioEnergy ?? 0,
          };
        });
      await until(
        `${name} sees and hears the other`,
        async () => {
          const { videos, sounds, frames, energy } = await players();
          return videos === 1 && sounds === 1 && frames > 10 && energy > 0;
        },
        20_000,
      ).catch((error) => {
        error.message += `\nconsole of ${name}: ${said.join("\n")}`;
        throw error;
      });
      const quality = () => page.evaluate(() => [...globalThis.room.peers.values()].flatMap(({ tracks }) => [...tracks.values()]).find(({ kind }) => kind === "video")?.quality?.reason);
      await until(`${name} is told what it gets`, quality);
      assert.deepEqual(said.filter((line) => line.startsWith("error")), []);
    }
    const [{ page: ada }, { page: bob, said }] = people;
    const speaker = await ada.evaluate(() => globalThis.room.self);
    await until("Bob is told that Ada speaks", () => bob.evaluate((speaker) => globalThis.room.speakers?.dominant === speaker, speaker), 10_000);
    assert.ok(said.some((line) => line.startsWith(speaker)), `the example says so: ${said}`);
  });

  test("who leaves is taken off the page", async () => {
    const [ada, bob] = people;
    await bob.page.evaluate(() => globalThis.room.leave());
    await until("Ada's page is empty", () => ada.page.evaluate(() => document.querySelectorAll("video, audio").length === 0), 5000);
  });
});

/** Runs in the page: a microphone that hears somebody talk; the fake one only beeps now and then. */
function humInPage() {
  const getUserMedia = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (constraints) => {
    const stream = await getUserMedia(constraints);
    for (const track of stream.getAudioTracks()) stream.removeTrack(track);
    const context = new AudioContext();
    const out = new MediaStreamAudioDestinationNode(context);
    const tone = new OscillatorNode(context, { frequency: 300 });
    tone.connect(new GainNode(context, { gain: 0.5 })).connect(out);
    tone.start();
    stream.addTrack(out.stream.getAudioTracks()[0]);
    return stream;
  };
}
