// @ts-check
// How long to wait before trying again: exponential, capped, with jitter so that a whole room does
// not come back in the same instant.

const FIRST_MS = 500;
const LONGEST_MS = 10_000;

/**
 * @param {number} attempt Counted from 1.
 * @param {() => number} [random] A number in 0..1.
 * @returns {number} Milliseconds: between half of the exponential step and all of it.
 */
export function backoffMs(attempt, random = Math.random) {
  const step = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt - 1, 16));
  return Math.round(step * (0.5 + random() / 2));
}
