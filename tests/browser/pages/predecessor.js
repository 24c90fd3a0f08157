// A client of the predecessor, written anew: it knows the first block of DESIGN.md §5's table and
// nothing more. It joins, offers once by hand without waiting for anything, never heeds
// `negotiationneeded`, answers without ids, and ignores events it does not know.

import { playAll } from "./play.js";

/**
 * @param {{ url: string, room: string, self: string }} options
 */
export async function join({ url, room, self }) {
  const media = await navigator.mediaDevices.getUserMedia({
    audio: true,
    video: { width: 320, height: 240, frameRate: 10 },
  });
  const pc = new RTCPeerConnection();
  playAll(pc);
  const socket = new WebSocket(url);
  const client = { pc, socket, ignored: new Set(), failures: [] };
  const ids = { self_id: self, room_id: room };
  const send = (event, data) => socket.send(JSON.stringify({ event, data }));
  // A field that is undefined is left out by JSON: `offer` in an `answer`, and so on.
  const sendDescription = (event, { offer, answer }, known) => send(event, { ...known, offer, answer });

  pc.addEventListener("icecandidate", ({ candidate }) => {
    if (candidate) send("ice-candidate", { ...ids, candidate });
  });
  for (const track of media.getTracks()) pc.addTrack(track, media);

  socket.addEventListener("message", async ({ data }) => {
    const message = JSON.parse(data);
    try {
      switch (message.event) {
        case "offer": {
          await pc.setRemoteDescription(JSON.parse(message.data));
          const answer = await pc.createAnswer();
          await pc.setLocalDescription(answer);
          sendDescription("answer", { answer }, {});
          break;
        }
        case "answer":
          await pc.setRemoteDescription(JSON.parse(message.data));
          break;
        case "candidate":
          await pc.addIceCandidate(JSON.parse(message.data));
          break;
        default:
          client.ignored.add(message.event);
      }
    } catch (error) {
      client.failures.push(`${message.event}: ${error.message}`);
    }
  });

  await new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve);
    socket.addEventListener("error", reject);
  });
  send("joinRoom", ids);
  const offer = await pc.createOffer();
  await pc.setLocalDescription(offer);
  sendDescription("offer", { offer }, ids);
  return client;
}
