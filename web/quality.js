// @ts-check
// Why somebody's picture is as it is, in words: a function of what the server says and nothing else.

/** @import { Quality } from "./sdk/types.js" */

/**
 * @typedef {object} Explanation
 * @property {0 | 1 | 2 | 3} bars Of the signal sign.
 * @property {"good" | "limited" | "waiting"} tone
 * @property {string} name One or two words.
 * @property {string} text The whole sentence.
 * @property {[string, string][]} numbers Names and values.
 */

/**
 * @param {Quality} quality
 * @returns {Explanation}
 */
export function explain(quality) {
  const bars = barsOf(quality);
  const name = NAMES[bars] ?? "";
  return { bars, name, ...reasonOf(quality, name), numbers: numbersOf(quality) };
}

const NAMES = ["Paused", "Low", "Medium", "High"];

/**
 * @param {Quality} quality
 * @returns {0 | 1 | 2 | 3}
 */
function barsOf({ layer, reason, nextLayerBps }) {
  if (layer === null) return 0;
  if (reason === "best" || (nextLayerBps === null && reason !== "not-sent")) return 3;
  return layer.encoding + layer.spatial === 0 ? 1 : 2;
}

/**
 * @param {Quality} quality
 * @param {string} name
 * @returns {{ tone: Explanation["tone"], text: string }}
 */
function reasonOf({ layer, reason, availableBps, nextLayerBps, width, height }, name) {
  const size = width !== null && height !== null ? `${width}×${height}` : "";
  switch (reason) {
    case "best":
      return { tone: "good", text: "The best that is sent." };
    case "wanted":
      return { tone: "good", text: size ? `${size} is enough for the size it is shown in.` : "Enough for the size it is shown in." };
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
      return { tone: "limited", text: `${name}: the sender sends nothing better now.` };
    default:
      return { tone: layer === null ? "waiting" : "limited", text: `${name}: ${reason.replaceAll("-", " ")}.` };
  }
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
