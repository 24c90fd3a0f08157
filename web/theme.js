// @ts-check
// Light or dark: as the system has it, unless somebody chose the other. Runs before the first paint.

/** @typedef {"light" | "dark"} Theme */

const systemIsLight = matchMedia("(prefers-color-scheme: light)");

/** @returns {Theme} What is shown now. */
export function shownTheme() {
  return chosen() ?? system();
}

/** The other one from now on. Choosing what the system has means following it again. */
export function toggleTheme() {
  const theme = shownTheme() === "light" ? "dark" : "light";
  if (theme === system()) delete root.dataset.theme;
  else root.dataset.theme = theme;
  remember();
  colourFrame();
}

/** @param {() => void} onChange The system went light or dark, or another tab chose. */
export function watchTheme(onChange) {
  systemIsLight.addEventListener("change", () => {
    colourFrame();
    onChange();
  });
  addEventListener("storage", ({ key }) => {
    if (key !== KEY && key !== null) return;
    restore();
    onChange();
  });
}

const KEY = "shardcast.theme";
const root = document.documentElement;

/** @returns {Theme} */
function system() {
  return systemIsLight.matches ? "light" : "dark";
}

/** @returns {Theme | null} */
function chosen() {
  const { theme } = root.dataset;
  return theme === "light" || theme === "dark" ? theme : null;
}

function restore() {
  const theme = stored();
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  else delete root.dataset.theme;
  colourFrame();
}

function stored() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage may be forbidden
  }
}

function remember() {
  try {
    const theme = chosen();
    if (theme === null) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, theme);
  } catch {
    // not remembered, then
  }
}

/** What the browser paints around the page follows a choice, too. */
function colourFrame() {
  for (const meta of document.querySelectorAll('meta[name="theme-color"]')) {
    const own = meta.getAttribute("media")?.includes("light") ? "light" : "dark";
    meta.setAttribute("content", FRAME[chosen() ?? own]);
  }
}

/** `--ink-0` of style.css. */
const FRAME = { light: "#f4f3ef", dark: "#0b0d0f" };

restore();
