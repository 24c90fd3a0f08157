// The demo page as people find it: its themes, the keyboard, screens of all sizes.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { launchChromium } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startServer } from "./lib/server.js";
import { until } from "./lib/wait.js";

describe("the demo page", () => {
  let server;
  const browsers = [];
  /** @type {Demo} */ let ada;
  /** @type {Demo} */ let bob;

  before(async () => {
    server = await startServer();
    [ada, bob] = await Promise.all(
      ["Ada", "Bob"].map(async (name) => {
        const browser = await launchChromium();
        browsers.push(browser);
        return new Demo(await browser.page(), name);
      }),
    );
  });
  after(async () => {
    await Promise.all(browsers.map((browser) => browser.close()));
    await server?.stop();
  });

  const system = (theme) => ada.page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
  const isLight = () => ada.page.evaluate(() => Number(/\d+/.exec(getComputedStyle(document.documentElement).backgroundColor)?.[0]) > 128);
  const themeButton = () => ada.page.$eval("main:not([hidden]) [data-theme-toggle]", (button) => button.getAttribute("aria-label"));

  test("is light or dark as the system is, or as was chosen before", async () => {
    await system("dark");
    await ada.open(server.url, "looks");
    assert.deepEqual([await isLight(), await themeButton()], [false, "Use the light theme"]);
    await system("light");
    assert.equal(await isLight(), true);
    await until("the button follows", async () => (await themeButton()) === "Use the dark theme");

    await ada.click("#join [data-theme-toggle]");
    assert.equal(await isLight(), false, "chosen");
    await ada.page.reload();
    assert.deepEqual([await isLight(), await themeButton()], [false, "Use the light theme"], "remembered");
    const frames = await ada.page.$$eval('meta[name="theme-color"]', (all) => all.map(({ content }) => content));
    assert.equal(new Set(frames).size, 1, `the browser's frame follows: ${frames}`);

    await ada.click("#join [data-theme-toggle]");
    assert.equal(await isLight(), true);
    await system("dark");
    assert.equal(await isLight(), false, "choosing what the system has follows it again");
    await ada.page.reload();
    assert.equal(await isLight(), false);
  });

  test("can be read in both themes", async () => {
    for (const theme of ["light", "dark"]) {
      await system(theme);
      for (const { pair, ratio, wanted } of await ada.page.evaluate(contrastsInPage)) {
        assert.ok(ratio >= wanted, `${theme}: ${pair} has ${ratio.toFixed(2)}, not ${wanted}`);
      }
    }
  });

  test("who uses the keyboard comes to the call's controls with one Tab, and moves with arrows", async () => {
    await system("light");
    await Promise.all([ada.join(server.url, "looks"), bob.join(server.url, "looks")]);
    await Promise.all([ada.sees("Bob"), bob.sees("Ada")]);
    const { keyboard } = ada.page;
    const focused = () => ada.page.evaluate(() => document.activeElement?.id);
    const press = async (...keys) => {
      for (const key of keys) await keyboard.press(key);
      return focused();
    };
    await ada.page.focus("#toggle-mic");
    assert.equal(await press("ArrowRight"), "toggle-camera");
    assert.equal(await press("ArrowRight", "ArrowRight"), "leave");
    assert.equal(await press("ArrowRight"), "toggle-mic", "round to the first");
    assert.equal(await press("ArrowLeft"), "leave");
    assert.equal(await press("Home"), "toggle-mic");
    assert.equal(await press("End"), "leave");
    assert.equal(await press("ArrowLeft"), "toggle-screen");
    const stops = await ada.page.$$eval("#controls button", (buttons) => buttons.filter(({ tabIndex }) => tabIndex === 0).map(({ id }) => id));
    assert.deepEqual(stops, ["toggle-screen"], "one stop, where one was last");
    await keyboard.down("Shift");
    await keyboard.press("Tab");
    await keyboard.up("Shift");
    assert.equal(await ada.page.evaluate(() => document.activeElement?.closest("#controls") === null), true, "Tab leaves it");
    assert.equal(await press("Tab"), "toggle-screen", "and comes back to the same place");

    // What is pressed keeps the focus, also while it is busy.
    await press("Home", "ArrowRight", "Space");
    await until("the camera is off", () => ada.page.$eval("#toggle-camera", ({ dataset }) => dataset.on === "false"));
    assert.equal(await press("Enter"), "toggle-camera");
    await until("the camera is on", () => ada.page.$eval("#toggle-camera", ({ dataset }) => dataset.on === "true"));
    assert.equal(await focused(), "toggle-camera");
    await bob.sees("Ada");
  });

  test("the signal sign opens, says why, and gives the focus back", async () => {
    const sign = '.tile[data-source="camera"]:not([data-self]) .badge';
    await ada.page.waitForSelector(sign, { visible: true });
    const state = () =>
      ada.page.$eval(sign, (button) => {
        const panel = document.getElementById(button.getAttribute("aria-controls") ?? "");
        return {
          expanded: button.getAttribute("aria-expanded"),
          open: panel?.matches(":popover-open"),
          named: document.getElementById(panel?.getAttribute("aria-labelledby") ?? "")?.textContent,
          text: panel?.querySelector("p")?.textContent,
          focus: document.activeElement === button ? "sign" : panel?.contains(document.activeElement) ? "panel" : "elsewhere",
        };
      });
    const opened = (want) => until(`it is ${want ? "open" : "closed"}`, async () => {
      const { open, expanded } = await state();
      return open === want && expanded === String(want);
    });
    await opened(false);
    await ada.page.focus(sign);
    await ada.page.keyboard.press("Enter");
    await opened(true);
    const { named, text, focus } = await state();
    assert.deepEqual([named, focus], ["Bob", "panel"]);
    assert.match(text, /\.$/);

    // Escape is for what lies on top: the list of people stays.
    await ada.click("#toggle-people");
    await ada.page.keyboard.press("Escape");
    await opened(false);
    assert.equal((await state()).focus, "sign");
    assert.equal(await ada.page.$eval("#people", ({ hidden }) => hidden), false);
    await ada.page.keyboard.press("Escape");
    await until("the list closes", () => ada.page.$eval("#people", ({ hidden }) => hidden));
    assert.equal(await ada.page.evaluate(() => document.activeElement?.id), "toggle-people");

    // With the mouse: a second press closes it, and so does one anywhere else.
    await ada.page.click(sign);
    await opened(true);
    await ada.page.click(sign);
    await opened(false);
    await ada.page.click(sign);
    await opened(true);
    await ada.page.mouse.click(640, 795);
    await opened(false);
    // And so does going on with Tab.
    await ada.page.focus(sign);
    await ada.page.keyboard.press("Enter");
    await opened(true);
    await ada.page.keyboard.press("Tab");
    await opened(false);
  });

  test("a rate that is not known yet is not said to be 0", async () => {
    /** All that is ever shown there, from the first on. */
    await ada.page.evaluate(() => {
      const list = document.getElementById("diagnosis-list");
      globalThis.shownRates = [];
      const note = () => {
        const texts = [...list.querySelectorAll("dt")].filter(({ textContent }) => /^(Sending|Receiving)$/.test(textContent)).map((term) => term.nextElementSibling.textContent);
        if (texts.length > 0) globalThis.shownRates.push(...texts);
      };
      new MutationObserver(note).observe(list, { childList: true });
    });
    await ada.click("#toggle-people");
    await ada.click("#diagnosis summary");
    await ada.until("shows rates", () => globalThis.shownRates.filter((text) => /^[1-9][\d.]* [kM]bit\/s$/.test(text)).length >= 2);
    const shown = await ada.page.evaluate(() => globalThis.shownRates);
    assert.equal(shown[0], "not known yet");
    assert.ok(!shown.includes("0 kbit/s"), shown.join());
    await ada.screenshot("panel-light.png");
    await ada.click("#close-people");
  });

  test("fits screens from a small phone to a very wide one", async () => {
    for (const [width, height] of [[360, 640], [390, 844], [844, 390], [1280, 720], [3440, 1440]]) {
      await ada.page.setViewport({ width, height });
      const what = `${width}×${height}`;
      await until(`tiles are laid out in ${what}`, () => ada.page.evaluate(fitsInPage));
      const outside = await ada.page.$$eval("#call button, .tile", (elements) =>
        elements
          .filter((element) => element.checkVisibility())
          .filter((element) => {
            const { left, right, top, bottom } = element.getBoundingClientRect();
            return left < -0.5 || top < -0.5 || right > innerWidth + 0.5 || bottom > innerHeight + 0.5;
          })
          .map(({ id, className }) => id || className),
      );
      assert.deepEqual(outside, [], what);
      const small = await ada.page.$$eval("#controls button, .topbar button", (buttons) =>
        buttons.filter((button) => button.checkVisibility() && Math.min(button.offsetWidth, button.offsetHeight) < 36).map(({ id }) => id),
      );
      assert.deepEqual(small, [], `${what}: large enough for a finger`);
    }
    await ada.page.setViewport({ width: 1280, height: 800 });
  });

  test("who wants no motion gets none", async () => {
    await ada.page.emulateMediaFeatures([{ name: "prefers-reduced-motion", value: "reduce" }]);
    await bob.click("#leave");
    await until("Bob is gone", async () => (await ada.tiles()).length === 0);
    await bob.join(server.url, "looks");
    await until("Bob is back", async () => (await ada.tiles()).length === 1);
    const moving = await ada.page.evaluate(() => document.getAnimations().map((animation) => animation.effect?.target?.className));
    assert.deepEqual(moving, []);
    await ada.sees("Bob");
  });

  test("no page complained", () => {
    for (const person of [ada, bob]) {
      assert.deepEqual(person.console.filter((line) => line.startsWith("error:") && !/favicon/.test(line)), [], person.name);
    }
  });
});

