// @ts-check
// Tells the server how large each tile is, so that it sends no more than is seen: nothing of what is
// scrolled away or behind another tab.

import { state } from "./store.js";

/** @import { Room } from "./sdk/shardcast.js" */
/** @import { SubscriptionWish } from "./sdk/types.js" */

/**
 * Whose picture an element shows.
 * @typedef {object} Subject
 * @property {string} peer
 * @property {string} track
 * @property {number} priority 0 to 100.
 */

/**
 * @typedef {object} Watched
 * @property {Subject} subject
 * @property {number} width Of the element, in device pixels.
 * @property {number} height
 * @property {boolean} visible
 */

/** @type {Map<Element, Watched>} */
const watched = new Map();
/** What the room was told last, by peer and track. */
/** @type {Map<string, string>} */
const told = new Map();
/** @type {Room | null} */
let toldRoom = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const each = watched.get(target);
    if (each) Object.assign(each, devicePixels(contentRect));
  }
  schedule();
});
const sights = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const each = watched.get(target);
    if (each) each.visible = isIntersecting;
  }
  schedule();
});
document.addEventListener("visibilitychange", schedule);

/**
 * @param {Element} element
 * @param {Subject | null} subject Null when it shows nobody's track.
 */
export function watchTile(element, subject) {
  const known = watched.get(element);
  if (subject === null) {
    if (known) forget(element);
    return;
  }
  if (known) {
    const { peer, track, priority } = known.subject;
    if (peer === subject.peer && track === subject.track && priority === subject.priority) return;
    known.subject = subject;
  } else {
    const { width, height } = devicePixels(element.getBoundingClientRect());
    watched.set(element, { subject, width, height, visible: true });
    sizes.observe(element);
    sights.observe(element);
  }
  schedule();
}

/**
 * How large an element is, in device pixels.
 * @param {Element} element
 * @returns {{ width: number, height: number } | null} Null when it is not watched, or not laid out.
 */
export function shownSize(element) {
  const known = watched.get(element);
  return known && known.width > 0 && known.height > 0 ? known : null;
}

/** @param {Element} element */
function forget(element) {
  watched.delete(element);
  sizes.unobserve(element);
  sights.unobserve(element);
}

/** Resizing a window changes every tile many times; the server is told where it ends. */
function schedule() {
  clearTimeout(timer);
  timer = setTimeout(tell, SETTLED_MS);
}

function tell() {
  const { room } = state;
  if (room !== toldRoom) told.clear();
  toldRoom = room;
  if (room?.state !== "joined") return;
  /** @type {SubscriptionWish[]} */
  const changed = [];
  for (const { subject, width, height, visible } of watched.values()) {
    const { peer, track, priority } = subject;
    const paused = document.hidden || !visible || width === 0 || height === 0;
    // Of what is paused the size says nothing.
    const wish = paused ? { peer, track, priority, paused } : { peer, track, priority, paused, width, height };
    const key = JSON.stringify([peer, track]);
    const text = JSON.stringify(wish);
    if (told.get(key) === text) continue;
    told.set(key, text);
    changed.push(wish);
  }
  if (changed.length > 0) room.subscribe(changed);
}

/** @param {{ width: number, height: number }} box In CSS pixels. */
function devicePixels({ width, height }) {
  const ratio = Math.min(devicePixelRatio, RATIO_MAX);
  const round = (/** @type {number} */ pixels) => Math.ceil((pixels * ratio) / STEP) * STEP;
  return { width: round(width), height: round(height) };
}

const SETTLED_MS = 500;
/** Smaller changes choose no other layer. */
const STEP = 16;
/** On a phone nobody sees the third pixel of a face. */
const RATIO_MAX = 2;
