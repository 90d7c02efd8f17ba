// The page and, loaded a second time as an audio worklet module, its two processors. docs/browser.md has the protocol.
"use strict";

const RATE_HZ = 16000;
const FRAME = RATE_HZ / 50; // 20 ms
const HEADER_BYTES = 8;

// ---- audio worklets --------------------------------------------------------------------------------------------

function defineProcessors() {
  // Windowed sinc between the context's rate and ours, for browsers that cannot run a context at 16 kHz.
  class Resampler {
    constructor(from, to) {
      this.step = from / to;
      this.half = Math.ceil(16 * Math.max(1, this.step));
      this.cutoff = 0.95 * Math.min(1, to / from);
      this.kept = new Float32Array(2 * this.half);
      this.at = this.half; // of the next output, within kept + input
    }
    process(input) {
      if (this.step === 1) return input;
      const all = new Float32Array(this.kept.length + input.length);
      all.set(this.kept);
      all.set(input, this.kept.length);
      const out = [];
      for (; this.at + this.half < all.length; this.at += this.step) {
        const middle = Math.floor(this.at);
        let sum = 0;
        let gain = 0;
        for (let i = middle - this.half + 1; i <= middle + this.half; i++) {
          const x = i - this.at;
          const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / (this.half + 1));
          const tap = (x === 0 ? this.cutoff : Math.sin(Math.PI * this.cutoff * x) / (Math.PI * x)) * window;
          sum += all[i] * tap;
          gain += tap;
        }
        out.push(sum / gain);
      }
      const drop = Math.max(0, Math.min(all.length, Math.floor(this.at) - this.half));
      this.kept = all.slice(drop);
      this.at -= drop;
      return Float32Array.from(out);
    }
  }

  class Microphone extends AudioWorkletProcessor {
    constructor() {
      super();
      this.resampler = new Resampler(sampleRate, RATE_HZ);
      this.frame = new Int16Array(FRAME);
      this.filled = 0;
      this.peak = 0;
    }
    process(inputs) {
      const channel = inputs[0][0];
      if (!channel) return true;
      for (const sample of this.resampler.process(channel)) {
        const limited = Math.max(-1, Math.min(1, sample));
        this.peak = Math.max(this.peak, Math.abs(limited));
        this.frame[this.filled++] = Math.round(limited * 32767);
        if (this.filled === FRAME) {
          const pcm = this.frame;
          this.port.postMessage({ pcm: pcm.buffer, peak: this.peak }, [pcm.buffer]);
          this.frame = new Int16Array(FRAME);
          this.filled = 0;
          this.peak = 0;
        }
      }
      return true;
    }
  }

  // The jitter buffer. It starts to play with `target` seconds in hand or when the first frame has waited that long;
  // an underrun makes it grow, calm lets it shrink, and what lies there for good is thrown away: delay never stays.
  class Speaker extends AudioWorkletProcessor {
    constructor() {
      super();
      this.resampler = new Resampler(RATE_HZ, sampleRate);
      this.queue = []; // {position, samples: of ours, pcm: at the context's rate, used, at}
      this.playing = false;
      this.target = 0.04;
      this.position = 0;
      this.reported = -1;
      this.stopped = -1; // when the queue ran dry
      this.underruns = 0;
      this.trimmed = 0;
      this.least = Infinity;
      this.looked = currentTime;
      this.calm = currentTime;
      this.peak = 0;
      this.port.onmessage = (event) => this.take(event.data);
    }
    take(message) {
      if (message.flush !== undefined) {
        this.queue = [];
        this.playing = false;
        this.stopped = -1;
        this.port.postMessage({ flushed: message.flush, position: this.position });
        return;
      }
      const ours = new Int16Array(message.pcm);
      const floats = new Float32Array(ours.length);
      for (let i = 0; i < ours.length; i++) floats[i] = ours[i] / 32768;
      if (!this.playing && this.queue.length === 0 && this.stopped >= 0 && currentTime - this.stopped < 0.2) {
        this.underruns++; // more of the same talkspurt: it came too late
        this.target = Math.min(0.2, this.target + 0.02);
        this.calm = currentTime;
      }
      const pcm = this.resampler.process(floats);
      this.queue.push({ position: message.position, samples: ours.length, pcm, used: 0, at: currentTime });
      while (this.waiting() > 1) this.trim();
    }
    waiting() {
      let samples = 0;
      for (const one of this.queue) samples += one.pcm.length - one.used;
      return samples / sampleRate;
    }
    trim() {
      const one = this.queue.shift();
      this.position = one.position + one.samples;
      this.trimmed++;
    }
    process(_, outputs) {
      const out = outputs[0][0];
      if (!this.playing && this.queue.length) {
        this.playing = this.waiting() >= this.target || currentTime - this.queue[0].at >= this.target;
      }
      if (this.playing) this.play(out);
      this.watch();
      if (this.position - this.reported >= FRAME / 2 || (!this.playing && this.position !== this.reported)) {
        this.reported = this.position;
        this.port.postMessage({ position: this.position, peak: this.peak });
        this.peak = 0;
      }
      return true;
    }
    play(out) {
      let written = 0;
      while (written < out.length && this.queue.length) {
        const one = this.queue[0];
        const count = Math.min(out.length - written, one.pcm.length - one.used);
        for (let i = 0; i < count; i++) {
          const sample = one.pcm[one.used + i];
          out[written + i] = sample;
          this.peak = Math.max(this.peak, Math.abs(sample));
        }
        written += count;
        one.used += count;
        this.position = one.position + (one.used >= one.pcm.length ? one.samples
          : Math.floor((one.used / one.pcm.length) * one.samples));
        if (one.used >= one.pcm.length) this.queue.shift();
      }
      if (written < out.length) {
        this.playing = false;
        this.stopped = currentTime;
        this.least = Infinity;
      }
    }
    watch() {
      if (this.playing) this.least = Math.min(this.least, this.waiting());
      if (currentTime - this.looked < 1) return;
      if (this.playing && this.least !== Infinity) {
        for (let excess = this.least - this.target - 0.04; excess > 0 && this.queue.length > 1; excess -= 0.04) this.trim();
      }
      if (currentTime - this.calm > 10 && this.target > 0.04) {
        this.target -= 0.02;
        this.calm = currentTime;
      }
      this.port.postMessage({
        figures: { underruns: this.underruns, trimmed: this.trimmed, buffered_ms: Math.round(1000 * this.waiting()) },
      });
      this.looked = currentTime;
      this.least = Infinity;
    }
  }

  registerProcessor("microphone", Microphone);
  registerProcessor("speaker", Speaker);
}

