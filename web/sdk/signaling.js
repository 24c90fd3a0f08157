// @ts-check
// One WebSocket to the server and its frames `{"event", "data"}`. Knows neither rooms nor media,
// and never reconnects: a lost socket is the room's business.

/**
 * @typedef {object} SignalingHandlers
 * @property {() => void} onOpen
 * @property {(event: string, data: any) => void} onEvent
 * @property {(opened: boolean) => void} onClose Called once, unless `close` was called; `opened`
 *   says whether the socket ever was.
 */

export class Signaling {
  #socket;
  #opened = false;
  /** @type {SignalingHandlers | null} */
  #handlers;

  /**
   * @param {string} url
   * @param {SignalingHandlers} handlers
   */
  constructor(url, handlers) {
    this.#handlers = handlers;
    this.#socket = new WebSocket(url);
    this.#socket.addEventListener("open", () => {
      this.#opened = true;
      this.#handlers?.onOpen();
    });
    this.#socket.addEventListener("message", (message) => this.#handleMessage(message.data));
    this.#socket.addEventListener("close", () => {
      const handlers = this.#handlers;
      this.#handlers = null;
      handlers?.onClose(this.#opened);
    });
  }

  /**
   * Drops the frame when the socket is not open: whoever needs it sends it again after rejoining.
   * @param {string} event
   * @param {object} data
   */
  send(event, data) {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    this.#socket.send(JSON.stringify({ event, data }));
  }

  /** Closes without a word to the handlers. Frames already sent still go out. */
  close() {
    this.#handlers = null;
    this.#socket.close();
  }

  /** @param {unknown} text */
  #handleMessage(text) {
    if (typeof text !== "string") return;
    let frame;
    try {
      frame = JSON.parse(text);
      // Descriptions and candidates come as JSON inside a string, as they always did.
      if (STRING_CODED.has(frame.event) && typeof frame.data === "string") {
        frame.data = JSON.parse(frame.data);
      }
    } catch (error) {
      console.warn("shardcast: a frame that is not JSON", error);
      return;
    }
    if (typeof frame?.event === "string") this.#handlers?.onEvent(frame.event, frame.data);
  }
}

const STRING_CODED = new Set(["offer", "answer", "candidate"]);
