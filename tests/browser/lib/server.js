// The server under test, as a process.

import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

/** Where its output goes when a test fails: the last lines, in memory. */
const LOG_LINES_MAX = 200;

/**
 * Starts it on all addresses, on free ports, and waits until it listens.
 * @param {{ port?: number, args?: string[] }} [options] `port`: of HTTP, to come back on the same.
 */
export async function startServer({ port = 0, args = [] } = {}) {
  const child = spawn(
    binary(),
    ["--http", `0.0.0.0:${port}`, "--udp-port", "0", ...args],
    { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, NO_COLOR: "1" } },
  );
  /** @type {string[]} */
  const log = [];
  const exited = new Promise((done) => child.once("exit", (code, signal) => done({ code, signal })));
  /** @type {{ port: number, candidates: string[] }} */
  const listening = await new Promise((found, failed) => {
    const onData = (/** @type {Buffer} */ data) => {
      for (const line of data.toString().replaceAll(/\u001b\[[0-9;]*m/g, "").split("\n")) {
        if (line === "") continue;
        log.push(line);
        if (log.length > LOG_LINES_MAX) log.shift();
        const http = /listening\b.*?\bhttp=\S*?:(\d+)\b/.exec(line);
        const candidates = /\bcandidates=(\S+)/.exec(line);
        if (http) found({ port: Number(http[1]), candidates: candidates?.[1].split(",") ?? [] });
      }
    };
    child.stdout.on("data", onData);
    child.stderr.on("data", onData);
    child.once("error", failed);
    void exited.then(({ code, signal }) =>
      failed(new Error(`the server ended (${code ?? signal}) before it listened:\n${log.join("\n")}`)),
    );
    setTimeout(() => failed(new Error(`the server does not listen:\n${log.join("\n")}`)), 15_000).unref();
  }).catch((error) => {
    child.kill("SIGKILL");
    throw error;
  });
  return {
    port: listening.port,
    /** Its UDP addresses, as it tells them to clients. */
    candidates: listening.candidates,
    /** A secure context, so that there are cameras. */
    url: `http://localhost:${listening.port}`,
    log,
    /**
     * @param {NodeJS.Signals} [signal]
     * @returns {Promise<{ code: number | null, signal: string | null }>}
     */
    async stop(signal = "SIGTERM") {
      child.kill(signal);
      const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
      const result = await exited;
      clearTimeout(timer);
      return result;
    },
  };
}

/** The program under test. */
export function binary() {
  const { SHARDCAST_BIN, CARGO_TARGET_DIR } = process.env;
  const target = CARGO_TARGET_DIR ?? resolve(ROOT, "target");
  const candidates = SHARDCAST_BIN
    ? [SHARDCAST_BIN]
    : ["release", "debug"].map((profile) => resolve(target, profile, "shardcast"));
  const found = candidates.find((path) => existsSync(path));
  if (!found) throw new Error(`no server to test: set SHARDCAST_BIN, or build one (looked at ${candidates.join(", ")})`);
  return found;
}
