// Who has received nothing but sound is probed before the first picture: padding on a retransmission stream alone has to
// show its browser's receiver, and so the server, that pictures would fit.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launchChromium, launchFirefox } from "./lib/browsers.js";
import { startServer } from "./lib/server.js";
import { until } from "./lib/wait.js";

/** What the server begins with is 300 kbit/s. */
const PROBED_BPS = 600_000;

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
    test(`${name} reports on padding before it has had a picture`, async (context) => {
      const [viewer, publisher] = [await launch(), await launchChromium()];
      browsers.push(viewer, publisher);
      const [watching, showing] = await Promise.all([viewer, publisher].map((browser) => browser.page()));
      await Promise.all([watching, showing].map((page) => page.goto(server.url)));
      await showing.evaluate(publishStill, name);
      await watching.evaluate(watch, name);
      const look = async () => {
        const path = `/api/v1/rooms/${name}/peers/viewer/subscriptions`;
        const { estimate_bps: estimate } = await (await fetch(`${server.url}${path}`)).json();
        return { estimate, ...(await watching.evaluate(received)) };
      };
      const probed = await until("the estimate is above the start rate", async () => {
        const seen = await look();
        assert.equal(seen.pictures, 0, "there is no picture yet");
        return seen.sounds > 50 && seen.estimate > PROBED_BPS && seen;
      }, 10_000).catch(async (error) => {
        error.message += `\n${JSON.stringify(await look())}`;
        throw error;
      });
      context.diagnostic(JSON.stringify(probed));
      await showing.evaluate(() => globalThis.draw());
      await until("pictures are shown", async () => (await look()).frames > 10, 20_000);
      await Promise.all([viewer, publisher].map((browser) => browser.close()));
    });
  }
});

/** Runs in Chromium: sound at once; pictures, of noise, when `draw` is called. */
async function publishStill(room) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 240 });
  const context = canvas.getContext("2d");
  const [video] = canvas.captureStream(0).getVideoTracks();
  const { tracks: [audio] } = { tracks: (await navigator.mediaDevices.getUserMedia({ audio: true })).getTracks() };
  globalThis.draw = () => {
    setInterval(() => {
      for (let count = 0; count < 200; count += 1) {
        context.fillStyle = `hsl(${Math.random() * 360} 80% ${Math.random() * 100}%)`;
        context.fillRect(Math.random() * 320, Math.random() * 240, 24, 24);
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