// ---- texts -----------------------------------------------------------------------------------------------------

const TEXTS = {
  de: {
    devices: "Geräte", microphone: "Mikrofon", speaker: "Lautsprecher", processing: "Echo und Rauschen unterdrücken",
    callLegend: "Anruf", to: "Wen anrufen", call: "Anrufen", takeOver: "Gespräch übernehmen", hangUp: "Auflegen",
    mute: "Stumm", handOver: "An den Agenten zurückgeben", target: "Weiterverbinden mit", transfer: "Weiterverbinden",
    figures: (f) => `Puffer ${f.buffered_ms} ms · ${f.underruns} Lücken · ${f.trimmed} verworfen · ${f.unsent} nicht gesendet`,
    transcript: "Mitschrift", caller: "Anrufer", agent: "Agent", standard: "Standard",
    idle: "Bereit.", connecting: "Verbinde …", ringing: "Es klingelt …", talking: "Im Gespräch", ended: "Beendet",
    released: "Das Gespräch liegt jetzt in anderen Händen.", refused: "Nicht möglich",
    noPermission: "Das Mikrofon ist nicht freigegeben. Erlauben Sie es in den Einstellungen des Browsers für diese Seite.",
    noMicrophone: "Kein Mikrofon gefunden.", microphoneBusy: "Das Mikrofon lässt sich nicht öffnen; benutzt es ein anderes Programm?",
    insecure: "Mikrofone gibt der Browser nur über HTTPS oder auf localhost frei.",
    speakerRefused: "Dieser Lautsprecher lässt sich nicht benutzen; es gilt der Standard.",
    expired: "Die Berechtigung (Token) ist abgelaufen. Öffnen Sie die Seite mit einer neuen.",
    notAccepted: "Die Berechtigung (Token) gilt nicht oder wurde schon benutzt.",
    noToken: "Diese Seite vergibt Berechtigungen nur auf dem eigenen Rechner. Nutzen Sie einen Link von Konsole oder Befehlszeile.",
    unreachable: "Das Gateway ist nicht erreichbar oder hat keinen Platz frei.", lost: "Die Verbindung zum Gateway ist abgebrochen.",
    reasons: {
      caller_hung_up: "Sie haben aufgelegt.", callee_hung_up: "Die andere Seite hat aufgelegt.", agent_hung_up: "Der Agent hat aufgelegt.",
      operator_hung_up: "Ein Mitarbeiter hat das Gespräch beendet.", max_duration: "Die längste Gesprächsdauer ist erreicht.",
      transferred: "Weiterverbunden.", fallback_played: "Kein Agent war erreichbar; die Ansage ist zu Ende.",
      answering_machine: "Ein Anrufbeantworter hat abgehoben.", caller_silent: "Es war zu lange nichts zu hören.",
      caller_cancelled: "Abgebrochen.", no_common_codec: "Beide Seiten verstehen kein gemeinsames Tonformat.",
      malformed_offer: "Der Anruf war nicht zu verstehen.", no_ack: "Die andere Seite hat die Annahme nicht bestätigt.",
      rtp_timeout: "Die Verbindung war zu lange still.", callee_busy: "Besetzt.", callee_no_answer: "Niemand hat abgehoben.",
      callee_declined: "Der Anruf wurde abgelehnt.", number_invalid: "Diese Nummer gibt es nicht.",
      number_not_allowed: "Diese Nummer darf nicht angerufen werden.", not_authenticated: "Der Anrufer ist nicht berechtigt.",
      operator_declined: "Ein Mitarbeiter hat den Anruf abgelehnt.", not_accepted: "Niemand hat den Anruf angenommen.",
      outside_hours: "Zu dieser Zeit ist geschlossen.", no_route: "Unter diesem Namen ist niemand erreichbar.",
      unknown_agent: "Der Agent dieser Nummer ist nicht veröffentlicht.", no_worker: "Kein Agent ist frei.",
      at_capacity: "Alle Plätze sind belegt.", too_many_attempts: "Zu viele Anrufe in kurzer Zeit; bitte später noch einmal.",
      budget_spent: "Das Budget dieses Tages ist aufgebraucht.", draining: "Das Gateway wird gerade beendet.",
      not_ready: "Kein Agent wurde rechtzeitig bereit.", worker_lost: "Der Agent ist ausgefallen, und kein anderer konnte übernehmen.",
      gateway_lost: "Das Gateway des Gesprächs ist ausgefallen.", internal_error: "Ein Fehler im Gateway; sein Protokoll sagt mehr.",
      model_refused: "Das Sprachmodell hat abgelehnt.", model_unreachable: "Das Sprachmodell ist nicht erreichbar.",
      model_failed: "Das Sprachmodell ist ausgefallen.", trunk_failed: "Die Telefonverbindung ist gescheitert.",
      lost: "Das Gespräch ist verloren gegangen.",
    },
    toOperator: { caller_hung_up: "Der Anrufer hat aufgelegt.", caller_cancelled: "Der Anrufer hat abgebrochen." },
  },
  en: {
    devices: "Devices", microphone: "Microphone", speaker: "Speaker", processing: "Suppress echo and noise",
    callLegend: "Call", to: "Whom to call", call: "Call", takeOver: "Take the call over", hangUp: "Hang up",
    mute: "Mute", handOver: "Give back to the agent", target: "Transfer to", transfer: "Transfer",
    figures: (f) => `buffer ${f.buffered_ms} ms · ${f.underruns} gaps · ${f.trimmed} dropped · ${f.unsent} not sent`,
    transcript: "Transcript", caller: "Caller", agent: "Agent", standard: "Default",
    idle: "Ready.", connecting: "Connecting …", ringing: "Ringing …", talking: "Talking", ended: "Ended",
    released: "The call is in other hands now.", refused: "Not possible",
    noPermission: "The microphone is not allowed. Allow it for this page in the browser's settings.",
    noMicrophone: "There is no microphone.", microphoneBusy: "The microphone cannot be opened; does another program use it?",
    insecure: "Browsers give microphones only to HTTPS pages or on localhost.",
    speakerRefused: "This speaker cannot be used; the default one is.",
    expired: "The token has expired. Open the page with a new one.",
    notAccepted: "The token was not accepted, or was used before.",
    noToken: "This page mints tokens on its own machine only. Use a link from the console or the command line.",
    unreachable: "The gateway cannot be reached or has no room.", lost: "The connection to the gateway was lost.",
    reasons: {
      caller_hung_up: "You hung up.", callee_hung_up: "The other side hung up.", agent_hung_up: "The agent hung up.",
      operator_hung_up: "A person ended the call.", max_duration: "The call reached its longest duration.",
      transferred: "Transferred.", fallback_played: "No agent could be reached; the announcement is over.",
      answering_machine: "An answering machine picked up.", caller_silent: "Nothing was heard for too long.",
      caller_cancelled: "Cancelled.", no_common_codec: "Both sides have no audio format in common.",
      malformed_offer: "The call was not understood.", no_ack: "The other side did not confirm the answer.",
      rtp_timeout: "The connection was silent for too long.", callee_busy: "Busy.", callee_no_answer: "Nobody picked up.",
      callee_declined: "The call was declined.", number_invalid: "There is no such number.",
      number_not_allowed: "This number may not be called.", not_authenticated: "The caller is not allowed in.",
      operator_declined: "A person declined the call.", not_accepted: "Nobody accepted the call.",
      outside_hours: "Closed at this time.", no_route: "Nobody can be reached by this name.",
      unknown_agent: "The agent of this number is not published.", no_worker: "No agent is free.",
      at_capacity: "All places are taken.", too_many_attempts: "Too many calls in a short time; please try again later.",
      budget_spent: "This day's budget is spent.", draining: "The gateway is going down.",
      not_ready: "No agent was ready in time.", worker_lost: "The agent was lost, and no other could take over.",
      gateway_lost: "The call's gateway was lost.", internal_error: "A defect in the gateway; its log says more.",
      model_refused: "The speech model refused.", model_unreachable: "The speech model cannot be reached.",
      model_failed: "The speech model failed.", trunk_failed: "The telephone line failed.",
      lost: "The call was lost.",
    },
    toOperator: { caller_hung_up: "The caller hung up.", caller_cancelled: "The caller gave up." },
  },
};

