// The SDK alone, against a server made of the browser's own transport (pages/fake-server.js).

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { launchChromium, launchFirefox } from "./lib/browsers.js";
import { serveFiles } from "./lib/static.js";

const roots = ["../../web", "pages"].map((path) => fileURLToPath(new URL(path, import.meta.url)));

for (const [name, launch] of [["Chromium", launchChromium], ["Firefox", launchFirefox]]) {
  describe(`SDK in ${name}`, () => {
    let files, browser, page;
    before(async () => {
      files = await serveFiles(roots, { host: "localhost" });
      browser = await launch();
      page = await browser.page();
    });
    after(async () => {
      await browser?.close();
      await files?.close();
    });
    beforeEach(async () => {
      await page.goto(`${files.url}/sdk.html`);
      await page.evaluate(prepare);
    });

    /** Runs a test in the page, with what `prepare` put there. */
    const inPage = (title, run) =>
      test(title, async () => {
        const result = await page.evaluate(run);
        assert.equal(result, undefined);
      });

    inPage("two rooms see each other, each by one offer", async () => {
      const [ada, bob] = [join("ada", ["audio", "video"]), join("bob é/1", ["audio", "video"])];
      await until("ada has bob's picture", () => playing(ada, "bob é/1", "camera"));
      await until("bob has ada's picture", () => playing(bob, "ada", "camera"));
      await until("and both sound", () => receiving(ada, "bob é/1", "microphone") && receiving(bob, "ada", "microphone"));
      check(ada.peers.get("bob é/1").name === "name of bob é/1", "the name comes along");
      check(server.find("ada").lastOffer.match(/^m=/gm).length === 2, "the first offer holds both tracks");
    });

    inPage("a viewer without media is offered the room", async () => {
      const [ada, eve] = [join("ada", ["audio", "video"]), join("eve", [])];
      await until("eve has ada's picture", () => playing(eve, "ada", "camera"));
      check(ada.peers.get("eve").tracks.size === 0, "eve publishes nothing");
      await eve.publish(track("video"), { source: "camera" });
      await until("a viewer may publish later", () => playing(ada, "eve", "camera"));
    });

    inPage("muting is told to others and reversed in the same section", async () => {
      const [ada, bob] = [join("ada", ["audio", "video"]), join("bob", ["audio"])];
      await until("bob hears ada", () => receiving(bob, "ada", "microphone"));
      await ada.setMuted("microphone", true);
      check(ada.local.get("microphone").track.enabled === false, "silent at once");
      await until("bob is told", () => !published(bob, "ada", "microphone"));
      await ada.setMuted("microphone", false);
      await until("bob hears ada again", () => receiving(bob, "ada", "microphone"));
      await until("stable", () => ada.pc.signalingState === "stable");
      check(ada.pc.getTransceivers().length === 3, "ada's description has not grown");
    });

    inPage("camera off, camera on, a screen beside it", async () => {
      const [ada, bob] = [join("ada", ["audio", "video"]), join("bob", ["audio"])];
      await until("the camera", () => playing(bob, "ada", "camera"));
      await ada.publish(track("video"), { source: "screen" });
      await until("the screen", () => playing(bob, "ada", "screen"));
      await ada.unpublish("camera");
      await until("the camera goes, the screen stays", () => !published(bob, "ada", "camera") && playing(bob, "ada", "screen"));
      await ada.publish(track("video"), { source: "camera" });
      await until("the camera is back and still a camera", () => playing(bob, "ada", "camera") && playing(bob, "ada", "screen"));
      await ada.unpublish("screen");
      await until("the screen goes", () => !published(bob, "ada", "screen"));
      check(playing(bob, "ada", "camera"), "the camera stays");
    });

    inPage("a recycled section shows its new publisher", async () => {
      const bob = join("bob", ["audio"]);
      for (const name of ["ada", "cyd", "dan"]) {
        const other = join(name, ["audio", "video"]);
        await until(`bob sees ${name}`, () => playing(bob, name, "camera") && receiving(bob, name, "microphone"));
        other.leave();
        await until(`${name} goes`, () => !bob.peers.has(name));
      }
      await until("stable", () => bob.pc.signalingState === "stable");
      check(bob.pc.getTransceivers().length === 3, `three sections, not ${bob.pc.getTransceivers().length}`);
    });

    inPage("offers that collide are all settled", async () => {
      const rooms = ["ada", "bob", "cyd"].map((name) => join(name, ["audio", "video"]));
      await until("all see all", () => rooms.every((room) => rooms.every((other) => other === room || playing(room, other.self, "camera"))));
      server.delayMs = 40;
      for (let round = 0; round < 8; round += 1) {
        for (const room of rooms) void room.setMuted("microphone", round % 2 === 0);
        for (const room of rooms) {
          if (round % 2 === 0) void room.publish(track("video"), { source: "screen" });
          else void room.unpublish("screen");
        }
        await new Promise((resolve) => setTimeout(resolve, 30 * round));
      }
      check([...server.sessions].some(({ ignoredOffers }) => ignoredOffers > 0), "offers did collide");
      await until("unmuted, no screens", () =>
        rooms.every((room) => rooms.every((other) => other === room || (published(room, other.self, "microphone") && !published(room, other.self, "screen")))),
      );
      await until("pictures and sound", () =>
        rooms.every((room) => rooms.every((other) => other === room || (playing(room, other.self, "camera") && receiving(room, other.self, "microphone")))),
      );
    });

    inPage("a lost server is found again, tracks and all", async () => {
      const [ada, bob] = [join("ada", ["audio", "video"]), join("bob", ["audio", "video"])];
      await until("they meet", () => playing(ada, "bob", "camera") && playing(bob, "ada", "camera"));
      server.down = true;
      server.dropAll();
      await until("they notice", () => ada.state === "reconnecting" && bob.state === "reconnecting");
      await until("they try and fail", () => ada.retry?.attempt > 2 && ada.reason.code === "unreachable");
      server.down = false;
      ada.retryNow();
      await until("they meet again", () => playing(ada, "bob", "camera") && playing(bob, "ada", "camera"));
      check(ada.state === "joined" && ada.reason === null, "and are joined");
    });

    inPage("whoever is replaced stays away and knows why", async () => {
      const first = join("ada", ["audio"]);
      await until("joined", () => first.state === "joined");
      const second = join("ada", ["audio"]);
      await until("closed", () => first.state === "closed");
      check(first.reason.code === "replaced", first.reason.code);
      await until("the second is in", () => second.state === "joined");
      await new Promise((resolve) => setTimeout(resolve, 1500));
      check(first.state === "closed" && second.state === "joined", "no fight over the place");
    });
  });
}

