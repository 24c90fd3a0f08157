// @ts-check
// Whether the media connection comes about and comes back, in bounded time: browsers leave a connection `new` or `connecting` for
// as long as it likes, and after a restart of ICE begin to count anew.

/** @import { Broken } from "./types.js" */

/**
 * @typedef {object} WatchHandlers
 * @property {() => void} restart The path may have changed: new candidates, new checks.
 * @property {(code: Broken) => void} onBroken Nothing came of it: this connection is to be given up.
 */

/** LiveKit's default, too. A browser that gets through needs a few round trips, seconds on the worst of networks. */
export const CONNECT_TIMEOUT_MS = 15_000;
/** Browsers themselves call a path failed after 15 to 30 s; a restart needs one round trip. */
export const RECOVERY_TIMEOUT_MS = 10_000;

export class ConnectionWatch {
  #handlers;
  /** It was connected before. */
  #wasConnected = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} Runs while it is not connected and is to be; nothing makes it longer. */
  #timer;

  /** @param {WatchHandlers} handlers */
  constructor(handlers) {
    this.#handlers = handlers;
  }

  /** Both descriptions are known, and media is to flow: from now on something has to come of it. */
  expect() {
    // One that was lost comes back or fails by itself, whatever is negotiated meanwhile.
    if (!this.#wasConnected) this.#wait(CONNECT_TIMEOUT_MS);
  }

  /** @param {RTCPeerConnectionState} state */
  onState(state) {
    switch (state) {
      case "connected":
        this.#wasConnected = true;
        return this.stop();
      case "closed":
        return this.stop();
      case "connecting":
        return this.#wait(CONNECT_TIMEOUT_MS);
      case "failed":
        // One restart, which the server may also have begun.
        this.#wait(RECOVERY_TIMEOUT_MS);
        return this.#handlers.restart();
      default: // `disconnected` becomes `connected` or `failed` by itself
    }
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** @param {number} ms */
  #wait(ms) {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#handlers.onBroken(this.#wasConnected ? "media-failed" : "media-timeout");
    }, ms);
  }
}