// ---- the page --------------------------------------------------------------------------------------------------

function startPage() {
  const byId = (id) => document.getElementById(id);
  const remembered = {
    get: (name) => { try { return localStorage.getItem("callbus." + name); } catch { return null; } },
    set: (name, value) => { try { localStorage.setItem("callbus." + name, value); } catch { /* private window */ } },
  };
  let language = remembered.get("language") || (navigator.language.startsWith("de") ? "de" : "en");
  let state = "idle";
  let detail = "";
  let call = null; // {socket, context, stream, microphone, speaker, ...} while there is one
  const given = readFragment();

  function readFragment() {
    const fragment = new URLSearchParams(location.hash.slice(1));
    for (const kind of ["call", "take_over"]) {
      if (fragment.get(kind)) {
        history.replaceState(null, "", location.pathname); // it is for one use: not for the history, nor for a reload
        return { kind, token: fragment.get(kind) };
      }
    }
    return null;
  }

  const text = (name) => TEXTS[language][name];

  function show() {
    document.documentElement.lang = language;
    for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
    byId("language").value = language;
    const isOperator = given !== null && given.kind === "take_over";
    byId("call").textContent = text(isOperator ? "takeOver" : "call");
    byId("operator").hidden = !isOperator;
    byId("who").hidden = given !== null;
    byId("state").textContent = detail ? `${text(state)}: ${detail}` : text(state);
    byId("state").dataset.state = state;
    const busy = call !== null;
    const talking = state === "talking";
    byId("call").disabled = busy;
    byId("hang-up").disabled = !busy;
    for (const id of ["mute", "hand-over", "transfer"]) byId(id).disabled = !talking;
    for (const key of byId("keys").children) key.disabled = !talking;
  }

  function enter(next, more = "") {
    state = next;
    detail = more;
    show();
  }

  function complain(sentence) {
    byId("problem").textContent = sentence;
  }

  // -- devices --

  async function listDevices() {
    const devices = navigator.mediaDevices ? await navigator.mediaDevices.enumerateDevices() : [];
    fill(byId("microphone"), devices.filter((one) => one.kind === "audioinput"), remembered.get("microphone"));
    fill(byId("speaker"), devices.filter((one) => one.kind === "audiooutput"), remembered.get("speaker"));
  }

  function fill(select, devices, chosen) {
    const options = [new Option(text("standard"), "")];
    for (const one of devices) {
      if (one.deviceId && one.deviceId !== "default") options.push(new Option(one.label || one.deviceId.slice(0, 8), one.deviceId));
    }
    select.replaceChildren(...options);
    if (options.some((one) => one.value === chosen)) select.value = chosen;
  }

  async function openMicrophone() {
    if (!navigator.mediaDevices) throw new Error(text("insecure"));
    const processing = byId("processing").checked;
    const wanted = { channelCount: 1, echoCancellation: processing, noiseSuppression: processing, autoGainControl: processing };
    const chosen = byId("microphone").value;
    if (chosen) wanted.deviceId = { exact: chosen };
    try {
      return await navigator.mediaDevices.getUserMedia({ audio: wanted });
    } catch (error) {
      const known = { NotAllowedError: "noPermission", SecurityError: "noPermission", NotFoundError: "noMicrophone", OverconstrainedError: "noMicrophone", NotReadableError: "microphoneBusy" };
      throw new Error(known[error.name] ? text(known[error.name]) : `${error.name}: ${error.message}`);
    }
  }

  async function useSpeaker() {
    if (!call || !call.speaker) return;
    const chosen = byId("speaker").value;
    const output = byId("output");
    try {
      if (call.context.setSinkId) {
        await call.context.setSinkId(chosen);
      } else if (output.setSinkId && chosen) { // Firefox: by way of an audio element
        if (!output.srcObject) {
          const destination = call.context.createMediaStreamDestination();
          call.speaker.disconnect();
          call.speaker.connect(destination);
          output.srcObject = destination.stream;
        }
        await output.setSinkId(chosen);
        await output.play();
      }
    } catch {
      complain(text("speakerRefused"));
    }
  }

  async function changeMicrophone() {
    if (!call || !call.microphone) return;
    const mine = call;
    try {
      const stream = await openMicrophone();
      if (call !== mine) return stop(stream);
      stop(mine.stream);
      mine.source.disconnect();
      mine.stream = stream;
      mine.source = mine.context.createMediaStreamSource(stream);
      mine.source.connect(mine.microphone);
    } catch (error) {
      complain(error.message);
    }
  }

  function stop(stream) {
    for (const track of stream.getTracks()) track.stop();
  }

  // -- a call --

  async function place() {
    complain("");
    byId("transcript").replaceChildren();
    byId("figures").textContent = "";
    const mine = (call = { position: 0, muted: false, unsent: 0, socket: null });
    window.callbus = mine; // for whoever looks with the developer tools
    enter("connecting");
    try {
      mine.stream = await openMicrophone(); // may ask the person, who may hang up meanwhile
      if (call !== mine) return release(mine);
      await listDevices(); // labels are known only now
      await openAudio(mine);
      const token = given ? given.token : call === mine && (await ownToken());
      if (call !== mine) return release(mine);
      connect(mine, given && given.kind === "take_over" ? "/operator" : "/call", token);
    } catch (error) {
      if (call === mine) finish(mine, "idle", "", error.message);
      else release(mine);
    }
  }

  async function ownToken() {
    let response;
    try {
      response = await fetch("/token", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ to: byId("to").value.trim() }),
      });
    } catch {
      throw new Error(text("unreachable"));
    }
    if (!response.ok) throw new Error(response.status === 403 ? text("noToken") : (await response.json()).error);
    return (await response.json()).token;
  }

  async function openAudio(mine) {
    mine.context = new AudioContext({ sampleRate: RATE_HZ, latencyHint: "interactive" });
    try {
      mine.source = mine.context.createMediaStreamSource(mine.stream);
    } catch { // Firefox: a microphone only at the rate that it has
      await mine.context.close();
      mine.context = new AudioContext({ latencyHint: "interactive" });
      mine.source = mine.context.createMediaStreamSource(mine.stream);
    }
    await mine.context.audioWorklet.addModule("/page.js");
    await mine.context.resume();
    mine.microphone = new AudioWorkletNode(mine.context, "microphone", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    mine.speaker = new AudioWorkletNode(mine.context, "speaker", { numberOfInputs: 0, outputChannelCount: [1] });
    mine.speaker.connect(mine.context.destination);
    mine.source.connect(mine.microphone);
    mine.microphone.port.onmessage = (event) => said(mine, event.data);
    mine.speaker.port.onmessage = (event) => played(mine, event.data);
    await useSpeaker();
  }

  function connect(mine, path, token) {
    const socket = (mine.socket = new WebSocket(location.origin.replace(/^http/, "ws") + path));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => tell(mine, { type: "hello", token });
    socket.onmessage = (event) => (typeof event.data === "string" ? told(mine, JSON.parse(event.data)) : hear(mine, event.data));
    socket.onclose = (event) => closed(mine, event);
  }

  function tell(mine, message) {
    if (mine.socket && mine.socket.readyState === WebSocket.OPEN) mine.socket.send(JSON.stringify(message));
  }

  function said(mine, { pcm, peak }) {
    byId("microphone-level").value = mine.muted ? 0 : peak;
    const socket = mine.socket;
    if (state !== "talking" || !socket || socket.readyState !== WebSocket.OPEN) return;
    if (socket.bufferedAmount > 2 * RATE_HZ / 2) { // half a second waits already: the line is stalled
      mine.unsent++;
      return;
    }
    const message = new ArrayBuffer(HEADER_BYTES + pcm.byteLength);
    const header = new DataView(message);
    header.setUint32(0, mine.position % 2 ** 32, true);
    header.setUint32(4, Math.floor(mine.position / 2 ** 32), true);
    if (!mine.muted) new Int16Array(message, HEADER_BYTES).set(new Int16Array(pcm));
    socket.send(message);
  }

  function hear(mine, message) {
    const header = new DataView(message);
    const position = header.getUint32(0, true) + 2 ** 32 * header.getUint32(4, true);
    const pcm = message.slice(HEADER_BYTES);
    mine.speaker.port.postMessage({ position, pcm }, [pcm]);
  }

  function played(mine, message) {
    if (message.position !== undefined) mine.position = message.position;
    if (message.peak !== undefined) byId("speaker-level").value = message.peak;
    if (message.flushed !== undefined) tell(mine, { type: "flushed", generation: message.flushed, position: message.position });
    if (message.figures) {
      const figures = { ...message.figures, unsent: mine.unsent };
      mine.figures = figures;
      byId("figures").textContent = text("figures")(figures);
      if (figures.buffered_ms === 0) byId("speaker-level").value = 0;
      mine.seconds = (mine.seconds || 0) + 1;
      if (mine.seconds % 5 === 0) tell(mine, { type: "statistics", ...figures });
    }
  }

  function told(mine, message) {
    switch (message.type) {
      case "ringing":
        mine.id = message.call;
        enter("ringing");
        break;
      case "answered":
        mine.id = message.call;
        enter("talking");
        break;
      case "flush":
        mine.flushes = (mine.flushes || 0) + 1;
        mine.speaker.port.postMessage({ flush: message.generation });
        break;
      case "transcript":
        addLine(message);
        break;
      case "refused":
        complain(`${text("refused")}: ${message.error}`);
        break;
      case "ended":
        mine.end = message;
        break;
    }
  }

  function addLine(message) {
    const list = byId("transcript");
    const line = document.createElement("li");
    const who = document.createElement("b");
    line.className = message.who;
    who.textContent = text(message.who);
    line.append(who, message.text); // as text, never as markup
    list.append(line);
    list.scrollTop = list.scrollHeight;
  }

  function closed(mine, event) {
    if (call !== mine) return;
    const end = mine.end;
    if (end && end.termination) {
      const reason = end.termination.reason; // its detail is the operator's: names, limits, processes
      const isOperator = given !== null && given.kind === "take_over";
      finish(mine, "ended", (isOperator && text("toOperator")[reason]) || text("reasons")[reason] || reason);
    } else if (end && event.code === 4409) {
      finish(mine, "ended", text("refused"), end.detail);
    } else if (end) {
      finish(mine, "ended", text("released"), end.detail);
    } else if (event.code === 4401) {
      finish(mine, "idle", "", text(event.reason === "expired" ? "expired" : "notAccepted"));
    } else {
      finish(mine, "ended", "", text(state === "connecting" ? "unreachable" : "lost"));
    }
  }

  function release(mine) {
    if (mine.stream) stop(mine.stream);
    if (mine.context && mine.context.state !== "closed") mine.context.close();
    if (mine.socket) mine.socket.close(1000);
  }

  function finish(mine, next, more, problem = "") {
    call = null;
    release(mine);
    byId("output").srcObject = null;
    byId("microphone-level").value = byId("speaker-level").value = 0;
    byId("mute").setAttribute("aria-pressed", "false");
    if (problem) complain(problem);
    enter(next, more);
  }

  // -- buttons --

  byId("call").onclick = place;
  byId("hang-up").onclick = () => {
    if (call.socket && call.socket.readyState === WebSocket.OPEN) tell(call, { type: "hang_up" });
    else finish(call, "idle", "");
  };
  byId("mute").onclick = () => {
    call.muted = !call.muted;
    byId("mute").setAttribute("aria-pressed", String(call.muted));
    tell(call, { type: "mute", muted: call.muted });
  };
  byId("hand-over").onclick = () => tell(call, { type: "hand_over" });
  byId("transfer").onclick = () => tell(call, { type: "transfer", target: byId("target").value.trim() });
  for (const digit of "123456789*0#") {
    const key = document.createElement("button");
    key.textContent = digit;
    key.onclick = () => tell(call, { type: "dtmf", digit });
    byId("keys").append(key);
  }
  byId("language").onchange = (event) => {
    language = event.target.value;
    remembered.set("language", language);
    listDevices();
    show();
  };
  byId("microphone").onchange = (event) => { remembered.set("microphone", event.target.value); changeMicrophone(); };
  byId("speaker").onchange = (event) => { remembered.set("speaker", event.target.value); useSpeaker(); };
  byId("processing").onchange = (event) => { remembered.set("processing", event.target.checked ? "on" : "off"); changeMicrophone(); };
  byId("to").onchange = (event) => remembered.set("to", event.target.value);
  byId("to").value = remembered.get("to") || byId("to").value;
  byId("processing").checked = remembered.get("processing") !== "off";
  if (navigator.mediaDevices) navigator.mediaDevices.ondevicechange = listDevices;
  else complain(text("insecure"));
  listDevices();
  show();
}

if (typeof AudioWorkletGlobalScope === "undefined") startPage();
else defineProcessors();
