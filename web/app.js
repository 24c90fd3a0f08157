// @ts-check
// The page: reads the address, wires the controls to the state, and the room to both.

import { renderCall } from "./call-view.js";
import { acquire, chooseDevice, publishOptions, releaseAll, setPicture, setPublishing, toggleCamera, toggleMicrophone, toggleScreen } from "./devices.js";
import { byId, setIcon } from "./dom.js";
import { inviteLink, parseFlags } from "./flags.js";
import { renderJoin } from "./join-view.js";
import { isGranted } from "./media.js";
import { roomMessage } from "./messages.js";
import { startMeter } from "./meter.js";
import { suggestRoom } from "./names.js";
import { clearToasts, showBanner, toast } from "./notices.js";
import { renderPeople } from "./people-view.js";
import { connect } from "./sdk/shardcast.js";
import { renderSound, unblockSound } from "./sound.js";
import { addView, state, update } from "./store.js";
import { shownTheme, toggleTheme, watchTheme } from "./theme.js";
import { displayName } from "./tiles.js";
import { wireToolbar } from "./toolbar.js";

/** @import { Room } from "./sdk/shardcast.js" */
/** @import { DeviceKind } from "./media.js" */
/** @import { Reason, RemotePeer } from "./sdk/types.js" */
/** @import { State } from "./store.js" */

const flags = parseFlags(location.search);
const joinPage = byId("join", HTMLElement);
const callPage = byId("call", HTMLElement);

/**
 * For tests and for curious people at the console.
 * @type {{ room: Room | null }}
 */
const exposed = { room: null };
Object.assign(globalThis, { shardcast: exposed });

function main() {
  setPicture(flags);
  setPublishing(flags);
  update({ name: flags.name ?? remembered(), roomId: flags.room ?? suggestRoom(), theme: shownTheme() });
  addView(renderPage);
  addView(renderTheme);
  addView(renderJoin);
  addView(renderCall);
  addView(renderPeople);
  addView(renderSound);
  addView(renderBanner);
  addView(renderMeter);
  wireTheme();
  wireJoin();
  wireCall();
  setInterval(refreshSpeaking, SPEAKING_INTERVAL_MS);
  setInterval(refreshDiagnosis, DIAGNOSIS_INTERVAL_MS);
  setInterval(() => state.room?.retry && update(), COUNTDOWN_INTERVAL_MS);
  addEventListener("pagehide", () => state.room?.leave());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  if (flags.join) void join();
  else void previewIfGranted();
}

// --- joining and leaving -----------------------------------------------------------------------

async function join() {
  const roomId = state.roomId.trim();
  if (state.joining || state.room !== null || roomId === "") return;
  update({ joining: true, roomId, ended: null });
  remember(state.name.trim());
  await acquire(wanted());
  const room = connect({
    room: roomId,
    name: state.name.trim() || undefined,
    peer: flags.peer ?? undefined,
    tracks: (/** @type {DeviceKind[]} */ (["microphone", "camera"])).flatMap((source) => {
      const track = state[source];
      const muted = source === "microphone" && state.muted;
      return track === null ? [] : [{ track, source, muted, ...publishOptions(source) }];
    }),
  });
  exposed.room = room;
  room.addEventListener("state", () => onRoomState(room));
  for (const event of ["peers", "local", "connection", "layer-changed"]) {
    room.addEventListener(event, () => update());
  }
  room.addEventListener("active-speakers", () => void refreshSpeaking());
  room.addEventListener("peer-joined", (event) => announce(event, "joined"));
  room.addEventListener("peer-left", (event) => announce(event, "left"));
  room.addEventListener("server-error", (event) => onServerError(event));
  update({ joining: false, room, view: "call" });
  showInAddress(roomId);
}

/** @param {Room} room */
function onRoomState(room) {
  if (state.room !== room) return;
  if (room.state === "closed") {
    releaseAll();
    update({
      view: "join",
      room: null,
      ended: room.reason?.code === "left" ? null : room.reason,
      panel: false,
      pinned: null,
      speaking: new Set(),
      diagnosis: null,
      soundBlocked: false,
    });
  }
  update();
}

/** @param {Event} event */
function onServerError(event) {
  const error = /** @type {CustomEvent<Reason>} */ (event).detail;
  console.warn("shardcast: the server refused", error);
  // Late answers and odd candidates are nobody's fault and cost nothing.
  if (!HARMLESS.has(error.code)) toast(roomMessage(error), "error");
}

const HARMLESS = new Set(["unexpected-answer", "bad-candidate"]);

/**
 * @param {Event} event
 * @param {string} did
 */
