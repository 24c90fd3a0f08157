// Several qualities of one picture: what browsers publish, and what of it arrives.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { launchChromium, launchFirefox } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startServer } from "./lib/server.js";
import { until } from "./lib/wait.js";

/** Chromium sends three sizes from here on; few frames, for a machine with two cores. */
const THREE = { width: "960", height: "540", fps: "6" };
/** Who only watches sends next to nothing. */
const TINY = { width: "160", height: "120", fps: "2" };

describe("qualities", () => {
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

  /** A person on a browser of their own. */
  async function person(name, launch = launchChromium) {
    const browser = await launch();
    browsers.push(browser);
    return new Demo(await browser.page(), name);
  }

  test("Chromium's three sizes are taken, and stay across renegotiation", async () => {
    const [ada, bob, cyd] = await Promise.all(["Ada", "Bob", "Cyd"].map((name) => person(name)));
    await ada.join(server.url, "three", THREE);
    await sendsFrames(ada, ["q", "h", "f"]);
    const streams = await sent(ada);
    for (const { rid, rtxSsrc, active } of streams) assert.ok(rtxSsrc > 0 && active, `${rid} has retransmission`);
    assert.match(await description(ada, "remoteDescription"), /^a=simulcast:recv q;h;f\r$/m);

    // The server's own offer, with sections of Bob's.
    await bob.join(server.url, "three");
    await Promise.all([ada.sees("Bob"), bob.sees("Ada")]);
    assert.match(await description(ada, "currentRemoteDescription"), /^a=simulcast:recv q;h;f\r$/m);
    await sendsFrames(ada, ["q", "h", "f"]);

    // Off and on again: the same section, a new track.
    await ada.click("#toggle-camera");
    await until("Bob is told", async () => !(await pictured(bob, "Ada")));
    await cyd.join(server.url, "three");
    await ada.sees("Cyd");
    await ada.click("#toggle-camera");
    await Promise.all([bob.sees("Ada"), cyd.sees("Ada")]);
    await sendsFrames(ada, ["q", "h", "f"]);
  });

  test("what a page switches off stays off when others come", async () => {
    const [ada, bob] = await Promise.all(["Ada", "Bob"].map((name) => person(name)));
    await ada.join(server.url, "off", THREE);
    await sendsFrames(ada, ["q", "h", "f"]);
    /** As an application does it by itself. */
    const setActive = (rid, active) =>
      ada.page.evaluate(
        (rid, active) => {
          const sender = globalThis.shardcast.room.pc.getSenders().find(({ track }) => track?.kind === "video");
          const parameters = sender.getParameters();
          for (const encoding of parameters.encodings) if (encoding.rid === rid) encoding.active = active;
          return sender.setParameters(parameters);
        },
        rid,
        active,
      );
    await setActive("f", false);
    await bob.join(server.url, "off");
    await ada.sees("Bob");
    const active = async () => (await sent(ada)).filter((each) => each.active).map(({ rid }) => rid).sort();
    assert.deepEqual(await active(), ["h", "q"]);
    await setActive("f", true);
    await sendsFrames(ada, ["q", "h", "f"]);
  });

  test("a picture too small for three sizes is sent in fewer", async () => {
    const ada = await person("Ada");
    await ada.join(server.url, "small", { width: "640", height: "360", fps: "6" });
    const encodings = () => ada.page.evaluate(() => globalThis.shardcast.room.pc.getSenders().find(({ track }) => track?.kind === "video").getParameters().encodings);
    await until("two are encoded", async () => (await sent(ada)).filter(({ framesEncoded }) => framesEncoded > 3).length === 2);
    assert.deepEqual((await encodings()).map(({ rid, active, scaleResolutionDownBy }) => [rid, active, scaleResolutionDownBy]), [["q", true, 2], ["h", true, 1], ["f", false, 1]]);
    // Another camera, in the same sender: three are worth it now.
    await ada.page.evaluate(async (wanted) => {
      const video = Object.fromEntries(Object.entries(wanted).map(([name, value]) => [name === "fps" ? "frameRate" : name, Number(value)]));
      // One device has one size at a time.
      globalThis.shardcast.room.local.get("camera").track.stop();
      const media = await navigator.mediaDevices.getUserMedia({ video });
      await globalThis.shardcast.room.publish(media.getVideoTracks()[0], { source: "camera" });
    }, THREE);
    await sendsFrames(ada, ["q", "h", "f"]);
    assert.deepEqual((await encodings()).map(({ active, scaleResolutionDownBy }) => [active, scaleResolutionDownBy]), [[true, 4], [true, 2], [true, 1]]);
  });

  test("Firefox's three sizes are taken, and Chromium sees it", async () => {
    const [fox, bob] = await Promise.all([person("Fox", launchFirefox), person("Bob")]);
    await fox.join(server.url, "fox", THREE);
    await bob.join(server.url, "fox");
    assert.match(await description(fox, "currentRemoteDescription"), /^a=simulcast:recv q;h;f\r$/m);
    await Promise.all([bob.sees("Fox"), fox.sees("Bob")]);
    await sendsFrames(fox, ["q", "h", "f"]);
    await followsItsTile(bob, "Fox", [240, 960]);
  });

  test("Firefox's decoder follows from one of three sizes to another", async () => {
    const [ada, fox] = await Promise.all([person("Ada"), person("Fox", launchFirefox)]);
    await ada.join(server.url, "to-fox", THREE);
    await fox.join(server.url, "to-fox", TINY);
    await fox.sees("Ada");
    await followsItsTile(fox, "Ada", [240, 960]);
  });

  const LAYERED = [
    ["vp9", "L3T3_KEY", "video/VP9", [240, 960]],
    ["av1", "L2T2_KEY", "video/AV1", [480, 960]],
  ];
  for (const [codec, layers, mimeType, widths] of LAYERED) {
    test(`${mimeType} with layers ${layers} in one stream`, async () => {
      const [ada, bob] = await Promise.all(["Ada", "Bob"].map((name) => person(name)));
      await ada.join(server.url, codec, { ...THREE, codec, layers });
      await bob.join(server.url, codec, TINY);
      await bob.sees("Ada");
      const [stream, ...others] = await sent(ada);
      assert.deepEqual([others.length, stream.mimeType], [0, mimeType]);
      await until(`it sends ${layers}`, async () => (await sent(ada))[0]?.scalabilityMode === layers, 30_000);
      // Of the one stream, layers are left out, and taken in again.
      await followsItsTile(bob, "Ada", widths);
    });
  }

  for (const codec of ["vp9", "h264", "av1"]) {
    test(`three sizes in ${codec}`, async () => {
      const [ada, bob] = await Promise.all(["Ada", "Bob"].map((name) => person(name)));
      await ada.join(server.url, `three-${codec}`, { ...THREE, codec });
      await bob.join(server.url, `three-${codec}`);
      await bob.sees("Ada");
      await sendsFrames(ada, ["q", "h", "f"]);
      assert.ok((await sent(ada)).every(({ mimeType }) => mimeType.toLowerCase() === `video/${codec}`));
      if (codec === "h264") await followsItsTile(bob, "Ada", [240, 960]);
    });
  }

  test("a page that prefers RED goes on with it when others come", async () => {
    const [ada, bob, cyd] = await Promise.all(["Ada", "Bob", "Cyd"].map((name) => person(name)));
    await ada.page.evaluateOnNewDocument(preferRed);
    await ada.join(server.url, "red");
    await bob.join(server.url, "red");
    await Promise.all([bob.hears("Ada"), ada.hears("Bob")]);
    // The statistics call it Opus either way; RED has every frame in it twice. Everybody says the same.
    const plain = await packetBytes(bob, "outbound-rtp");
    const isRed = async (person, way) => {
      const bytes = await packetBytes(person, way);
      assert.ok(bytes > 1.6 * plain, `${person.name}, ${way}: ${bytes} bytes a packet, and ${plain} without RED`);
    };
    await isRed(ada, "outbound-rtp");
    await isRed(bob, "inbound-rtp");
    await cyd.join(server.url, "red");
    await Promise.all([cyd.hears("Ada"), ada.hears("Cyd")]);
    await isRed(ada, "outbound-rtp");
  });
});