/** Runs in the page: how well the theme's colours stand out (WCAG 2.2, 1.4.3 and 1.4.11). */
function contrastsInPage() {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const probe = document.body.appendChild(document.createElement("i"));
  const luminance = (name) => {
    probe.style.color = `var(${name})`;
    context.fillStyle = getComputedStyle(probe).color;
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue] = [...context.getImageData(0, 0, 1, 1).data].map((byte) => {
      const value = byte / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ratio = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const surfaces = ["--ink-0", "--ink-1", "--ink-2"];
  const pairs = [
    ...["--text", "--text-dim", "--coral", "--sky", "--amber"].flatMap((text) => surfaces.map((surface) => [text, surface, 4.5])),
    ["--text", "--ink-3", 4.5],
    ["--text", "--ink-4", 4.5],
    ["--text-faint", "--ink-2", 4],
    ...surfaces.map((surface) => ["--live", surface, 3]),
    ["--on-primary", "--primary", 4.5],
    ["--on-coral", "--coral-fill", 4.5],
    ["--on-sky", "--sky-fill", 4.5],
  ];
  const found = pairs.map(([one, other, wanted]) => ({ pair: `${one} on ${other}`, ratio: ratio(one, other), wanted }));
  probe.remove();
  return found;
}

/** Runs in the page: whether tiles keep to their area, and the page to the window. */
function fitsInPage() {
  const { scrollWidth, scrollHeight } = document.documentElement;
  if (scrollWidth > innerWidth || scrollHeight > innerHeight) return false;
  const area = document.getElementById("tiles").getBoundingClientRect();
  return [...document.querySelectorAll("#tiles .tile")].every((tile) => {
    const { width, height, right, bottom } = tile.getBoundingClientRect();
    return width > 100 && height > 70 && right <= area.right + 1 && bottom <= area.bottom + 1;
  });
}
