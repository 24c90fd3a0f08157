// Takes docs/screenshot.png: a call of three in which the network of the one who looks does not carry everything, with
// the sign opened that says so.
//
//     SHARDCAST_BIN=… node screenshot.js [light|dark] [FILE]

import { fileURLToPath } from "node:url";
import { launchChromium } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startImpairer } from "./lib/impair.js";
import { startServer } from "./lib/server.js";

const [theme = "dark", file = fileURLToPath(new URL("../../docs/screenshot.png", import.meta.url))] = process.argv.slice(2);
const SIZE = { width: 1280, height: 720 };
/** Three sizes are sent from here on. */
const PICTURE = { width: "960", height: "540", fps: "8" };
const PEOPLE = [
  { name: "Grace", at: 245, wall: "#e9c9a8", lamp: "#ffe7b3", hair: "#d9d4cc", skin: "#e8b796", shirt: "#2f4a6d" },
  { name: "Katherine", at: 480, wall: "#9fb8a9", lamp: "#e6f2c8", hair: "#241a17", skin: "#8a5a3c", shirt: "#d8573f" },
  { name: "Ada", at: 480, wall: "#c7a7b5", lamp: "#ffe9d6", hair: "#3a2430", skin: "#f2cbb0", shirt: "#43795c" },
];
/** What the looker's network carries, in bit/s: not the best of both. */
const RATE = 600_000;

const server = await startServer();
const impairer = await startImpairer();
const browsers = [];
try {
  const link = await impairer.link("looker", server);
  await link.set({ up: { delay_ms: 15 }, down: { delay_ms: 15, rate_bps: RATE } });
  const people = [];
  for (const looks of PEOPLE) {
    const browser = await launchChromium(SIZE);
    browsers.push(browser);
    const page = await browser.page();
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
    await page.evaluateOnNewDocument(portraitInPage, looks);
    people.push(new Demo(page, looks.name));
  }
  const looker = people[people.length - 1];
  await link.carry(looker.page);
  for (const person of people) await person.join(server.url, "design-review", PICTURE);
  for (const { name } of people.slice(0, -1)) await looker.sees(name, "camera", 40_000);
  await new Promise((resolve) => setTimeout(resolve, 5000)); // toasts go
  await looker.until(
    "is told that bandwidth is short",
    () => {
      const signs = [...document.querySelectorAll('.tile:not([data-self]) .badge[data-tone="limited"]')];
      // The panel opens over the right of a tile.
      const sign = signs.find(({ title, ariaLabel }) => ariaLabel.startsWith("Grace") && /: [1-9]\d\d kbit\/s available, the next layer needs /.test(title));
      const isSettled = document.querySelector('.toast, .tile:not([data-self]) .badge[data-tone="waiting"]') === null;
      const isTold = sign !== undefined && isSettled;
      if (isTold) sign.click();
      return isTold;
    },
    undefined,
    90_000,
  );
  await new Promise((resolve) => setTimeout(resolve, 300));
  await looker.page.screenshot({ path: file });
} finally {
  await Promise.all(browsers.map((browser) => browser.close()));
  await impairer.close();
  await server.stop();
}

/** Runs in the page: a camera that sees somebody, drawn; the browser's own sees a test pattern. */
function portraitInPage({ at, wall, lamp, hair, skin, shirt }) {
  const getUserMedia = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (constraints) => {
    const stream = await getUserMedia({ ...constraints, audio: true });
    if (!constraints.video) return stream;
    const { width, height, frameRate } = constraints.video;
    const canvas = Object.assign(document.createElement("canvas"), { width: width.ideal, height: height.ideal });
    const context = canvas.getContext("2d");
    context.scale(canvas.width / 960, canvas.height / 540);
    const blob = (colour, ...shape) => {
      context.fillStyle = colour;
      context.beginPath();
      context.ellipse(...shape);
      context.fill();
    };
    const draw = () => {
      const time = performance.now() / 1000;
      const sway = Math.sin(time * 0.9) * 10;
      const nod = Math.sin(time * 1.7) * 5;
      const light = context.createRadialGradient(220, 120, 20, 220, 120, 760);
      light.addColorStop(0, lamp);
      light.addColorStop(0.35, wall);
      light.addColorStop(1, "#3b3f4a");
      context.fillStyle = light;
      context.fillRect(0, 0, 960, 540);
      // A shelf with books.
      for (let book = 0; book < 9; book += 1) {
        context.fillStyle = `hsl(${book * 47} 28% ${34 + (book % 3) * 9}%)`;
        context.fillRect(680 + book * 24, 118 - (book % 4) * 9, 19, 82 + (book % 4) * 9);
      }
      context.fillStyle = "#4b3a30";
      context.fillRect(664, 200, 240, 10);
      const x = at + sway;
      blob(hair, x, 262 + nod, 122, 142, 0, 0, 7);
      blob(shirt, x, 590, 250, 182, 0, 0, 7);
      blob(skin, x, 420, 52, 78, 0, 0, 7);
      blob(skin, x, 286 + nod, 94, 116, 0, 0, 7);
      context.fillStyle = hair;
      context.beginPath();
      context.ellipse(x, 216 + nod, 104, 74, 0, Math.PI, 0);
      context.fill();
      for (const side of [-1, 1]) {
        blob("#2a2422", x + side * 37, 278 + nod, 8, 9, 0, 0, 7);
        context.fillStyle = hair;
        context.fillRect(x + side * 37 - 17, 254 + nod, 34, 6);
      }
      context.strokeStyle = "#7d3b34";
      context.lineWidth = 7;
      context.lineCap = "round";
      context.beginPath();
      context.arc(x, 316 + nod, 32, 0.35, Math.PI - 0.35);
      context.stroke();
      // What every camera adds, and no encoder likes.
      for (let grain = 0; grain < 300; grain += 1) {
        context.fillStyle = `rgb(${Math.random() < 0.5 ? "255 255 255" : "0 0 0"} / 5%)`;
        context.fillRect(Math.random() * 960, Math.random() * 540, 6, 6);
      }
    };
    setInterval(draw, 1000 / (frameRate.ideal ?? 10));
    draw();
    for (const track of stream.getVideoTracks()) {
      stream.removeTrack(track);
      track.stop();
    }
    stream.addTrack(canvas.captureStream(frameRate.ideal ?? 10).getVideoTracks()[0]);
    return stream;
  };
}
