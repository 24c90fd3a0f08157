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
 * @typedef {object} Diagnosis
 * @property {number | null} roundTripMs
 * @property {number} sentBitsPerSecond
 * @property {number} receivedBitsPerSecond
 * @property {number} lostPercent Of the packets we should have received.
 * @property {string | null} srtpCipher
 * @property {string | null} remoteAddress
 * @property {VideoStream[]} videos
 */

/**
 * @param {RTCStatsReport} report
 * @param {RTCStatsReport | null} before The report that rates are counted from.
 * @returns {Diagnosis}
 */
export function diagnose(report, before) {
  /** @type {Diagnosis} */
  const diagnosis = {
    roundTripMs: null,
    sentBitsPerSecond: 0,
    receivedBitsPerSecond: 0,
    lostPercent: 0,
    srtpCipher: null,
    remoteAddress: null,
    videos: [],
  };
  let lost = 0;
  let received = 0;
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
        diagnosis.sentBitsPerSecond += rate(entry, previous, "bytesSent") * 8;
        if (entry.kind === "video") push(diagnosis.videos, "sent", entry, report);
        break;
      case "inbound-rtp":
        diagnosis.receivedBitsPerSecond += rate(entry, previous, "bytesReceived") * 8;
        lost += rate(entry, previous, "packetsLost");
        received += rate(entry, previous, "packetsReceived");
        if (entry.kind === "video") push(diagnosis.videos, "received", entry, report);
        break;
      default:
    }
  }
  if (lost > 0) diagnosis.lostPercent = (100 * lost) / (lost + received);
  return diagnosis;
}

/**
 * @param {any} entry
 * @param {any} previous
 * @param {string} field
 * @returns {number} Per second.
 */
function rate(entry, previous, field) {
  const milliseconds = entry.timestamp - (previous?.timestamp ?? NaN);
  const gained = entry[field] - previous?.[field];
  return milliseconds > 0 && gained > 0 ? (gained * 1000) / milliseconds : 0;
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
