// Each video codec the server forwards, from Chromium to Chromium: what the publisher prefers is what the
// subscriber decodes.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launchChromium } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startServer } from "./lib/server.js";

/** Makes every description of the page put one codec of a kind first. */
function prefer(kind, mimeType) {
  const arrange = (/** @type {RTCPeerConnection} */ pc) => {
    for (const transceiver of pc.getTransceivers()) {
      if (transceiver.receiver.track.kind !== kind || transceiver.stopped) continue;
      const { codecs } = RTCRtpReceiver.getCapabilities(kind);
      const isFirst = (codec) => codec.mimeType.toLowerCase() === mimeType.toLowerCase();
      transceiver.setCodecPreferences([...codecs.filter(isFirst), ...codecs.filter((codec) => !isFirst(codec))]);
    }
  };
  for (const name of ["createOffer", "setLocalDescription"]) {
    const original = RTCPeerConnection.prototype[name];
    RTCPeerConnection.prototype[name] = function (...args) {
      if (this.signalingState === "stable") arrange(this);
      return original.apply(this, args);
    };
  }
}

/** The MIME types of what a page sends or receives. */
function codecs(person, direction, kind) {
  const ask = async (type, kind) => {
    const stats = await globalThis.shardcast.room.pc.getStats();
    const streams = [...stats.values()].filter((each) => each.type === type && each.kind === kind);
    // Of several sizes those that are not sent have none.
    const types = streams.map(({ codecId }) => stats.get(codecId)?.mimeType);
    return [...new Set(types.filter((type) => type !== undefined))];
  };
  return person.page.evaluate(ask, direction, kind);
}

const CASES = [
  ["video", "video/VP8"],
  ["video", "video/VP9"],
  ["video", "video/H264"],
  ["video", "video/AV1"],
];

describe("codecs", () => {
  let server;
  before(async () => {
    server = await startServer();
  });
  after(() => server?.stop());

  for (const [kind, mimeType] of CASES) {
    test(`${mimeType} from one page to another`, async () => {
      const browsers = await Promise.all([launchChromium(), launchChromium()]);
      try {
        const pages = await Promise.all(browsers.map((browser) => browser.page()));
        await pages[0].evaluateOnNewDocument(prefer, kind, mimeType);
        const [ada, bob] = [new Demo(pages[0], "Ada"), new Demo(pages[1], "Bob")];
        await Promise.all([ada, bob].map((person) => person.join(server.url, mimeType)));
        await Promise.all([bob.sees("Ada"), bob.hears("Ada"), ada.sees("Bob"), ada.hears("Bob")]);
        assert.deepEqual(await codecs(ada, "outbound-rtp", kind), [mimeType]);
        assert.deepEqual(await codecs(bob, "inbound-rtp", kind), [mimeType]);
      } finally {
        await Promise.all(browsers.map((browser) => browser.close()));
      }
    });
  }
});
