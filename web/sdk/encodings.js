// @ts-check
// In which qualities a video is published: pure functions of its size and what the page asked for.

/** @import { PublishOptions, Source } from "./types.js" */

/**
 * @typedef {object} Picture
 * @property {number} width In pixels.
 * @property {number} height
 * @property {number} frameRate
 */

/**
 * @typedef {RTCRtpEncodingParameters & { scalabilityMode?: string }} Encoding
 */

/**
 * The encodings of a video track, lowest first. A browser fixes their number for good, so there are
 * always as many; of a small picture the lowest ones are sent and the others are not. (libwebrtc
 * would by itself send only the lowest of them: three from 960×540 on, two from 480×270.)
 * @param {Source} source
 * @param {Picture} picture
 * @param {PublishOptions} [options]
 * @returns {Encoding[]}
 */
export function encodingsOf(source, picture, options = {}) {
  const rids = ridsOf(source, options);
  const pixels = picture.width * picture.height;
  const worthwhile = pixels >= THREE_FROM ? 3 : pixels >= TWO_FROM ? 2 : 1;
  const best = Math.min(worthwhile, rids.length) - 1;
  const rateMax = options.maxBitrate ?? bitsForAll(picture, options);
  return rids.map((rid, index) => {
    const divisor = 2 ** Math.max(0, best - index);
    // A screen is read: its small copy keeps half the size and gives up motion.
    const slow = source === "screen" && index < best;
    const frameRate = slow ? Math.min(picture.frameRate, SLOW_FRAME_RATE) : picture.frameRate;
    const small = { width: picture.width / divisor, height: picture.height / divisor, frameRate };
    /** @type {Encoding} */
    const encoding = {
      active: index <= best,
      maxBitrate: index < best ? Math.min(rateMax, bitsPerSecond(small, options.codec)) : rateMax,
      scalabilityMode: options.scalabilityMode ?? TEMPORAL_LAYERS,
    };
    if (rid !== null) Object.assign(encoding, { rid, scaleResolutionDownBy: divisor });
    if (slow) encoding.maxFramerate = SLOW_FRAME_RATE;
    return encoding;
  });
}

/**
 * @param {Source} source
 * @param {PublishOptions} options
 * @returns {(string | null)[]}
 */
function ridsOf(source, { simulcast = true, scalabilityMode }) {
  // Spatial layers inside one stream do what simulcast does with several.
  if (!simulcast || spatialLayers(scalabilityMode) > 1) return [null];
  return source === "screen" ? ["h", "f"] : ["q", "h", "f"];
}

/** @param {string} [scalabilityMode] */
function spatialLayers(scalabilityMode) {
  return Number(/^[LS]([23])/.exec(scalabilityMode ?? "")?.[1] ?? 1);
}

/** Three frame rates in every stream: the server thins it out frame by frame, not only by size. */
const TEMPORAL_LAYERS = "L1T3";
const THREE_FROM = 960 * 540;
const TWO_FROM = 480 * 270;
const SLOW_FRAME_RATE = 5;

/**
 * What a picture needs at 30 frames/s to look good in VP8 or H.264.
 * @type {[pixels: number, bitsPerSecond: number][]}
 */
const RATES = [
  [160 * 90, 70_000],
  [320 * 180, 160_000],
  [640 * 360, 500_000],
  [960 * 540, 900_000],
  [1280 * 720, 1_700_000],
  [1920 * 1080, 3_200_000],
  [3840 * 2160, 9_000_000],
];

/**
 * @param {Picture} picture
 * @param {PublishOptions["codec"]} codec
 */
