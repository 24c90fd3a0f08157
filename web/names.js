// @ts-check
// Names: suggested rooms, initials, and the colour that goes with a peer.

/** A room that is easy to say on the phone and hard to meet by accident. */
export function suggestRoom() {
  return `${pick(COLOURS)}-${pick(THINGS)}-${String(random(9000) + 1000)}`;
}

/**
 * @param {string} name
 * @returns {string} One or two characters.
 */
export function initials(name) {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words[words.length - 1]] : words;
  return letters.map((word) => [...(word ?? "")][0] ?? "").join("").toUpperCase() || "·";
}

/**
 * @param {string} id
 * @returns {number} Degrees, the same for the same id everywhere.
 */
export function hue(id) {
  let hash = 0x811c9dc5; // FNV-1a
  for (const char of id) hash = Math.imul(hash ^ (char.codePointAt(0) ?? 0), 0x01000193);
  // Ids often differ in one character only: spread that over all bits.
  hash = Math.imul(hash ^ (hash >>> 16), 0x45d9f3b);
  return ((hash ^ (hash >>> 15)) >>> 0) % 360;
}

/**
 * @template T
 * @param {readonly [T, ...T[]]} list
 * @returns {T}
 */
function pick(list) {
  return list[random(list.length)] ?? list[0];
}

/** @param {number} below */
function random(below) {
  return (crypto.getRandomValues(new Uint32Array(1))[0] ?? 0) % below;
}

/** @type {readonly [string, ...string[]]} */
const COLOURS = ["amber", "azure", "coral", "ivory", "jade", "lilac", "maroon", "ochre", "olive", "pearl", "rust", "sand", "silver", "teal", "umber", "violet"];
/** @type {readonly [string, ...string[]]} */
const THINGS = ["badger", "beacon", "canyon", "cedar", "comet", "falcon", "harbor", "heron", "island", "lantern", "meadow", "otter", "quarry", "raven", "summit", "willow"];
