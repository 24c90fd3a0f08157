// Starts real browsers: one process per participant, because hidden tabs mute remote video.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import puppeteer from "puppeteer-core";

const CHROMIUM = process.env.SHARDCAST_CHROMIUM ?? "/usr/bin/chromium";
const FIREFOX = process.env.SHARDCAST_FIREFOX ?? "/usr/bin/firefox-esr";

const CHROMIUM_ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--autoplay-policy=no-user-gesture-required",
  "--allow-loopback-in-peer-connection",
  "--disable-features=WebRtcHideLocalIpsWithMdns",
];
const FAKE_DEVICES = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];

const FIREFOX_PREFS = {
  "media.navigator.streams.fake": true,
  "media.navigator.permission.disabled": true,
  "media.peerconnection.ice.loopback": true,
  "media.peerconnection.ice.obfuscate_host_addresses": false,
  "media.devices.insecure.enabled": true,
  "media.getusermedia.insecure.enabled": true,
  "media.autoplay.default": 0,
  "media.autoplay.blocking_policy": 0,
  "media.gmp-manager.updateEnabled": false,
  "network.proxy.type": 0,
  "datareporting.policy.dataSubmissionEnabled": false,
  "app.update.enabled": false,
};

/**
 * A Chromium with a window of its own.
 * @param {{ devices?: "fake" | "none", args?: string[], width?: number, height?: number }} [options]
 */
export async function launchChromium({ devices = "fake", args = [], width = 1280, height = 800 } = {}) {
  const userDataDir = await mkdtemp(join(tmpdir(), "shardcast-chromium-"));
  const browser = await puppeteer.launch({
    executablePath: CHROMIUM,
    headless: true,
    userDataDir,
    args: [...CHROMIUM_ARGS, ...(devices === "fake" ? FAKE_DEVICES : []), `--window-size=${width},${height}`, ...args],
    defaultViewport: { width, height },
    protocolTimeout: 60_000,
  });
  return closing(browser, userDataDir);
}

/** A Firefox, driven over WebDriver BiDi. */
export async function launchFirefox() {
  const userDataDir = await mkdtemp(join(tmpdir(), "shardcast-firefox-"));
  const browser = await puppeteer.launch({
    browser: "firefox",
    executablePath: FIREFOX,
    headless: true,
    userDataDir,
    extraPrefsFirefox: FIREFOX_PREFS,
    protocolTimeout: 60_000,
  });
  return closing(browser, userDataDir);
}

/**
 * @param {import("puppeteer-core").Browser} browser
 * @param {string} userDataDir
 */
function closing(browser, userDataDir) {
  return {
    browser,
    /** Its only page. */
    async page() {
      const [page] = await browser.pages();
      return page ?? (await browser.newPage());
    },
    async close() {
      await browser.close().catch(() => browser.process()?.kill("SIGKILL"));
      await rm(userDataDir, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