function bitsPerSecond({ width, height, frameRate }, codec) {
  const pixels = width * height;
  const above = RATES.findIndex(([size]) => size >= pixels);
  const [sizeAbove, rateAbove] = RATES[above] ?? /** @type {[number, number]} */ (RATES.at(-1));
  const [sizeBelow, rateBelow] = RATES[above - 1] ?? [0, 0];
  const share = above === -1 ? 1 : (pixels - sizeBelow) / (sizeAbove - sizeBelow);
  const full = rateBelow + share * (rateAbove - rateBelow);
  // Half the frames are more than half the work: each differs more from the one before.
  const slower = Math.min(1, Math.sqrt(frameRate / 30));
  const bps = full * slower * (EFFICIENCY[codec ?? "vp8"] ?? 1);
  return Math.max(RATE_MIN, Math.round(bps / 1000) * 1000);
}

/**
 * What all of a stream takes at most. Of spatial layers in it each counts, and as at 30 frames/s, whatever the frame rate:
 * libwebrtc does not begin with the next one below a rate that depends on its size alone, and pads up to that for good.
 * @param {Picture} picture
 * @param {PublishOptions} options
 */
function bitsForAll({ width, height, frameRate }, { codec, scalabilityMode }) {
  const count = spatialLayers(scalabilityMode);
  if (count === 1) return bitsPerSecond({ width, height, frameRate }, codec);
  let bits = 0;
  for (let divisor = 1; divisor < 2 ** count; divisor *= 2) {
    bits += bitsPerSecond({ width: width / divisor, height: height / divisor, frameRate: Math.max(frameRate, 30) }, codec);
  }
  return bits;
}

/** Less than this, browsers do not send. */
const RATE_MIN = 30_000;

/** @type {Record<string, number>} */
const EFFICIENCY = { vp9: 0.75, av1: 0.65 };

/**
 * Puts one codec first; the others follow in the browser's order, so that there is always one that
 * both sides know.
 * @param {readonly RTCRtpCodec[]} codecs
 * @param {string} preferred `vp8`, `vp9`, `h264`, `av1`, in any case.
 * @returns {RTCRtpCodec[]}
 */
export function preferring(codecs, preferred) {
  const isFirst = (/** @type {RTCRtpCodec} */ { mimeType }) =>
    mimeType.toLowerCase() === `video/${preferred.toLowerCase()}`;
  return [...codecs.filter(isFirst), ...codecs.filter((codec) => !isFirst(codec))];
}

/** What of an encoding follows its picture. */
const PLANNED = /** @type {const} */ (["maxBitrate", "scaleResolutionDownBy"]);

/**
 * What the server said of one encoding of ours.
 * @typedef {object} WantedEncoding
 * @property {number} index
 * @property {string} [rid]
 * @property {boolean} wanted
 */

/**
 * The encodings as they are to be sent: planned as `planned`, and only those that somebody wants.
 * @template {RTCRtpEncodingParameters} T
 * @param {readonly T[]} current As the sender has them.
 * @param {readonly Encoding[]} planned By `encodingsOf`; one that has no plan stays.
 * @param {readonly WantedEncoding[]} wanted What is not named is wanted.
 * @returns {T[]}
 */
export function adjusted(current, planned, wanted) {
  const [only, ...others] = current;
  const best = planned.findLast(({ active }) => active) ?? planned[0];
  if (only && best && others.length === 0 && planned.length > 1) {
    // The server takes no simulcast: what is left is the smallest, and has to be all.
    const whole = { ...only, active: best.active ?? true, maxBitrate: best.maxBitrate };
    return [only.scaleResolutionDownBy === undefined ? whole : { ...whole, scaleResolutionDownBy: 1 }];
  }
  return current.map((encoding, index) => {
    const plan =
      encoding.rid === undefined
        ? planned[index]
        : planned.find(({ rid }) => rid === encoding.rid);
    const said = wanted.find((each) =>
      encoding.rid === undefined || each.rid === undefined
        ? each.index === index
        : each.rid === encoding.rid,
    );
    const active = (plan?.active ?? encoding.active ?? true) && said?.wanted !== false;
    const next = { ...encoding, active };
    for (const key of PLANNED) if (plan?.[key] !== undefined) Object.assign(next, { [key]: plan[key] });
    return next;
  });
}
