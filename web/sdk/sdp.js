// @ts-check
// The two things the SDK reads from and writes to a session description (RFC 8866): which section
// carries whose track, and what our own tracks are called. Everything else is the browser's.

/** @import { Kind, ReceivedSection } from "./types.js" */

/**
 * The sections in which the sender of this description sends a track. The server's
 * `a=msid:<publishing peer> <track id>`, both percent-encoded, says whose it is (RFC 8830).
 * @param {string} sdp
 * @returns {ReceivedSection[]}
 */
export function receivedSections(sdp) {
  /** @type {ReceivedSection[]} */
  const received = [];
  for (const lines of mediaSections(sdp)) {
    const [kind, port] = (lines[0] ?? "").slice(2).split(" ");
    if (kind !== "audio" && kind !== "video") continue;
    // A section with port 0 is rejected, unless it only waits for its bundle (RFC 8843 §6).
    if (port === "0" && !lines.includes("a=bundle-only")) continue;
    if (lines.includes("a=inactive") || lines.includes("a=recvonly")) continue;
    const mid = attribute(lines, "mid");
    const [stream, track] = (attribute(lines, "msid") ?? "").split(" ");
    if (mid === undefined || !stream || stream === "-" || !track) continue;
    received.push({
      mid,
      kind: /** @type {Kind} */ (kind),
      peer: percentDecode(stream),
      track: percentDecode(track),
    });
  }
  return received;
}

/**
 * Whether media is to flow by this description, one way or the other: it has a section that is not rejected, even if nobody
 * sends in it at present.
 * @param {string} sdp
 */
export function hasMedia(sdp) {
  return mediaSections(sdp).some((lines) => lines[0]?.split(" ")[1] !== "0");
}

/**
 * Gives our tracks their names on the wire. A browser invents the ids of its tracks and takes none
 * from us; the server reads them only here, so the description it is sent may differ in this one
 * point from the one the browser applied.
 * @param {string} sdp
 * @param {ReadonlyMap<string, string>} names Track id by `mid`.
 * @returns {string}
 */
export function renameTracks(sdp, names) {
  return sdp
    .split(/(?=^m=)/m)
    .map((section) => {
      const mid = /^a=mid:(.*?)\r?$/m.exec(section)?.[1];
      const name = mid === undefined ? undefined : names.get(mid);
      if (name === undefined) return section;
      // The second form is how a source says it (RFC 5576), from the time before `a=msid`.
      return section
        .replace(/^(a=msid:\S+)(?: \S+)?/m, (_, stream) => `${stream} ${name}`)
        .replace(/^(a=ssrc:\d+ msid:\S+) \S+/gm, (_, stream) => `${stream} ${name}`);
    })
    .join("");
}

/**
 * The lines of each media section, its `m=` line first.
 * @param {string} sdp
 * @returns {string[][]}
 */
function mediaSections(sdp) {
  return sdp
    .split(/^(?=m=)/m)
    .filter((section) => section.startsWith("m="))
    .map((section) => section.split(/\r?\n/));
}

/**
 * @param {string[]} lines
 * @param {string} name
 * @returns {string | undefined}
 */
function attribute(lines, name) {
  const prefix = `a=${name}:`;
  return lines.find((line) => line.startsWith(prefix))?.slice(prefix.length);
}

/**
 * @param {string} text
 * @returns {string}
 */
function percentDecode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // not encoded by our rule: then it stands for itself
  }
}
