// The page's pure parts, without a browser.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { inviteLink, parseFlags } from "../../web/flags.js";
import { bestGrid } from "../../web/layout.js";
import { captureMessages, roomMessage } from "../../web/messages.js";
import { hue, initials, suggestRoom } from "../../web/names.js";
import { explain } from "../../web/quality.js";
import { backoffMs } from "../../web/sdk/backoff.js";
import { adjusted, encodingsOf, preferring } from "../../web/sdk/encodings.js";
import { hasMedia, receivedSections, renameTracks } from "../../web/sdk/sdp.js";
import { diagnose } from "../../web/sdk/stats.js";
import { CONNECT_TIMEOUT_MS, ConnectionWatch, RECOVERY_TIMEOUT_MS } from "../../web/sdk/watch.js";
import { tilesOf } from "../../web/tiles.js";

const section = (kind, port, ...attributes) => [`m=${kind} ${port} UDP/TLS/RTP/SAVPF 96`, ...attributes.map((line) => `a=${line}`)];
const sdp = (...sections) => ["v=0", "o=- 1 1 IN IP4 0.0.0.0", "s=-", "t=0 0", ...sections.flat(), ""].join("\r\n");

describe("session descriptions", () => {
  test("a section is somebody's when the server sends in it and says whose", () => {
    const cases = [
      ["sent", section("video", 9, "mid:3", "sendonly", "msid:ada cam"), [["3", "video", "ada", "cam"]]],
      ["both ways", section("audio", 9, "mid:0", "sendrecv", "msid:ada mic"), [["0", "audio", "ada", "mic"]]],
      ["direction left out means both ways", section("audio", 9, "mid:0", "msid:ada mic"), [["0", "audio", "ada", "mic"]]],
      ["encoded ids", section("audio", 9, "mid:0", "sendonly", "msid:Zo%C3%AB%20%25 a%3Ab"), [["0", "audio", "Zoë %", "a:b"]]],
      ["an encoding that is none stands for itself", section("audio", 9, "mid:0", "sendonly", "msid:100% t"), [["0", "audio", "100%", "t"]]],
      ["only waiting for its bundle", section("video", 0, "mid:1", "bundle-only", "sendonly", "msid:ada cam"), [["1", "video", "ada", "cam"]]],
      ["rejected", section("video", 0, "mid:1", "sendonly", "msid:ada cam"), []],
      ["recycled, idle", section("video", 9, "mid:1", "inactive", "msid:ada cam"), []],
      ["ours", section("video", 9, "mid:1", "recvonly", "msid:ada cam"), []],
      ["nobody's", section("video", 9, "mid:1", "sendonly"), []],
      ["no stream", section("video", 9, "mid:1", "sendonly", "msid:- cam"), []],
      ["data", section("application", 9, "mid:2", "sendrecv", "msid:ada cam"), []],
    ];
    for (const [what, lines, expected] of cases) {
      const found = receivedSections(sdp(section("audio", 9, "mid:z", "inactive"), lines));
      assert.deepEqual(found.map(({ mid, kind, peer, track }) => [mid, kind, peer, track]), expected, what);
    }
  });

  test("only the named sections are renamed, in both ways of saying it", () => {
    const before = sdp(
      section("audio", 9, "mid:0", "sendonly", "msid:s t0", "ssrc:1 cname:x", "ssrc:1 msid:s t0"),
      section("video", 9, "mid:1", "sendonly", "msid:- t1"),
      section("video", 9, "mid:2", "sendonly", "msid:s t2"),
      section("video", 9, "mid:3", "recvonly"),
    );
    const after = renameTracks(before, new Map([["0", "microphone-1"], ["1", "camera-1"], ["3", "none"]]));
    assert.equal(
      after,
      before
        .replace("msid:s t0\r\na=ssrc", "msid:s microphone-1\r\na=ssrc")
        .replace("ssrc:1 msid:s t0", "ssrc:1 msid:s microphone-1")
        .replace("msid:- t1", "msid:- camera-1"),
    );
    assert.equal(renameTracks(before, new Map()), before);
  });
});