function announce(event, did) {
  const peer = /** @type {CustomEvent<RemotePeer>} */ (event).detail;
  toast({ title: displayName(peer), hint: did });
}

/** @returns {DeviceKind[]} */
function wanted() {
  /** @type {DeviceKind[]} */
  const kinds = [];
  if (state.wantsMicrophone) kinds.push("microphone");
  if (state.wantsCamera) kinds.push("camera");
  return kinds;
}

/** Who has allowed it before is shown the preview without asking. */
async function previewIfGranted() {
  const granted = await Promise.all(wanted().map(async (kind) => ((await isGranted(kind)) ? [kind] : [])));
  await acquire(granted.flat());
}

// --- wiring ------------------------------------------------------------------------------------

function wireTheme() {
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    button.addEventListener("click", () => {
      toggleTheme();
      update({ theme: shownTheme() });
    });
  }
  watchTheme(() => update({ theme: shownTheme() }));
}

function wireJoin() {
  const name = byId("join-name", HTMLInputElement);
  const room = byId("join-room", HTMLInputElement);
  name.addEventListener("input", () => update({ name: name.value }));
  room.addEventListener("input", () => update({ roomId: room.value }));
  byId("join-shuffle", HTMLElement).addEventListener("click", () => update({ roomId: suggestRoom() }));
  byId("join-form", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    void join();
  });
  byId("preview-start", HTMLElement).addEventListener("click", () => acquire(wanted()));
  byId("preview-mic", HTMLElement).addEventListener("click", toggleMicrophoneInLobby);
  byId("preview-camera", HTMLElement).addEventListener("click", toggleCameraInLobby);
  wireChoice("device-mic", "microphone");
  wireChoice("device-camera", "camera");
}

/**
 * @param {string} id
 * @param {DeviceKind} kind
 */
function wireChoice(id, kind) {
  const select = byId(id, HTMLSelectElement);
  select.addEventListener("change", () => chooseDevice(kind, select.value));
}

/** Before the devices were first asked for, the buttons only say what is wanted. */
function toggleMicrophoneInLobby() {
  if (state.microphone === null && state.wantsMicrophone) update({ wantsMicrophone: false });
  else void toggleMicrophone();
}

function toggleCameraInLobby() {
  if (state.camera === null && state.wantsCamera) update({ wantsCamera: false });
  else void toggleCamera();
}

function wireCall() {
  byId("toggle-mic", HTMLElement).addEventListener("click", toggleMicrophone);
  byId("toggle-camera", HTMLElement).addEventListener("click", toggleCamera);
  byId("toggle-screen", HTMLElement).addEventListener("click", toggleScreen);
  byId("leave", HTMLElement).addEventListener("click", () => state.room?.leave());
  byId("copy-link", HTMLElement).addEventListener("click", copyLink);
  byId("alone-copy", HTMLElement).addEventListener("click", copyLink);
  wireChoice("call-mic", "microphone");
  wireChoice("call-camera", "camera");
  wireToolbar(byId("controls", HTMLElement));
  const people = byId("toggle-people", HTMLButtonElement);
  const close = () => {
    update({ panel: false });
    people.focus();
  };
  people.addEventListener("click", () => {
    update({ panel: !state.panel, diagnosis: null });
    void refreshDiagnosis();
  });
  byId("diagnosis", HTMLElement).addEventListener("toggle", () => void refreshDiagnosis());
  byId("close-people", HTMLElement).addEventListener("click", close);
  addEventListener("keydown", (event) => {
    if (state.view !== "call" || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    // Who types or chooses from a list means no command, and Escape is first of what lies on top.
    const { target } = event;
    if (target instanceof Element && target.closest("input, select, textarea")) return;
    if (event.key === "Escape" && state.panel && document.querySelector(":popover-open") === null) close();
    else if (event.key === "m") void toggleMicrophone();
    else if (event.key === "c") void toggleCamera();
  });
}

async function copyLink() {
  const link = inviteLink(state.roomId);
  try {
    await navigator.clipboard.writeText(link);
    toast({ title: "Link copied.", hint: "Send it to whoever should join." });
  } catch {
    // No clipboard over plain http, or refused: then the link itself is the message.
    toast({ title: "Copy this link:", hint: link });
  }
}

// --- drawing -----------------------------------------------------------------------------------

/** @param {Readonly<State>} now */
function renderPage({ view, roomId }) {
  const page = view === "call" ? callPage : joinPage;
  if (!page.hidden) return;
  joinPage.hidden = view !== "join";
  callPage.hidden = view !== "call";
  document.title = view === "call" ? `${roomId} · shardcast` : "shardcast";
  clearToasts("info");
  if (view === "call") byId("room-name", HTMLElement).focus();
}

/** @param {Readonly<State>} now */
function renderTheme({ theme }) {
  const label = theme === "light" ? "Use the dark theme" : "Use the light theme";
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    setIcon(button, theme === "light" ? "moon" : "sun");
    button.setAttribute("aria-label", label);
    button.setAttribute("title", label);
  }
}