/** Runs in the page: makes `join`, `until` and friends globals there. */
async function prepare() {
  const { connect } = await import("/sdk/shardcast.js");
  const { FakeSocket, server } = await import("/fake-server.js");
  globalThis.WebSocket = FakeSocket;
  const media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 320, height: 240, frameRate: 10 } });
  /** Videos by the track they show. */
  const frames = new Map();

  const find = (room, peer, source) =>
    [...(room.peers.get(peer)?.tracks.values() ?? [])].find((each) => each.source === source);
  const published = (room, peer, source) => find(room, peer, source)?.published ?? false;
  const receiving = (room, peer, source) => published(room, peer, source) && find(room, peer, source).media !== null;
  Object.assign(globalThis, {
    server,
    published,
    receiving,
    track: (kind) => media.getTracks().find((each) => each.kind === kind).clone(),
    join: (peer, kinds) =>
      connect({ room: "room", peer, name: `name of ${peer}`, tracks: kinds.map((kind) => ({ track: globalThis.track(kind) })) }),
    /** Whether new frames of this track have come since it was first asked for. */
    playing(room, peer, source) {
      if (!receiving(room, peer, source)) return false;
      const key = `${room.self} ${peer} ${source}`;
      const { media } = find(room, peer, source);
      let seen = frames.get(key);
      if (seen?.media !== media || seen.pc !== room.pc) {
        const video = document.createElement("video");
        video.muted = true;
        video.srcObject = new MediaStream([media]);
        seen = { media, pc: room.pc, count: 0 };
        frames.set(key, seen);
        const onFrame = () => {
          seen.count += 1;
          video.requestVideoFrameCallback(onFrame);
        };
        video.requestVideoFrameCallback(onFrame);
        document.body.replaceChildren(...[...document.body.children].slice(-20), video);
        void video.play();
      }
      return seen.count > 2;
    },
    check(condition, what) {
      if (!condition) throw new Error(what);
    },
    async until(what, ask) {
      const deadline = Date.now() + 12_000;
      while (!(await ask())) {
        if (Date.now() > deadline) throw new Error(`not within 12 s: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 40));
      }
    },
  });
}