/**
 * A small tile gets small pictures, a large one large ones, and they go on.
 * @param {Demo} viewer
 * @param {string} name Of the only other.
 * @param {number[]} widths The smallest and the largest, in pixels.
 */
async function followsItsTile(viewer, name, [smallest, largest]) {
  const comes = async (/** @type {number} */ wanted) => {
    try {
      await until(`pictures ${wanted} pixels wide come`, async () => (await viewer.pictureWidth()) === wanted, 20_000);
    } catch (error) {
      error.message += `\n${await viewer.page.evaluate(explainInPage)}`;
      throw error;
    }
  };
  await comes(largest);
  await viewer.resizeTile("200px", "110px");
  await comes(smallest);
  await viewer.sees(name);
  await viewer.resizeTile();
  await comes(largest);
  await viewer.sees(name);
}

/** Runs in the page: what comes of the other's camera, and what the server says of it. */
function explainInPage() {
  const [peer] = globalThis.shardcast.room.peers.values();
  const camera = [...peer.tracks.values()].find(({ source }) => source === "camera");
  const { videoWidth, clientWidth } = document.querySelector('.tile[data-source="camera"]:not([data-self]) video');
  return JSON.stringify({ videoWidth, clientWidth, quality: camera?.quality });
}

/** The streams a page sends. */
function sent(person) {
  return person.page.evaluate(async () => {
    const stats = await globalThis.shardcast.room.pc.getStats();
    return [...stats.values()]
      .filter((entry) => entry.type === "outbound-rtp" && entry.kind === "video")
      .map(({ rid, active, framesEncoded, rtxSsrc, scalabilityMode, codecId }) => ({
        rid,
        active,
        framesEncoded: framesEncoded ?? 0,
        rtxSsrc,
        scalabilityMode,
        mimeType: stats.get(codecId)?.mimeType,
      }));
  });
}

