// @ts-check
// Why somebody's picture is as it is, in words: a function of what the server says and nothing else.

/** @import { Quality } from "./sdk/types.js" */

/**
 * @typedef {object} Explanation
 * @property {0 | 1 | 2 | 3} bars Of the signal sign.
 * @property {"good" | "neutral" | "limited" | "waiting"} tone `limited` is for what ails this side of the
 *   server or the server itself: nobody here can mend what a sender does not send.
 * @property {string} name One or two words.
 * @property {string} text The whole sentence.
 * @property {[string, string][]} numbers Names and values.
 */

/** @typedef {{ width: number, height: number }} Size In device pixels. */

/**
 * @param {Quality} quality
 * @param {Size | null} [shown] How large the picture is shown, where that is known.
 * @returns {Explanation}
 */
export function explain(quality, shown = null) {
  const isWhole = fills(quality, shown);
  const bars = barsOf(quality, isWhole);
  const name = NAMES[bars] ?? "";
  return { bars, name, ...reasonOf(quality, name, isWhole), numbers: numbersOf(quality) };
}

const NAMES = ["Paused", "Low", "Medium", "Good"];

/**
 * Whether a better layer would show no more: within a tenth of one side, as the server judges it.
 * @param {Quality} quality
 * @param {Size | null} shown
 */
function fills({ layer, width, height }, shown) {
  if (layer === null || shown === null || width === null || height === null) return false;
  return width >= shown.width * 0.9 || height >= shown.height * 0.9;
}

/**
 * @param {Quality} quality
 * @param {boolean} isWhole
 * @returns {0 | 1 | 2 | 3}
 */
function barsOf({ layer, reason }, isWhole) {
  if (layer === null) return 0;
  if (reason === "best" || reason === "wanted" || (reason === "not-sent" && isWhole)) return 3;
  return layer.encoding + layer.spatial === 0 ? 1 : 2;
}

/**
 * @param {Quality} quality
 * @param {string} name
 * @param {boolean} isWhole
 * @returns {{ tone: Explanation["tone"], text: string }}
 */
function reasonOf({ layer, reason, availableBps, nextLayerBps, width, height }, name, isWhole) {
  const size = width !== null && height !== null ? `${width}×${height}` : "";
  switch (reason) {
    case "best":
      return { tone: "good", text: "The best that is sent." };
    case "wanted":
      return { tone: "good", text: enough(size) };
    case "bandwidth": {
      const what = layer === null ? "No picture" : name;
      if (availableBps === null) return { tone: "limited", text: `${what}: your connection carries no more.` };
      if (nextLayerBps === null) return { tone: "limited", text: `${what}: ${bits(availableBps)} available.` };
      const { text, unit } = inOneUnit(availableBps, nextLayerBps);
      const next = layer === null ? "the lowest layer" : "the next layer";
      if (availableBps >= nextLayerBps) {
        // Going up needs some room to spare, and that it stays.
        return { tone: "limited", text: `${what}: ${text[0]} ${unit} available, and ${text[1]} would do for ${next}, which comes if that lasts.` };
      }
      return { tone: "limited", text: `${what}: ${text[0]} ${unit} available, ${next} needs ${text[1]}.` };
    }
    case "cpu":
      return { tone: "limited", text: `${name}: the server is too busy to send more.` };
    case "no-keyframe-yet":
      return { tone: "waiting", text: "A better picture is on its way." };
    case "publisher-muted":
      return { tone: "waiting", text: "The sender sends no picture now." };
    case "last-n":
      return { tone: "waiting", text: "Paused: only the latest speakers are shown." };
    case "paused":
      return { tone: "waiting", text: "Paused while it is not on the screen." };
    case "not-sent":
      if (isWhole) return { tone: "good", text: enough(size) };
      return { tone: "neutral", text: `${name}: the sender sends nothing better now.` };
    default:
      return { tone: layer === null ? "waiting" : "neutral", text: `${name}: ${reason.replaceAll("-", " ")}.` };
  }
}

/** @param {string} size */
function enough(size) {
  return `${size || "This"} is enough for the size it is shown in.`;
}

/**
 * @param {Quality} quality
 * @returns {[string, string][]}
 */
function numbersOf({ layer, availableBps, layerBps, nextLayerBps, width, height }) {
  /** @type {[string, string][]} */
  const numbers = [];
  if (layer !== null && width !== null && height !== null) numbers.push(["Picture", `${width}×${height}`]);
  if (layer !== null && layerBps !== null) numbers.push(["Now", bits(layerBps)]);
  if (availableBps !== null) numbers.push(["Available", bits(availableBps)]);
  if (nextLayerBps !== null) numbers.push(["Next layer", bits(nextLayerBps)]);
  return numbers;
}

/**
 * Two rates, with their unit said once.
 * @param {number} one
 * @param {number} other
 */
function inOneUnit(one, other) {
  if (Math.max(one, other) < 1e6) return { text: [one, other].map((bps) => (bps / 1e3).toFixed(0)), unit: "kbit/s" };
  return { text: [one, other].map((bps) => (bps / 1e6).toFixed(1)), unit: "Mbit/s" };
}

/** @param {number} perSecond */
export function bits(perSecond) {
  if (perSecond >= 1e6) return `${(perSecond / 1e6).toFixed(1)} Mbit/s`;
  return `${(perSecond / 1e3).toFixed(0)} kbit/s`;
}
