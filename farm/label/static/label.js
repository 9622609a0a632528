// The labelling page: shows a pair, sends what is pressed, and shows the next one when the server has stored it.
// All texts go in as text nodes. Nothing is kept here but an act that has not been confirmed yet.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const pending = "farm-label-pending";  // survives a reload; whose it is, the server knows by its task
  const unseen = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\u2028\u2029]/u;
  const plain = /[\n\t\u200c\u200d]/;
  const breakAfter = 45 * 60 * 1000;
  let sheet = null, shown = "", prepared = {}, strength = 0, busy = true, spent = 0, since = 0, pressed = 0;
  const began = Date.now();
  let rested = false;

  // Control and direction characters become visible names, so that no text can hide or turn around another.
  function nodes(text) {
    const parts = [];
    let run = "";
    for (const c of text.replaceAll("\r\n", "\n")) {
      if (!unseen.test(c) || plain.test(c)) { run += c; continue; }
      const ghost = document.createElement("span");
      ghost.className = "ghost";
      ghost.textContent = "U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      parts.push(run, ghost);
      run = "";
    }
    return [...parts, run];
  }

  // The nodes of a pair, made while the one before is being read.
  function prepare(pair) {
    if (!pair || prepared.task === pair.task) return prepared;
    const asked = pair.input ? pair.instruction + "\n\n" + pair.input : pair.instruction;
    return { task: pair.task, instruction: nodes(asked), left: nodes(pair.left), right: nodes(pair.right) };
  }

  function duration(seconds) {
    if (seconds < 90) return Math.round(seconds) + " s";
    const minutes = Math.round(seconds / 60);
    return minutes < 90 ? minutes + " min" : Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
  }

  function tell(text, loud) {
    $("status").className = loud ? "status" : "status quietly";
    $("status").textContent = text;
  }

  function render() {
    const pair = sheet.now, position = Math.min(sheet.done + 1, sheet.total);
    $("count").textContent = sheet.done + " of " + sheet.total + " done";
    $("progress").max = sheet.total || 1;
    $("progress").value = sheet.done;
    $("pace").textContent = sheet.median_seconds === null ? "the link brings you back here"
      : "median " + duration(sheet.median_seconds) + (pair ? ", about " + duration(sheet.seconds_left) + " left" : "");
    $("pair").hidden = !pair;
    $("end").hidden = Boolean(pair);
    document.querySelector("[data-choice=undo]").disabled = !sheet.undo;
    for (const b of document.querySelectorAll(".main button, [data-choice=skip], .strength")) b.disabled = !pair;
    choose(0);
    for (const side of ["left", "right"]) $(side + "-side").classList.remove("chosen");
    if (pair && shown !== pair.task + ":" + pair.turn) {
      prepared = prepare(pair);
      for (const part of ["instruction", "left", "right"]) {
        $(part).replaceChildren(...prepared[part]);
        $(part).scrollTop = 0;
      }
      setTimeout(() => { prepared = prepare(sheet.next); }, 0);
      spent = 0;
      since = document.hidden ? 0 : performance.now();
    }
    shown = pair ? pair.task + ":" + pair.turn : "";
    document.body.dataset.task = shown;  // lets a script or a test wait for the next pair
    $("pair").setAttribute("aria-busy", "false");
    const rest = !rested && pair && Date.now() - began > breakAfter;
    rested = rested || rest;
    tell(rest ? "45 minutes: time for a break? Everything is stored."
      : pair ? "Pair " + position + " of " + sheet.total : "All pairs are labelled", rest);
    if (pressed) {
      const from = pressed;
      pressed = 0;
      requestAnimationFrame(() => setTimeout(() => performance.measure("key-to-pair", { start: from }), 0));
    }
  }

  function choose(value) {
    strength = value;
    for (const b of document.querySelectorAll(".strength")) {
      b.setAttribute("aria-pressed", String(Number(b.dataset.strength) === value));
    }
  }

  // Sends one act until the server has it: the same task and turn are stored once, however often they arrive.
  async function send(act) {
    busy = true;
    sessionStorage.setItem(pending, JSON.stringify(act));
    for (let wait = 250; ; wait = Math.min(2 * wait, 4000)) {
      try {
        const answer = await fetch("act", {
          method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(act), cache: "no-store",
        });
        const body = await answer.json();
        if (answer.ok || answer.status === 409) {
          sheet = body;
          break;
        }
        if (answer.status < 500) {
          sessionStorage.removeItem(pending);
          tell("Not stored: " + body.error, true);
          busy = false;
          return;
        }
      } catch { /* no connection, or no answer that can be read: try again */ }
      tell("Not stored yet: no connection. Keep this page open, it keeps trying.", true);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
    sessionStorage.removeItem(pending);
    busy = false;
    render();
  }

  function act(choice, event, reason) {
    const at = choice === "undo" ? sheet && sheet.undo : sheet && sheet.now;
    if (busy || !at) return;
    if (event.type === "click" && event.detail > 1) return;  // a double click is not a label of the next pair
    pressed = event.timeStamp;
    const body = { task: at.task, turn: at.turn, choice };
    if (choice !== "undo") body.seconds = Math.round(read() / 100) / 10;
    if (reason) body.reason = reason;
    if (choice === "left" || choice === "right") {
      if (strength) body.strength = strength;
      $(choice + "-side").classList.add("chosen");
    }
    send(body);
  }

  // Milliseconds this pair was in front of the reader: a hidden tab does not count.
  function read() {
    return Math.min(spent + (since ? performance.now() - since : 0), 86400000);
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { spent = read(); since = 0; } else if (!since) { since = performance.now(); }
  });

  function scroll(amount) {
    for (const side of ["left", "right"]) $(side).scrollBy({ top: amount, behavior: "instant" });
  }

  const keys = {
    ArrowLeft: (e) => act("left", e), a: (e) => act("left", e), ArrowRight: (e) => act("right", e), b: (e) => act("right", e),
    t: (e) => act("tie", e), u: (e) => act("undo", e), s: () => ask(), "?": () => $("about").showModal(),
    ArrowDown: () => scroll(64), ArrowUp: () => scroll(-64),
    PageDown: () => scroll(0.85 * $("left").clientHeight), PageUp: () => scroll(-0.85 * $("left").clientHeight),
    " ": (e) => scroll((e.shiftKey ? -0.85 : 0.85) * $("left").clientHeight),
  };
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
    if ($("skip").open) return inSkip(e);
    if ($("about").open) return;
    const key = e.key.length === 1 ? e.key.toLowerCase() : e.key;
    const held = e.repeat && !/^(Arrow(Up|Down)|Page|\s)/.test(key);  // a key held down labels one pair, not ten
    const pressing = e.target instanceof HTMLButtonElement && key === " ";
    const scrolls = e.target.classList.contains("text") && /^(Arrow(Up|Down)|Page|\s)/.test(key);
    if (held || pressing || scrolls) return;
    const level = document.querySelector(`.strength[data-strength="${CSS.escape(key)}"]`);
    if (level && sheet && sheet.now) choose(strength === Number(key) ? 0 : Number(key));
    else if (Object.hasOwn(keys, key)) keys[key](e);
    else return;
    e.preventDefault();
  });

  function ask() {
    if (busy || !sheet.now) return;
    $("why").value = "";
    $("skip").showModal();
  }
  function inSkip(e) {
    const typed = e.target === $("why") && $("why").value !== "";
    const reason = document.querySelectorAll(".reason")[Number(e.key) - 1];
    if (!typed && /^[1-9]$/.test(e.key) && reason) {
      e.preventDefault();
      skip(reason.dataset.reason, e);
    } else if (e.key === "Enter" && e.target === $("why")) {
      e.preventDefault();
      if ($("why").value.trim()) skip($("why").value.trim(), e);
    }
  }
  function skip(reason, e) {
    $("skip").close();
    act("skip", e, reason);
  }

  for (const b of document.querySelectorAll("[data-choice]")) {
    b.addEventListener("click", (e) => (b.dataset.choice === "skip" ? ask() : act(b.dataset.choice, e)));
  }
  for (const b of document.querySelectorAll(".strength")) {
    b.addEventListener("click", () => choose(strength === Number(b.dataset.strength) ? 0 : Number(b.dataset.strength)));
  }
  for (const b of document.querySelectorAll(".reason")) b.addEventListener("click", (e) => skip(b.dataset.reason, e));
  $("help").addEventListener("click", () => $("about").showModal());

  async function begin() {
    const left = sessionStorage.getItem(pending);
    if (left) return send(JSON.parse(left));
    for (let wait = 250; ; wait = Math.min(2 * wait, 4000)) {
      try {
        const answer = await fetch("task", { cache: "no-store" });
        sheet = await answer.json();
        if (answer.ok) break;
        return tell(sheet.error, true);
      } catch { /* try again */ }
      tell("No connection to the server yet.", true);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
    busy = false;
    render();
  }
  begin();
})();
