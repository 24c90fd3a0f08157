// @ts-check
// How loud a microphone is, before there is a connection whose statistics would say so.

/**
 * @param {MediaStreamTrack} track
 * @param {(level: number) => void} onLevel 0 to 1, some ten times a second.
 * @returns {() => void} Stops it.
 */
export function startMeter(track, onLevel) {
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  analyser.fftSize = 1024;
  context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const timer = setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
    // Speech spans some 50 dB: the scale is logarithmic, or it would hardly move.
    onLevel(power > 0 ? Math.min(1, Math.max(0, 1 + Math.log10(power) / 5)) : 0);
  }, 90);
  return () => {
    clearInterval(timer);
    void context.close();
  };
}
