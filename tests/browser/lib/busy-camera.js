// A camera whose pictures are work: browsers' own fake device shows so little that its largest size takes less than
// the smallest of a real one.

/**
 * Gives a page such a camera. To be called before it is opened.
 * @param {import("puppeteer-core").Page} page
 */
export function busyCamera(page) {
  return page.evaluateOnNewDocument(busyInPage);
}

/** Runs in the page: what is asked for as video is drawn, in the size and at the rate that was asked for. */
function busyInPage() {
  const { mediaDevices } = navigator;
  const getUserMedia = mediaDevices.getUserMedia.bind(mediaDevices);
  const number = (/** @type {any} */ wanted, /** @type {number} */ otherwise) => Number(wanted?.exact ?? wanted?.ideal ?? wanted ?? otherwise);
  mediaDevices.getUserMedia = async (constraints = {}) => {
    const { video, ...others } = constraints;
    if (!video) return getUserMedia(constraints);
    const wanted = typeof video === "object" ? video : {};
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: number(wanted.width, 640), height: number(wanted.height, 480) });
    const frameRate = number(wanted.frameRate, 30);
    const [track] = canvas.captureStream(frameRate).getVideoTracks();
    const stop = draw(canvas, frameRate);
    const { stop: stopTrack } = track;
    track.stop = () => {
      stop();
      stopTrack.call(track);
    };
    const sound = others.audio ? (await getUserMedia({ audio: others.audio })).getAudioTracks() : [];
    return new MediaStream([track, ...sound]);
  };

  /** Patches that come up anywhere on a smooth ground: every picture is work, and no keyframe is a mountain. */
  function draw(/** @type {HTMLCanvasElement} */ canvas, /** @type {number} */ frameRate) {
    const { width, height } = canvas;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    const ground = context.createLinearGradient(0, 0, width, height);
    ground.addColorStop(0, "#246");
    ground.addColorStop(1, "#a86");
    // No chance: each run shows the same.
    let seed = 1;
    const random = () => {
      seed = (seed * 48271) % 2147483647;
      return seed / 2147483647;
    };
    const side = width / 16;
    const tick = () => {
      context.fillStyle = ground;
      context.fillRect(0, 0, width, height);
      for (let at = 0; at < PATCHES; at += 1) {
        context.fillStyle = `hsl(${360 * random()} 60% 50%)`;
        context.fillRect(width * random(), height * random(), side * random(), side * random());
      }
    };
    tick();
    const timer = setInterval(tick, 1000 / frameRate);
    return () => clearInterval(timer);
  }
  const PATCHES = 40;
}