/**
 * The mean size of the next 100 packets of the sound that a page sends or receives.
 * @param {"inbound-rtp" | "outbound-rtp"} way
 */
async function packetBytes(person, way) {
  const count = () =>
    person.page.evaluate(async (way) => {
      const stats = [...(await globalThis.shardcast.room.pc.getStats()).values()];
      const sound = stats.find(({ type, kind }) => type === way && kind === "audio");
      return sound && { packets: sound.packetsSent ?? sound.packetsReceived, bytes: sound.bytesSent ?? sound.bytesReceived };
    }, way);
  const first = await until("there is sound", count);
  const last = await until("100 packets", async () => {
    const now = await count();
    return now.packets >= first.packets + 100 && now;
  });
  return (last.bytes - first.bytes) / (last.packets - first.packets);
}

/** Waits until new frames of each of these streams are encoded, and there are no others. */
async function sendsFrames(person, rids) {
  const before = new Map((await sent(person)).map(({ rid, framesEncoded }) => [rid, framesEncoded]));
  let now = [];
  await until(
    `${person.name} sends ${rids.join(", ")}`,
    async () => {
      now = await sent(person);
      // A section that stopped and began again counts from the beginning.
      return rids.every((wanted) => {
        const count = now.find(({ rid }) => rid === wanted)?.framesEncoded ?? 0;
        const first = before.get(wanted) ?? 0;
        return count > 2 && (count < first || count > first + 2);
      });
    },
    30_000,
  ).catch((error) => {
    error.message += `\n${JSON.stringify(now)}`;
    throw error;
  });
  assert.deepEqual(now.map(({ rid }) => rid).sort(), [...rids].sort());
}

/** @param {"remoteDescription" | "currentRemoteDescription" | "localDescription"} which */
function description(person, which) {
  return person.page.evaluate((which) => globalThis.shardcast.room.pc[which]?.sdp ?? "", which);
}

/** Whether somebody's camera is shown as published. */
function pictured(person, name) {
  return person.page.evaluate((name) => {
    const peer = [...globalThis.shardcast.room.peers.values()].find((each) => each.name === name);
    return [...(peer?.tracks.values() ?? [])].some(({ source, published }) => source === "camera" && published);
  }, name);
}

/** Runs in the page: its first offer has RED before Opus. */
function preferRed() {
  const { addTransceiver } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.addTransceiver = function (track, init) {
    const transceiver = addTransceiver.call(this, track, init);
    if (transceiver.receiver.track.kind === "audio") {
      const { codecs } = RTCRtpReceiver.getCapabilities("audio");
      const isRed = ({ mimeType }) => mimeType === "audio/red";
      transceiver.setCodecPreferences([...codecs.filter(isRed), ...codecs.filter((codec) => !isRed(codec))]);
    }
    return transceiver;
  };
}
