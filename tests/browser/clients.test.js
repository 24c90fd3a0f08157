// Clients that are not the SDK: the predecessor's, and one that publishes where it receives.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Bare } from "./lib/bare.js";
import { launchChromium } from "./lib/browsers.js";
import { Demo } from "./lib/demo.js";
import { startServer } from "./lib/server.js";
import { serveFiles } from "./lib/static.js";
import { until } from "./lib/wait.js";

describe("clients that are not the SDK", () => {
  let server;
  let files;
  /** @type {Awaited<ReturnType<typeof launchChromium>>[]} */
  let browsers = [];

  before(async () => {
    server = await startServer();
    files = await serveFiles([fileURLToPath(new URL("pages", import.meta.url))], { host: "localhost" });
    browsers = await Promise.all([launchChromium(), launchChromium(), launchChromium()]);
  });
  after(async () => {
    await Promise.all(browsers.map((browser) => browser.close()));
    await files?.close();
    await server?.stop();
  });

  const pages = () => Promise.all(browsers.map((browser) => browser.page()));
  const socketAt = (path) => `ws://localhost:${server.port}${path}`;

  test("two of the predecessor's and one on the demo page see and hear each other", async () => {
    const [first, second, third] = await pages();
    const options = { url: socketAt("/"), room: "old" };
    const una = await new Bare(first, "una").join(files.url, "predecessor", options);
    const demo = await new Demo(second, "Demo").join(server.url, "old", { peer: "demo" });
    const vic = await new Bare(third, "vic é").join(files.url, "predecessor", options);
    await Promise.all([
      una.seesAndHears("demo"),
      una.seesAndHears("vic é"),
      vic.seesAndHears("demo"),
      vic.seesAndHears("una"),
      ...["una", "vic é"].flatMap((id) => [demo.sees(id), demo.hears(id)]),
    ]);
    assert.deepEqual(await una.failures(), []);
    assert.deepEqual(await vic.failures(), []);
    const ignored = await una.page.evaluate(() => [...globalThis.client.ignored]);
    assert.ok(ignored.includes("joined") && ignored.includes("peer-joined"), `ignored: ${ignored}`);
    assert.ok(!ignored.includes("error"), "the server finds no fault with it");

    // A third of its kind comes and goes on the demo page, and nothing breaks for those who stay.
    await demo.click("#leave");
    await until("una no longer has the demo page", async () => (await una.received("demo")) === null, 5000);
    await demo.until("is back at the door", () => !document.getElementById("join").hidden);
    await demo.click("#join-submit");
    await Promise.all([una.seesAndHears("demo"), vic.seesAndHears("demo"), demo.sees("una"), demo.sees("vic é")]);
    assert.deepEqual(await una.failures(), []);
  });

  test("addTrack on a section that receives: both ways flow", async () => {
    const [first, second, third] = await pages();
    const demo = await new Demo(first, "Demo").join(server.url, "reuse", { peer: "demo" });
    const roy = await new Bare(second, "roy").join(files.url, "reuse", { url: socketAt("/ws"), room: "reuse" });
    await roy.seesAndHears("demo");
    assert.equal(await roy.page.evaluate(() => globalThis.client.publish()), true, "the browser re-uses the sections");
    await Promise.all([demo.sees("roy"), demo.hears("roy"), roy.seesAndHears("demo")]);
    assert.deepEqual(await roy.failures(), []);

    // Somebody else comes: more sections, and the shared ones go on.
    const late = await new Demo(third, "Late").join(server.url, "reuse", { peer: "late" });
    await Promise.all([late.sees("roy"), late.hears("roy"), late.sees("Demo"), roy.seesAndHears("late"), roy.seesAndHears("demo"), demo.sees("roy")]);
    // The one received in the shared sections goes: what is sent there must stay.
    await demo.click("#leave");
    await until("roy no longer receives demo", async () => (await roy.received("demo")) === null, 5000);
    await Promise.all([late.sees("roy"), late.hears("roy"), roy.seesAndHears("late")]);
    assert.deepEqual(await roy.failures(), []);
  });
});