test("media is to flow where a section is not rejected", () => {
  assert.ok(!hasMedia(sdp()));
  assert.ok(!hasMedia(sdp(section("audio", 0, "mid:0"), section("video", 0, "mid:1"))));
  assert.ok(hasMedia(sdp(section("audio", 0, "mid:0"), section("video", 9, "mid:1", "inactive"))));
});

describe("a media connection comes about and comes back in bounded time, or is given up", () => {
  /** Each step: a description (`expect`), a state, or milliseconds that pass. */
  const cases = [
    ["nothing is expected of it yet", [60_000], []],
    ["connected in time", ["expect", "connecting", 14_999, "connected", 60_000], []],
    ["new for ever", ["expect", 14_999], [], 1, ["media-timeout"]],
    ["connecting for ever", ["expect", 5_000, "connecting", 9_999], [], 1, ["media-timeout"]],
    ["further descriptions and states make it no longer", ["expect", 10_000, "expect", "connecting", 4_000, "expect", 999], [], 1, ["media-timeout"]],
    ["connecting before any description", ["connecting", 14_999], [], 1, ["media-timeout"]],
    ["failed before: a restart, in what is left", ["expect", "connecting", 14_000, "failed", "connecting", 999], ["restart"], 1, ["restart", "media-timeout"]],
    ["failed again and again", ["expect", 5_000, "failed", 3_000, "connecting", 3_000, "failed", 3_999], ["restart", "restart"], 1, ["restart", "restart", "media-timeout"]],
    ["lost, and back", ["expect", "connected", 60_000, "disconnected", 20_000, "failed", "connecting", 5_000, "connected", 60_000], ["restart"]],
    ["lost for good", ["expect", "connected", "disconnected", "failed", "connecting", 9_999], ["restart"], 1, ["restart", "media-failed"]],
    ["lost, described anew, and back", ["expect", "connected", "disconnected", "expect", 20_000, "connected", 60_000], []],
    ["described anew while connected", ["expect", "connected", "expect", 60_000], []],
    ["closed", ["expect", "connecting", "closed", 60_000], []],
    ["stopped", ["expect", "connecting", "stop", 60_000], []],
  ];
  for (const [what, steps, before, ms = 0, after = before] of cases) {
    test(what, ({ mock }) => {
      mock.timers.enable({ apis: ["setTimeout"] });
      const happened = [];
      const watch = new ConnectionWatch({ restart: () => happened.push("restart"), onBroken: (code) => happened.push(code) });
      for (const step of steps) {
        if (typeof step === "number") mock.timers.tick(step);
        else if (step === "expect" || step === "stop") watch[step]();
        else watch.onState(step);
      }
      assert.deepEqual(happened, before);
      mock.timers.tick(ms);
      assert.deepEqual(happened, after);
      mock.timers.tick(600_000);
      assert.deepEqual(happened, after, "once");
    });
  }
  test("the times", () => assert.deepEqual([CONNECT_TIMEOUT_MS, RECOVERY_TIMEOUT_MS], [15_000, 10_000]));
});

test("waits grow, are capped and scattered", () => {
  const earliest = () => 0;
  const latest = () => 1;
  assert.deepEqual([1, 2, 3].map((attempt) => backoffMs(attempt, latest)), [500, 1000, 2000]);
  assert.deepEqual([1, 2, 3].map((attempt) => backoffMs(attempt, earliest)), [250, 500, 1000]);
  assert.equal(backoffMs(1000, latest), 10_000);
});

test("a grid fits its area and wastes as little as it can", () => {
  const options = { gap: 10, narrowest: 3 / 4, widest: 16 / 9 };
  for (const [width, height] of [[1280, 640], [366, 700], [800, 800], [2000, 300]]) {
    for (let count = 1; count <= 30; count += 1) {
      const grid = bestGrid(count, width, height, options);
      const rows = Math.ceil(count / grid.columns);
      const what = `${count} in ${width}×${height}: ${JSON.stringify(grid)}`;
      assert.ok(grid.columns * grid.width + (grid.columns - 1) * 10 <= width, what);
      assert.ok(rows * grid.height + (rows - 1) * 10 <= height, what);
      const aspect = grid.width / grid.height;
      assert.ok(aspect > 0.72 && aspect < 1.85, what);
    }
  }
  assert.equal(bestGrid(2, 1280, 640, options).columns, 2, "side by side on a desktop");
  assert.equal(bestGrid(2, 366, 700, options).columns, 1, "one above the other on a phone");
  assert.equal(bestGrid(4, 1280, 640, options).columns, 2);
});

