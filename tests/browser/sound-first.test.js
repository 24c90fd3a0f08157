// Pictures of one size that take more than the rate the server begins with, for somebody who has received nothing but
// sound so far: padding on a retransmission stream alone has to show that they would fit, before the first picture.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launchChromium, launchFirefox } from "./lib/browsers.js";
import { startServer } from "./lib/server.js";
import { until } from "./lib/wait.js";

/** What the server begins with is 300 kbit/s. */
const PICTURES_BPS = 500_000;

describe("sound before pictures", () => {
  let server;
  const browsers = [];
  before(async () => {
    server = await startServer();
  });
  after(async () => {
    await Promise.all(browsers.map((browser) => browser.close()));
    await server?.stop();
  });

  for (const [name, launch] of [["Chromium", launchChromium], ["Firefox", launchFirefox]]) {
    test(`${name} sees pictures that were paused when it joined`, async (context) => {
      const [viewer, publisher] = [await launch(), await launchChromium()];
      browsers.push(viewer, publisher);
      const [watching, showing] = await Promise.all([viewer, publisher].map((browser) => browser.page()));
      await Promise.all([watching, showing].map((page) => page.goto(server.url)));
      await showing.evaluate(publishStill, name);
      await watching.evaluate(watch, name);
      const told = async () => {
        const response = await fetch(`${server.url}/api/v1/rooms/${name}/peers/viewer/subscriptions`);
        const { estimate_bps: estimate, subscriptions = [] } = await response.json();
        return { estimate, ...subscriptions.find(({ kind }) => kind === "video") };
      };
      const look = async () => ({ told: await told(), received: await watching.evaluate(received) });
      /** What holds of what the server tells and the viewer has received. */
      const comes = (what, holds, ms) => until(what, async () => {
        const seen = await look();
        return holds(seen.told, seen.received) && seen;
      }, ms).catch(async (error) => {
        error.message += `\n${JSON.stringify(await look())}`;
        throw error;
      });
      await comes("sound flows, pictures are described", ({ track_id: track }, { sounds }) => track && sounds > 20, 15_000);
      await watching.evaluate((track) => globalThis.room.subscribe([{ peer: "publisher", track, paused: true }]), (await told()).track_id);
      await comes("the pause is known", ({ wanted }) => wanted.paused, 5000);
      await showing.evaluate(() => globalThis.draw());
      const before = await comes("what pictures take is known", ({ next_layer_bps: bps }) => bps > PICTURES_BPS, 20_000);
      context.diagnostic(JSON.stringify(before));
      assert.equal(before.received.pictures, 0, "there was no picture yet");
      await watching.evaluate((track) => globalThis.room.subscribe([{ peer: "publisher", track, paused: false }]), before.told.track_id);
      context.diagnostic(JSON.stringify(await comes("pictures are shown", (_, { frames }) => frames > 10, 15_000)));
      await Promise.all([viewer, publisher].map((browser) => browser.close()));
    });
  }
});

/** Runs in Chromium: sound at once; pictures, of noise, when `draw` is called. */
async function publishStill(room) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 480, height: 360 });
  const context = canvas.getContext("2d");
  const [video] = canvas.captureStream(0).getVideoTracks();
  const [audio] = (await navigator.mediaDevices.getUserMedia({ audio: true })).getTracks();
  globalThis.draw = () => {
    setInterval(() => {
      for (let count = 0; count < 300; count += 1) {
        context.fillStyle = `hsl(${Math.random() * 360} 80% ${Math.random() * 100}%)`;
        context.fillRect(Math.random() * 480, Math.random() * 360, 24, 24);
      }
      video.requestFrame();
    }, 100);
  };
  const { connect } = await import("/sdk/shardcast.js");
  globalThis.room = connect({ room, peer: "publisher", tracks: [{ track: audio }, { track: video, simulcast: false, maxBitrate: 1_200_000 }] });
}

/** Runs in the viewer: plays what comes. */
async function watch(room) {
  const { connect } = await import("/sdk/shardcast.js");
  globalThis.room = connect({ room, peer: "viewer" });
  const video = Object.assign(document.createElement("video"), { muted: true, autoplay: true });
  document.body.replaceChildren(video);
  globalThis.room.addEventListener("peers", () => {
    const tracks = [...(globalThis.room.peers.get("publisher")?.tracks.values() ?? [])];
    const media = tracks.map((track) => track.media).filter(Boolean);
    if (media.length !== video.srcObject?.getTracks().length) video.srcObject = new MediaStream(media);
  });
}

/** Runs in the viewer. */
async function received() {
  const entries = [...((await globalThis.room.pc?.getStats())?.values() ?? [])].filter(({ type }) => type === "inbound-rtp");
  const [sound, picture] = ["audio", "video"].map((wanted) => entries.find(({ kind }) => kind === wanted));
  return { sounds: sound?.packetsReceived ?? 0, pictures: picture?.framesReceived ?? picture?.framesDecoded ?? 0, frames: picture?.framesDecoded ?? 0 };
}
