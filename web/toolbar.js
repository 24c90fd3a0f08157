// @ts-check
// Keyboard movement in a toolbar: one stop for the Tab key, arrows inside (WAI-ARIA Authoring Practices, "Toolbar").

/** @param {HTMLElement} bar Its buttons are there already. */
export function wireToolbar(bar) {
  /** @param {Element | null | undefined} stop The one that Tab comes to. */
  const setStop = (stop) => {
    for (const button of bar.querySelectorAll("button")) button.tabIndex = button === stop ? 0 : -1;
  };
  setStop(buttonsOf(bar)[0]);
  bar.addEventListener("focusin", ({ target }) => setStop(/** @type {Element} */ (target).closest("button")));
  bar.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const buttons = buttonsOf(bar);
    const at = buttons.findIndex((button) => button === document.activeElement);
    const next = destination(event.key, at, buttons.length);
    if (next === null) return;
    event.preventDefault(); // the page is not to scroll
    buttons[next]?.focus();
  });
}

/** @param {HTMLElement} bar */
function buttonsOf(bar) {
  return [...bar.querySelectorAll("button")].filter((button) => !button.hidden);
}

/**
 * @param {string} key
 * @param {number} at
 * @param {number} count
 */
function destination(key, at, count) {
  if (at === -1 || count === 0) return null;
  switch (key) {
    case "ArrowRight":
      return (at + 1) % count;
    case "ArrowLeft":
      return (at + count - 1) % count;
    case "Home":
      return 0;
    case "End":
      return count - 1;
    default:
      return null;
  }
}