test("names", () => {
  const cases = [["Ada Lovelace", "AL"], ["grace", "G"], ["Katherine Coleman Goble Johnson", "KJ"], ["", "·"], ["  ", "·"], ["😀 x", "😀X"]];
  for (const [name, expected] of cases) assert.equal(initials(name), expected);
  const hues = new Set(Array.from({ length: 50 }, (_, index) => Math.floor(hue(`p${index}`) / 30)));
  assert.ok(hues.size >= 10, `ids that are alike get different colours: ${[...hues]}`);
  assert.match(suggestRoom(), /^[a-z]+-[a-z]+-\d{4}$/);
});

test("the address", () => {
  assert.deepEqual(parseFlags("?room=a%20b&name=%C3%89&join=1&width=320&height=x&fps=-1"), {
    room: "a b", name: "É", peer: null, join: true, codec: null, layers: null, simulcast: true, width: 320, height: 720, fps: 30,
  });
  globalThis.location = new URL("https://example.org/?peer=x&join=1");
  assert.equal(inviteLink("a b&c"), "https://example.org/?room=a+b%26c");
  delete globalThis.location;
});

test("a camera is sent in three sizes, a screen in two, and never more than they are worth", () => {
  const of = (source, width, height, options, frameRate = 30) =>
    encodingsOf(source, { width, height, frameRate }, options).map(({ rid = "-", active, maxBitrate, scalabilityMode, maxFramerate }) =>
      [rid, active ? Math.round(maxBitrate / 1000) : "off", scalabilityMode, maxFramerate].filter((each) => each !== undefined).join(" "),
    );
  assert.deepEqual(of("camera", 1280, 720), ["q 160 L1T3", "h 500 L1T3", "f 1700 L1T3"]);
  assert.deepEqual(of("camera", 640, 360, {}, 15), ["q 113 L1T3", "h 354 L1T3", "f off L1T3"], "their number never changes");
  assert.deepEqual(of("camera", 320, 240), ["q 198 L1T3", "h off L1T3", "f off L1T3"]);
  assert.deepEqual(of("screen", 1920, 1080), ["h 367 L1T3 5", "f 3200 L1T3"]);
  assert.deepEqual(of("screen", 320, 200), ["h 173 L1T3", "f off L1T3"]);
  const divisors = encodingsOf("camera", { width: 640, height: 360, frameRate: 30 }).map(({ scaleResolutionDownBy }) => scaleResolutionDownBy);
  assert.deepEqual(divisors, [2, 1, 1]);
  // Room for every layer, whatever the frame rate.
  for (const frameRate of [5, 15, 30]) assert.deepEqual(of("camera", 1280, 720, { codec: "vp9", scalabilityMode: "L3T3_KEY" }, frameRate), ["- 1770 L3T3_KEY"]);
  assert.deepEqual(of("screen", 960, 540, { codec: "av1", scalabilityMode: "L2T2_KEY" }, 5), ["- 781 L2T2_KEY"]);
  assert.deepEqual(of("camera", 1280, 720, { simulcast: false, scalabilityMode: "L1T2" }), ["- 1700 L1T2"]);
  assert.deepEqual(of("camera", 1280, 720, { maxBitrate: 300_000 }), ["q 160 L1T3", "h 300 L1T3", "f 300 L1T3"]);
  const rates = [[8, 8], [160, 90], [1920, 1080], [7680, 4320]].map(([width, height]) => encodingsOf("camera", { width, height, frameRate: 60 }).at(-1).maxBitrate);
  assert.ok(rates.every((rate, index) => rate >= (rates[index - 1] ?? 30_000)), `more for more: ${rates}`);
});

