// @ts-check
// Camera, microphone and screen: asks the browser for them, and says what went wrong.

/** @typedef {"microphone" | "camera"} DeviceKind */

/**
 * @typedef {object} CaptureProblem
 * @property {DeviceKind | "screen"} device
 * @property {string} name A DOMException's name, or `InsecureContext`.
 */

/**
 * @typedef {object} Captured
 * @property {MediaStreamTrack} [microphone]
 * @property {MediaStreamTrack} [camera]
 * @property {CaptureProblem[]} problems
 */

/**
 * @typedef {object} CaptureOptions
 * @property {number} width
 * @property {number} height
 * @property {number} fps
 * @property {Partial<Record<DeviceKind, string>>} deviceIds Chosen by the user.
 */

/**
 * Asks for the devices: together, so that there is one prompt; one by one if that fails, so that
 * one missing device does not cost the other.
 * @param {readonly DeviceKind[]} wanted
 * @param {CaptureOptions} options
 * @returns {Promise<Captured>}
 */
export async function capture(wanted, options) {
  if (wanted.length === 0) return { problems: [] };
  if (!navigator.mediaDevices?.getUserMedia) {
    return { problems: wanted.map((device) => ({ device, name: "InsecureContext" })) };
  }
  try {
    return tracksOf(await ask(wanted, options));
  } catch (error) {
    if (wanted.length === 1) return { problems: wanted.map((device) => problem(device, error)) };
    return captureOneByOne(wanted, options, error);
  }
}

/**
 * @param {readonly DeviceKind[]} wanted
 * @param {CaptureOptions} options
 * @param {unknown} error Of asking for all of them.
 * @returns {Promise<Captured>}
 */
async function captureOneByOne(wanted, options, error) {
  /** @type {Captured} */
  const captured = { problems: [] };
  for (const device of wanted) {
    // Whoever just said no to the prompt is not to be asked twice more.
    const refused = nameOf(error) === "NotAllowedError" && !(await isGranted(device));
    if (refused) {
      captured.problems.push({ device, name: "NotAllowedError" });
      continue;
    }
    const { problems, ...tracks } = await capture([device], options);
    Object.assign(captured, tracks);
    captured.problems.push(...problems);
  }
  return captured;
}

/**
 * @returns {Promise<{ track: MediaStreamTrack } | { problem: CaptureProblem } | null>} Null when
 *   the user changed their mind.
 */
export async function captureScreen() {
  if (!canShareScreen()) return { problem: { device: "screen", name: "InsecureContext" } };
  try {
    const stream = await navigator.mediaDevices.getDisplayMedia({
      video: { frameRate: { ideal: 15, max: 30 } },
      audio: false,
    });
    const track = stream.getVideoTracks()[0];
    if (!track) return null;
    track.contentHint = "detail"; // text stays sharp; frames go first when bandwidth is short
    return { track };
  } catch (error) {
    // Dismissing the picker and a refusal look the same; neither needs telling.
    if (["NotAllowedError", "AbortError"].includes(nameOf(error))) return null;
    return { problem: problem("screen", error) };
  }
}

/** Phones cannot. */
export function canShareScreen() {
  return typeof navigator.mediaDevices?.getDisplayMedia === "function";
}

/**
 * @param {DeviceKind} device
 * @returns {Promise<boolean>} False when unknown.
 */
export async function isGranted(device) {
  try {
    const name = /** @type {PermissionName} */ (device);
    return (await navigator.permissions.query({ name })).state === "granted";
  } catch {
    return false;
  }
}

/** @returns {Promise<MediaDeviceInfo[]>} */
export async function listDevices() {
  try {
    return await navigator.mediaDevices.enumerateDevices();
  } catch {
    return [];
  }
}

/**
 * @param {readonly DeviceKind[]} wanted
 * @param {CaptureOptions} options
 */
function ask(wanted, { width, height, fps, deviceIds }) {
  /** @type {MediaStreamConstraints} */
  const constraints = {};
  if (wanted.includes("microphone")) {
    constraints.audio = {
      echoCancellation: true,
      noiseSuppression: true,
      autoGainControl: true,
      ...(deviceIds.microphone ? { deviceId: { ideal: deviceIds.microphone } } : {}),
    };
  }
  if (wanted.includes("camera")) {
    constraints.video = {
      width: { ideal: width },
      height: { ideal: height },
      frameRate: { ideal: fps },
      ...(deviceIds.camera ? { deviceId: { ideal: deviceIds.camera } } : { facingMode: "user" }),
    };
  }
  return navigator.mediaDevices.getUserMedia(constraints);
}

/**
 * @param {MediaStream} stream
 * @returns {Captured}
 */
function tracksOf(stream) {
  /** @type {Captured} */
  const captured = { problems: [] };
  const [microphone] = stream.getAudioTracks();
  const [camera] = stream.getVideoTracks();
  if (microphone) captured.microphone = microphone;
  if (camera) {
    camera.contentHint = "motion";
    captured.camera = camera;
  }
  return captured;
}

/**
 * @param {CaptureProblem["device"]} device
 * @param {unknown} error
 * @returns {CaptureProblem}
 */
function problem(device, error) {
  return { device, name: nameOf(error) };
}

/** @param {unknown} error */
function nameOf(error) {
  return error instanceof Error || error instanceof DOMException ? error.name : "Error";
}
