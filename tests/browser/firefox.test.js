// Firefox with Chromium, both ways. Firefox never gathers 127.0.0.1: the machine (or the network
// namespace that run.js makes) needs one address that is not loopback.

import assert from "node:assert/strict";
import { networkInterfaces } from "node:os";
import { after, before, describe, test } from "node:test";
import { launchChromium, launchFirefox } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startServer } from "./lib/server.js";
import { until } from "./lib/wait.js";

describe("Firefox with Chromium", () => {
  let server;
  const browsers = [];
  /** @type {Demo} */ let fox;
  /** @type {Demo} */ let chrome;

  before(async () => {
    const others = Object.values(networkInterfaces()).flat().filter((address) => address && !address.internal);
    assert.ok(others.length > 0, "no address but loopback: run these tests with `npm test`");
    server = await startServer();
    browsers.push(await launchFirefox(), await launchChromium());
    fox = new Demo(await browsers[0].page(), "Fox");
    chrome = new Demo(await browsers[1].page(), "Chrome");
  });
  after(async () => {
    await Promise.all(browsers.map((browser) => browser.close()));
    await server?.stop();
  });

  const bothWays = async () => {
    await Promise.all([fox.sees("Chrome"), fox.hears("Chrome"), chrome.sees("Fox"), chrome.hears("Fox")]);
  };

  test("Chromium first, Firefox joins", async () => {
    await chrome.join(server.url, "fox");
    await fox.join(server.url, "fox");
    await bothWays();
    await fox.screenshot("firefox.png");
  });

  test("pictures whose packets were padded are decoded", async () => {
    const padded = async () => {
      const metrics = await (await fetch(`${server.url}/metrics`)).text();
      const counts = [...metrics.matchAll(/^shardcast_rtp_padded_total\{.*\} (\d+)$/gm)];
      assert.ok(counts.length > 0, "the server counts them");
      return counts.reduce((sum, [, count]) => sum + Number(count), 0);
    };
    // The parts of a frame that come together are made equally long; pictures as small as these seldom have several.
    await until("packets are padded", async () => (await padded()) >= 5, 30_000);
    await bothWays();
  });

  test("Firefox first, Chromium joins", async () => {
    await chrome.click("#leave");
    await until("Chrome's tile goes", async () => (await fox.tiles()).length === 0, 5000);
    await chrome.join(server.url, "fox");
    await bothWays();
  });

  test("camera off and on, mute and unmute, in both", async () => {
    for (const [one, other] of [[fox, chrome], [chrome, fox]]) {
      await one.click("#toggle-mic");
      await one.click("#toggle-camera");
      await other.until("is told", (name) => {
        const peer = [...globalThis.shardcast.room.peers.values()].find((each) => each.name === name);
        return peer && [...peer.tracks.values()].every(({ published }) => !published);
      }, one.name);
      await one.click("#toggle-mic");
      await one.click("#toggle-camera");
      await other.sees(one.name);
      await other.hears(one.name);
    }
  });

  test("Firefox comes back when the server does", async () => {
    const { port } = server;
    await server.stop("SIGKILL");
    await fox.until("notices", () => globalThis.shardcast.room.state === "reconnecting");
    server = await startServer({ port });
    await Promise.all([fox.joined(25_000), chrome.joined(25_000)]);
    await bothWays();
  });
});
