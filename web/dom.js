// @ts-check
// The few lines of DOM handling that every view needs.

/**
 * The element with this id.
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`index.html has no ${type.name} #${id}`);
  return element;
}

/**
 * Makes an element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * An icon of the sprite in index.html.
 * @param {string} name
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/**
 * Shows another icon in a button that has one.
 * @param {Element} button
 * @param {string} name
 */
export function setIcon(button, name) {
  const use = button.querySelector("use");
  if (use && use.getAttribute("href") !== `#i-${name}`) use.setAttribute("href", `#i-${name}`);
}

/**
 * Writes only what changed, so that nothing is announced twice.
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes an element's children those made for the items, keeping the ones that are there already.
 * @template T
 * @template {{ element: Element }} V
 * @param {Element} parent
 * @param {Map<string, V>} views By key; updated in place.
 * @param {readonly T[]} items
 * @param {{ key: (item: T) => string, create: (item: T) => V, update: (view: V, item: T) => void,
 *   remove?: (view: V) => void }} steps
 */
export function syncChildren(parent, views, items, { key, create, update, remove }) {
  const wanted = new Set(items.map(key));
  for (const [id, view] of views) {
    if (wanted.has(id)) continue;
    remove?.(view);
    view.element.remove();
    views.delete(id);
  }
  items.forEach((item, index) => {
    const id = key(item);
    let view = views.get(id);
    if (!view) {
      view = create(item);
      views.set(id, view);
    }
    // Moving a playing video interrupts it: only where the order really differs.
    if (parent.children[index] !== view.element) {
      parent.insertBefore(view.element, parent.children[index] ?? null);
    }
    update(view, item);
  });
}

const SVG = "http://www.w3.org/2000/svg";
