// @ts-check
// How many tiles fit beside each other so that all of them are as large as possible.

/**
 * @typedef {object} Grid
 * @property {number} columns
 * @property {number} width Of one tile, in CSS pixels.
 * @property {number} height
 */

/**
 * @param {number} count At least 1.
 * @param {number} width Of the area, in CSS pixels.
 * @param {number} height
 * @param {{ gap: number, narrowest: number, widest: number }} options Aspect ratios (width to
 *   height) between which a tile may be.
 * @returns {Grid}
 */
export function bestGrid(count, width, height, { gap, narrowest, widest }) {
  /** @type {Grid} */
  let best = { columns: 1, width: 0, height: 0 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    let tileWidth = (width - gap * (columns - 1)) / columns;
    let tileHeight = (height - gap * (rows - 1)) / rows;
    if (tileWidth <= 0 || tileHeight <= 0) continue;
    tileWidth = Math.min(tileWidth, tileHeight * widest);
    tileHeight = Math.min(tileHeight, tileWidth / narrowest);
    if (tileWidth * tileHeight > best.width * best.height) {
      best = { columns, width: Math.floor(tileWidth), height: Math.floor(tileHeight) };
    }
  }
  return best;
}
