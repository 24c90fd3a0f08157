// @ts-check
// What `getStats` says, in the few numbers a person asks for.

/**
 * @typedef {object} VideoStream
 * @property {"sent" | "received"} way
 * @property {number} width
 * @property {number} height
 * @property {number} framesPerSecond
 * @property {string} codec
 */

/**
 * What is not known (yet) is null.
 * @typedef {object} Diagnosis
 * @property {number | null} roundTripMs
 * @property {number | null} sentBitsPerSecond
 * @property {number | null} receivedBitsPerSecond
 * @property {number | null} lostPercent Of the packets we should have received.
 * @property {string | null} srtpCipher
 * @property {string | null} remoteAddress
 * @property {VideoStream[]} videos
 */

/**
 * @param {RTCStatsReport} report
 * @param {RTCStatsReport | null} before The report that rates are counted from; what is older than
 *   {@link SPAN_MAX_MS} says nothing of now.
 * @returns {Diagnosis}
 */
export function diagnose(report, before) {
  /** @type {Diagnosis} */
  const diagnosis = {
    roundTripMs: null,
    sentBitsPerSecond: null,
    receivedBitsPerSecond: null,
    lostPercent: null,
    srtpCipher: null,
    remoteAddress: null,
    videos: [],
  };
  const gained = { bytesSent: 0, bytesReceived: 0, packetsLost: 0, packetsReceived: 0 };
  let spanMs = 0;
  for (const entry of report.values()) {
    const previous = before?.get(entry.id);
    switch (entry.type) {
      case "transport":
        diagnosis.srtpCipher = entry.srtpCipher ?? null;
        break;
      case "candidate-pair":
        if (!entry.nominated || entry.state !== "succeeded") break;
        if (entry.currentRoundTripTime !== undefined) {
          diagnosis.roundTripMs = entry.currentRoundTripTime * 1000;
        }
        diagnosis.remoteAddress = address(report.get(entry.remoteCandidateId));
        break;
      case "outbound-rtp":
      case "inbound-rtp":
        spanMs = Math.max(spanMs, entry.timestamp - (previous?.timestamp ?? Infinity));
        for (const field of /** @type {(keyof typeof gained)[]} */ (Object.keys(gained))) {
          gained[field] += gain(entry, previous, field);
        }
        if (entry.kind === "video") push(diagnosis.videos, entry.type === "inbound-rtp" ? "received" : "sent", entry, report);
        break;
      default:
    }
  }
  if (spanMs < SPAN_MIN_MS || spanMs > SPAN_MAX_MS) return diagnosis;
  diagnosis.sentBitsPerSecond = (gained.bytesSent * 8000) / spanMs;
  diagnosis.receivedBitsPerSecond = (gained.bytesReceived * 8000) / spanMs;
  const expected = gained.packetsLost + gained.packetsReceived;
  diagnosis.lostPercent = expected > 0 ? (100 * gained.packetsLost) / expected : 0;
  return diagnosis;
}

/** A few pictures: a rate over less would be chance. */
const SPAN_MIN_MS = 250;
/** From how long ago rates are counted at most. */
const SPAN_MAX_MS = 10_000;

/**
 * What a counter has grown by; a stream that was not there before counts from the next time on.
 * @param {any} entry
 * @param {any} previous
 * @param {string} field
 * @returns {number}
 */
function gain(entry, previous, field) {
  return Math.max(0, entry[field] - previous?.[field]) || 0;
}

/**
 * @param {VideoStream[]} videos
 * @param {"sent" | "received"} way
 * @param {any} entry
 * @param {RTCStatsReport} report
 */
function push(videos, way, entry, report) {
  if (!entry.frameWidth || !entry.framesPerSecond) return; // paused
  videos.push({
    way,
    width: entry.frameWidth,
    height: entry.frameHeight,
    framesPerSecond: entry.framesPerSecond,
    codec: (report.get(entry.codecId)?.mimeType ?? "").replace("video/", ""),
  });
}

/**
 * @param {any} candidate
 * @returns {string | null}
 */
function address(candidate) {
  if (!candidate?.address) return null;
  const host = candidate.address.includes(":") ? `[${candidate.address}]` : candidate.address;
  return `${host}:${candidate.port}`;
}