test("what nobody wants is not encoded", () => {
  const planned = [{ rid: "q", active: false, maxBitrate: 1 }, { rid: "h", active: true, maxBitrate: 2 }, { rid: "f", active: true }];
  const current = [{ rid: "q", active: true, priority: "low" }, { rid: "h", active: true }, { rid: "f", active: false, maxBitrate: 9 }];
  const active = (wanted) => adjusted(current, planned, wanted).map((each) => each.active);
  assert.deepEqual(active([]), [false, true, true]);
  assert.deepEqual(active([{ index: 2, rid: "f", wanted: false }]), [false, true, false]);
  assert.deepEqual(active([{ index: 0, rid: "q", wanted: true }, { index: 1, wanted: false }]), [false, false, true]);
  assert.deepEqual(adjusted(current, planned, []).map(({ maxBitrate }) => maxBitrate), [1, 2, 9]);
  assert.equal(adjusted(current, planned, [])[0].priority, "low", "the rest stays");
  assert.deepEqual(adjusted([{ active: true }], [{ active: true, maxBitrate: 5 }], [{ index: 0, wanted: false }]), [{ active: false, maxBitrate: 5 }]);
});

test("where simulcast is refused, the one stream is the best one", () => {
  const planned = encodingsOf("camera", { width: 320, height: 240, frameRate: 30 });
  const [only] = adjusted([{ rid: "q", active: false, scaleResolutionDownBy: 4, maxBitrate: 1 }], planned, []);
  assert.deepEqual([only.active, only.scaleResolutionDownBy, only.maxBitrate], [true, 1, planned[0].maxBitrate]);
});

test("the preferred codec comes first and no other is lost", () => {
  const codecs = ["video/VP8", "video/rtx", "video/VP9", "video/H264", "video/VP9"].map((mimeType) => ({ mimeType }));
  const order = preferring(codecs, "vp9").map(({ mimeType }) => mimeType.slice(6));
  assert.deepEqual(order, ["VP9", "VP9", "VP8", "rtx", "H264"]);
  assert.deepEqual(preferring(codecs, "none"), codecs);
});

test("every quality has its words", () => {
  const quality = { layer: { encoding: 0, spatial: 0, temporal: 2 }, reason: "bandwidth", availableBps: 180_000, layerBps: 150_000, nextLayerBps: 500_000, width: 320, height: 180 };
  const say = (changes, shown) => {
    const { bars, tone, text } = explain({ ...quality, ...changes }, shown);
    return `${bars} ${tone}: ${text}`;
  };
  assert.equal(say({}), "1 limited: Low: 180 kbit/s available, the next layer needs 500.");
  assert.equal(say({ availableBps: 940_000, nextLayerBps: 1_700_000, layer: { encoding: 1, spatial: 0, temporal: 0 } }), "2 limited: Medium: 0.9 Mbit/s available, the next layer needs 1.7.");
  assert.equal(say({ layer: null, nextLayerBps: 150_000, availableBps: 40_000 }), "0 limited: No picture: 40 kbit/s available, the lowest layer needs 150.");
  assert.equal(say({ availableBps: 510_000 }), "1 limited: Low: 510 kbit/s available, and 500 would do for the next layer, which comes if that lasts.");
  assert.equal(say({ reason: "best", nextLayerBps: null }), "3 good: The best that is sent.");
  assert.equal(say({ reason: "wanted" }), "3 good: 320×180 is enough for the size it is shown in.");
  // A camera too small for more sizes that is shown as large as it is, and larger.
  const notSent = { reason: "not-sent", nextLayerBps: null };
  assert.equal(say(notSent, { width: 336, height: 192 }), "3 good: 320×180 is enough for the size it is shown in.");
  assert.equal(say(notSent, { width: 1280, height: 192 }), "3 good: 320×180 is enough for the size it is shown in.");
  assert.equal(say(notSent, { width: 640, height: 360 }), "1 neutral: Low: the sender sends nothing better now.");
  assert.equal(say(notSent), "1 neutral: Low: the sender sends nothing better now.");
  assert.equal(say({ reason: "bandwidth" }, { width: 320, height: 180 }).slice(0, 9), "1 limited", "of a whole picture frames may be missing");
  assert.equal(say({ reason: "paused", layer: null }), "0 waiting: Paused while it is not on the screen.");
  for (const reason of ["cpu", "no-keyframe-yet", "publisher-muted", "last-n", "not-sent", "some-new-reason"]) {
    for (const layer of [null, quality.layer]) {
      const { text, numbers } = explain({ ...quality, reason, layer, availableBps: null, nextLayerBps: null, width: null });
      assert.match(text, /^[A-Z].*\.$/, reason);
      assert.equal(numbers.length, layer === null ? 0 : 1);
    }
  }
  assert.deepEqual(explain(quality).numbers, [["Picture", "320×180"], ["Now", "150 kbit/s"], ["Available", "180 kbit/s"], ["Next layer", "500 kbit/s"]]);
});

