// @ts-check
// The panel: who is in the room, and how well it reaches us.

import { renderChoices } from "./device-choice.js";
import { byId, icon, make, setText, syncChildren } from "./dom.js";
import { hue, initials } from "./names.js";
import { bits } from "./quality.js";
import { displayName, published } from "./tiles.js";

/** @import { State } from "./store.js" */
/** @import { Diagnosis } from "./sdk/stats.js" */

/**
 * @typedef {object} Person
 * @property {string} id
 * @property {string} name
 * @property {boolean} self
 * @property {boolean} microphone
 * @property {boolean} camera
 * @property {boolean} screen
 */

const panel = byId("people", HTMLElement);
const toggle = byId("toggle-people", HTMLButtonElement);
const list = byId("people-list", HTMLUListElement);
const numbers = byId("diagnosis-list", HTMLDListElement);
const nothingToChoose = byId("settings-none", HTMLElement);
const selects = {
  microphone: byId("call-mic", HTMLSelectElement),
  camera: byId("call-camera", HTMLSelectElement),
};

/** @type {Map<string, PersonView>} */
const views = new Map();

/** @param {Readonly<State>} state */
export function renderPeople(state) {
  panel.hidden = !state.panel;
  toggle.setAttribute("aria-expanded", String(state.panel));
  if (!state.panel) return;
  syncChildren(list, views, peopleOf(state), {
    key: (person) => person.id,
    create: (person) => new PersonView(person),
    update: (view, person) => view.update(person),
  });
  nothingToChoose.hidden = renderChoices(selects, state);
  renderDiagnosis(state.diagnosis);
}

class PersonView {
  element = make("li");
  #avatar = make("span", { class: "avatar", "aria-hidden": "true" });
  #name = make("span", { class: "person-name" });
  #signs = make("span", { class: "person-signs" });

  /** @param {Person} person */
  constructor(person) {
    this.element.style.setProperty("--hue", String(hue(person.id)));
    this.element.dataset.peer = person.id;
    this.element.append(this.#avatar, this.#name, this.#signs);
  }

  /** @param {Person} person */
  update(person) {
    setText(this.#avatar, initials(person.name));
    setText(this.#name, person.self ? `${person.name} (you)` : person.name);
    const signs = [
      person.screen ? "screen" : "",
      person.camera ? "camera" : "camera-off",
      person.microphone ? "mic" : "mic-off",
    ].filter(Boolean);
    if (this.#signs.dataset.signs === signs.join()) return;
    this.#signs.dataset.signs = signs.join();
    this.#signs.replaceChildren(...signs.map(sign));
  }
}

/** @param {string} name */
function sign(name) {
  const text = /** @type {Record<string, string>} */ (SIGN_TEXTS)[name] ?? name;
  const element = make("span", { role: "img", "aria-label": text, title: text });
  element.classList.toggle("off", name.endsWith("-off"));
  element.append(icon(name));
  return element;
}

const SIGN_TEXTS = {
  screen: "sharing a screen",
  camera: "camera on",
  "camera-off": "camera off",
  mic: "microphone on",
  "mic-off": "microphone off",
};

/**
 * @param {Readonly<State>} state
 * @returns {Person[]}
 */
function peopleOf(state) {
  const { room } = state;
  if (room === null) return [];
  const others = [...room.peers.values()].map((peer) => ({
    id: peer.id,
    name: displayName(peer),
    self: false,
    microphone: published(peer, "microphone").length > 0,
    camera: published(peer, "camera").length > 0,
    screen: published(peer, "screen").length > 0,
  }));
  const self = {
    id: room.self,
    name: state.name || "You",
    self: true,
    microphone: state.microphone !== null && !state.muted,
    camera: state.camera !== null,
    screen: state.screen !== null,
  };
  return [self, ...others];
}

/** @param {Diagnosis | null} diagnosis */
function renderDiagnosis(diagnosis) {
  const rows = diagnosis === null ? [["State", "no media yet"]] : rowsOf(diagnosis);
  const text = rows.flat().join("\n");
  if (numbers.dataset.text === text) return;
  numbers.dataset.text = text;
  numbers.replaceChildren(
    ...rows.flatMap(([term, value]) => [make("dt", {}, term ?? ""), make("dd", {}, value ?? "")]),
  );
}

/**
 * @param {Diagnosis} diagnosis
 * @returns {string[][]}
 */
function rowsOf(diagnosis) {
  const { roundTripMs, sentBitsPerSecond, receivedBitsPerSecond, lostPercent, srtpCipher, remoteAddress, videos } = diagnosis;
  return [
    ["Round trip", known(roundTripMs, (ms) => `${ms.toFixed(0)} ms`)],
    ["Sending", known(sentBitsPerSecond, bits)],
    ["Receiving", known(receivedBitsPerSecond, bits)],
    ["Lost", known(lostPercent, (percent) => `${percent.toFixed(1)} %`)],
    ...videos.map(({ way, width, height, framesPerSecond, codec }) => [
      way === "sent" ? "Video out" : "Video in",
      `${width}×${height} · ${framesPerSecond.toFixed(0)} fps · ${codec}`,
    ]),
    ["Server", known(remoteAddress, String)],
    ["Encryption", known(srtpCipher, (cipher) => cipher.replaceAll("_", " "))],
  ];
}

/**
 * @template T
 * @param {T | null} value
 * @param {(value: T) => string} say
 */
function known(value, say) {
  return value === null ? "not known yet" : say(value);
}
