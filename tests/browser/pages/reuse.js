// A client that watches first and publishes later with `addTrack`: the browser then re-uses the very
// sections on which it receives somebody else, `sendrecv`.

import { playAll } from "./play.js";

/**
 * @param {{ url: string, room: string, self: string }} options
 */
export async function join({ url, room, self }) {
  const pc = new RTCPeerConnection();
  playAll(pc);
  const socket = new WebSocket(url);
  const client = { pc, socket, publish, failures: [] };
  const ids = { self_id: self, room_id: room };
  const send = (event, data) => socket.send(JSON.stringify({ event, data: { ...ids, ...data } }));

  pc.addEventListener("icecandidate", ({ candidate }) => {
    if (candidate) send("ice-candidate", { candidate });
  });
  socket.addEventListener("message", async ({ data }) => {
    const message = JSON.parse(data);
    try {
      if (message.event === "offer") {
        await pc.setRemoteDescription(JSON.parse(message.data));
        await pc.setLocalDescription();
        send("answer", { answer: pc.localDescription });
      } else if (message.event === "answer") {
        await pc.setRemoteDescription(JSON.parse(message.data));
      } else if (message.event === "candidate") {
        await pc.addIceCandidate(JSON.parse(message.data));
      } else if (message.event === "error") {
        client.failures.push(message.data);
      }
    } catch (error) {
      client.failures.push(`${message.event}: ${error.message}`);
    }
  });
  await new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve);
    socket.addEventListener("error", reject);
  });
  send("joinRoom", { offerer: "server" });
  return client;

  /** Publishes a camera and a microphone in the sections that already receive. */
  async function publish() {
    const media = await navigator.mediaDevices.getUserMedia({
      audio: true,
      video: { width: 320, height: 240, frameRate: 10 },
    });
    const before = pc.getTransceivers().length;
    for (const track of media.getTracks()) pc.addTrack(track, media);
    const reused = pc.getTransceivers().length === before;
    await pc.setLocalDescription();
    send("offer", { offer: pc.localDescription });
    return reused;
  }
}
