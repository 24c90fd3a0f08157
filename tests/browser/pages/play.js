// Plays what arrives, as any client does: Chromium decodes no sound that nobody listens to.

/** @param {RTCPeerConnection} pc */
export function playAll(pc) {
  pc.addEventListener("track", ({ track }) => {
    const element = document.createElement(track.kind);
    element.playsInline = true;
    element.srcObject = new MediaStream([track]);
    document.body.append(element);
    void element.play();
  });
}