/** @param {Readonly<State>} now */
function renderBanner({ room, ended, soundBlocked }) {
  if (room?.state === "reconnecting" && room.reason) {
    const { title, hint } = roomMessage(room.reason);
    const seconds = room.retry ? Math.max(0, Math.ceil((room.retry.at - Date.now()) / 1000)) : 0;
    const when = seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again…";
    showBanner({
      key: `reconnecting/${room.reason.code}`,
      tone: "warn",
      title,
      hint: `${hint} ${when}`,
      action: { label: "Try now", run: () => room.retryNow() },
    });
  } else if (ended !== null) {
    const { title, hint } = roomMessage(ended);
    const label = ended.code === "replaced" ? "Join here instead" : "Try again";
    showBanner({ key: `ended/${ended.code}`, tone: "error", title, hint, action: { label, run: join } });
  } else if (soundBlocked) {
    showBanner({
      key: "sound",
      tone: "info",
      icon: "sound",
      title: "The browser holds the sound back.",
      hint: "One tap, and you hear the others.",
      action: { label: "Tap to hear", run: unblockSound },
    });
  } else {
    showBanner(null);
  }
}

/** @type {{ track: MediaStreamTrack, stop: () => void } | null} */
let meter = null;

/** @param {Readonly<State>} now */
function renderMeter({ view, microphone }) {
  const track = view === "join" ? microphone : null;
  if (meter?.track === track || (meter === null && track === null)) return;
  meter?.stop();
  meter = null;
  const element = byId("preview-meter", HTMLElement);
  element.style.setProperty("--level", "0");
  element.hidden = track === null;
  if (track === null) return;
  meter = { track, stop: startMeter(track, (level) => element.style.setProperty("--level", String(level))) };
}

// --- what is measured --------------------------------------------------------------------------

/** @type {Map<string, number>} When each peer was last loud, in milliseconds since the epoch. */
const lastLoud = new Map();

async function refreshSpeaking() {
  const { room } = state;
  if (room?.state !== "joined") {
    lastLoud.clear();
    if (state.speaking.size > 0) update({ speaking: new Set() });
    return;
  }
  const now = Date.now();
  // The server hears everybody, also those whose sound it holds back; one that does not say so leaves
  // it to what arrives here.
  const heard = room.speakers;
  for (const [peer, level] of await room.audioLevels()) {
    if (level > SPEAKING_LEVEL && (heard === null || peer === room.self)) lastLoud.set(peer, now);
  }
  for (const [peer, at] of lastLoud) if (now - at > SPEAKING_HOLD_MS) lastLoud.delete(peer);
  const speaking = new Set([...lastLoud.keys(), ...(heard?.active ?? []).map(({ peer }) => peer)]);
  const same = speaking.size === state.speaking.size && [...speaking].every((peer) => state.speaking.has(peer));
  if (!same) update({ speaking });
}

async function refreshDiagnosis() {
  if (!state.panel || !byId("diagnosis", HTMLDetailsElement).open || state.room === null) return;
  update({ diagnosis: await state.room.diagnose() });
}

const SPEAKING_INTERVAL_MS = 250;
/** Linear, 0 to 1: quiet speech, above a fan. */
const SPEAKING_LEVEL = 0.02;
/** The pause between two words is not the end. */
const SPEAKING_HOLD_MS = 700;
const DIAGNOSIS_INTERVAL_MS = 1000;
const COUNTDOWN_INTERVAL_MS = 250;

// --- the address and the memory ----------------------------------------------------------------

/**
 * A reload comes back to the same room's door.
 * @param {string} room
 */
function showInAddress(room) {
  const url = new URL(location.href);
  url.searchParams.set("room", room);
  url.searchParams.delete("join");
  url.searchParams.delete("name");
  history.replaceState(null, "", url);
}

function remembered() {
  try {
    return localStorage.getItem(NAME_KEY) ?? "";
  } catch {
    return ""; // storage may be forbidden
  }
}

/** @param {string} name */
function remember(name) {
  try {
    localStorage.setItem(NAME_KEY, name);
  } catch {
    // not remembered, then
  }
}

const NAME_KEY = "shardcast.name";

main();