test("one message for what failed alike", () => {
  const titles = (problems) => captureMessages(problems).map(({ title }) => title);
  assert.deepEqual(titles([{ device: "microphone", name: "NotFoundError" }, { device: "camera", name: "NotFoundError" }]), ["No microphone and no camera found"]);
  assert.deepEqual(titles([{ device: "microphone", name: "NotReadableError" }, { device: "camera", name: "NotAllowedError" }]), ["Microphone in use", "Camera not allowed"]);
  for (const code of ["room-full", "replaced", "unreachable", "media-timeout", "something-new"]) {
    const { title, hint } = roomMessage({ code, message: "because" });
    assert.ok(title && hint, code);
  }
});

test("rates are counted between two reports", () => {
  const report = (timestamp, bytes, packets, lost) =>
    new Map([
      ["t", { type: "transport", srtpCipher: "AEAD_AES_128_GCM" }],
      ["o", { id: "o", type: "outbound-rtp", kind: "audio", timestamp, bytesSent: bytes }],
      ["i", { id: "i", type: "inbound-rtp", kind: "audio", timestamp, bytesReceived: bytes, packetsReceived: packets, packetsLost: lost }],
    ]);
  const rates = ({ sentBitsPerSecond, receivedBitsPerSecond, lostPercent }) => [sentBitsPerSecond, receivedBitsPerSecond, lostPercent];
  const first = diagnose(report(1000, 500, 10, 0), null);
  assert.deepEqual([...rates(first), first.srtpCipher], [null, null, null, "AEAD_AES_128_GCM"]);
  const since = (before, now) => rates(diagnose(now, before));
  assert.deepEqual(since(report(1000, 500, 10, 0), report(3000, 1500, 100, 10)), [4000, 4000, 10]);
  assert.deepEqual(since(report(1000, 500, 10, 0), report(3000, 500, 10, 0)), [0, 0, 0], "nothing has come: that is known");
  assert.deepEqual(since(report(1000, 500, 10, 0), report(1100, 600, 11, 0)), [null, null, null], "too soon");
  assert.deepEqual(since(report(1000, 500, 10, 0), report(61_000, 600, 11, 0)), [null, null, null], "too long ago");
  assert.deepEqual(since(new Map(), report(3000, 1500, 100, 10)), [null, null, null], "streams that are new");
});

test("tiles follow what is published, not what is negotiated", () => {
  const track = (source, published, media = {}) => ({ id: source, source, kind: source === "microphone" ? "audio" : "video", published, media });
  const peer = (...tracks) => ({ id: "ada", name: "Ada", tracks: new Map(tracks.map((each) => [each.id, each])) });
  const state = (...tracks) => ({ room: { self: "me", peers: new Map([["ada", peer(...tracks)]]) }, name: "", speaking: new Set(), microphone: null, camera: null, screen: null, muted: false });
  const of = (...tracks) => tilesOf(state(...tracks));
  const [alone] = of().people;
  assert.deepEqual([alone.video, alone.waiting, alone.silent], [null, false, true]);
  const [seen] = of(track("camera", true), track("microphone", true)).people;
  assert.deepEqual([seen.video !== null, seen.waiting, seen.silent], [true, true, false]);
  const [withdrawn] = of(track("camera", false)).people;
  assert.equal(withdrawn.video, null, "negotiated, but taken back");
  assert.equal(of(track("screen", true, null)).screens.length, 1, "a screen has its place before its picture");
  assert.deepEqual(of().people.map(({ self }) => self), [false, true], "oneself comes last");
  const pinned = tilesOf({ ...state(track("camera", true)), pinned: "ada/camera" });
  assert.deepEqual([pinned.screens.length, pinned.people.length, pinned.screens[0].pinned], [1, 1, true]);
  assert.deepEqual(tilesOf({ ...state(), pinned: "gone/camera" }).screens, []);
});
