"use strict";
// Fragments by id from the event stream, copy buttons, keys, the live check of the policy editor, passkeys.
(() => {
  const $ = (id) => document.getElementById(id);
  const inField = (el) => el && /^(INPUT|TEXTAREA|SELECT)$/.test(el.tagName);

  // ---- live fragments -------------------------------------------------------------------------
  // What has the pointer or the focus never moves: where the rows stay the same ones, only their changed cells are
  // replaced; all else waits until both are elsewhere.
  const late = new Map();
  const busy = (el) => el.contains(document.activeElement) || el.matches(":hover");
  const ids = (body) => [...body.rows].map((row) => row.id).join();
  const swap = (id, html) => {
    const old = $(id);
    if (!old) return;
    const holder = document.createElement("template");
    holder.innerHTML = html;
    const fresh = holder.content.firstElementChild;
    if (!busy(old)) { old.replaceWith(holder.content); return; }
    if (!old.rows || ids(old) !== ids(fresh)) { late.set(id, html); return; }
    const cells = (body) => [...body.rows].flatMap((row) => [...row.cells]), next = cells(fresh);
    cells(old).forEach((cell, i) => {
      if (cell.isEqualNode(next[i])) return;
      if (cell.contains(document.activeElement)) late.set(id, html); else cell.replaceWith(next[i]);
    });
  };
  const flush = () => { for (const [id, html] of late) { late.delete(id); swap(id, html); } };
  document.addEventListener("pointerout", flush);
  document.addEventListener("focusout", () => setTimeout(flush, 0));
  if (document.body.dataset.live && window.EventSource) {
    const stream = new EventSource("/events?page=" + encodeURIComponent(location.pathname + location.search));
    let lost;
    stream.addEventListener("patch", (e) => { const p = JSON.parse(e.data); swap(p.id, p.html); });
    stream.onopen = () => { clearTimeout(lost); lost = undefined; $("offline").hidden = true; document.body.dataset.state = "live"; };
    stream.onerror = () => { if (!lost) lost = setTimeout(() => { $("offline").hidden = false; }, 5000); };
    addEventListener("pagehide", () => stream.close());
  }

  // ---- copy -----------------------------------------------------------------------------------
  document.addEventListener("click", async (e) => {
    const button = e.target.closest("[data-copy]");
    if (!button) return;
    const text = button.dataset.copy, word = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = word; }, 2000);
    } catch {
      // Plain http has no clipboard: select the text instead.
      const shown = button.parentElement.querySelector(".cmd");
      if (shown) getSelection().selectAllChildren(shown);
    }
  });

  // ---- toast goes by itself, unless it is an error -------------------------------------------
  const toast = document.querySelector(".toast:not(.bad)");
  if (toast) setTimeout(() => toast.remove(), 10000);

  // ---- menus close on Escape and on a click elsewhere ----------------------------------------
  const closeMenus = (but) => document.querySelectorAll("details.menu[open]").forEach((d) => { if (d !== but) d.open = false; });
  document.addEventListener("click", (e) => closeMenus(e.target.closest("details.menu")));

  // ---- keys -----------------------------------------------------------------------------------
  const pages = { m: "/machines", n: "/network", a: "/access", p: "/people", k: "/keys", d: "/dns", r: "/relays", l: "/log", s: "/settings", h: "/health" };
  let afterG = 0;
  const rows = () => [...document.querySelectorAll("tbody a.name")];
  const step = (by) => {
    const all = rows();
    if (!all.length) return;
    const at = all.indexOf(document.activeElement);
    all[Math.min(all.length - 1, Math.max(0, at + by))].focus();
  };
  const help = () => {
    if ($("keyhelp")) { $("keyhelp").remove(); return; }
    const list = [["/", "search"], ["g then m n a p k d r l s h", "go to a page"], ["j k", "next, previous row"], ["Enter", "open"], ["e", "rename"], ["u", "undo"], ["Esc", "close"], ["?", "this list"]];
    const box = document.createElement("div");
    box.id = "keyhelp";
    box.setAttribute("role", "dialog");
    box.setAttribute("aria-label", "Keys");
    const dl = document.createElement("dl");
    dl.className = "card pad facts";
    for (const [key, what] of list) {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = key; dd.textContent = what; dl.append(dt, dd);
    }
    box.append(dl);
    box.addEventListener("click", () => box.remove());
    document.body.append(box);
  };
  // In the picture the arrow keys go to the nearest machine in that direction.
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const walk = (dx, dy) => {
    const from = document.activeElement.querySelector("circle").getBoundingClientRect();
    let best, least = Infinity;
    document.querySelectorAll(".net a").forEach((a) => {
      const r = a.querySelector("circle").getBoundingClientRect();
      const x = r.x - from.x, y = r.y - from.y, along = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
      if (along > 2 && along + 2 * aside < least) { least = along + 2 * aside; best = a; }
    });
    if (best) best.focus();
  };
  let keysOn = true;
  try { keysOn = localStorage.getItem("keys") !== "off"; } catch {}
  const keysSwitch = $("keys-switch");
  if (keysSwitch) {
    const word = () => { keysSwitch.textContent = keysOn ? "Switch off" : "Switch on"; };
    word();
    keysSwitch.addEventListener("click", () => { keysOn = !keysOn; try { localStorage.setItem("keys", keysOn ? "on" : "off"); } catch {} word(); });
  }
  document.addEventListener("keydown", (e) => {
    if (e.key === "Escape") { closeMenus(); $("keyhelp")?.remove(); if (inField(document.activeElement)) document.activeElement.blur(); document.querySelector(".panel a[aria-label=Close]")?.click(); return; }
    if (e.key === "F8" && $("errors")) { e.preventDefault(); nextError(); return; }
    if (!keysOn || inField(e.target) || e.ctrlKey || e.metaKey || e.altKey) return;
    if (arrows[e.key] && document.activeElement.closest?.(".net a")) { e.preventDefault(); walk(...arrows[e.key]); return; }
    if (Date.now() - afterG < 1000 && pages[e.key]) { location.href = pages[e.key]; return; }
    afterG = 0;
    if (e.key === "g") afterG = Date.now();
    else if (e.key === "/") { const q = $("q"); if (q) { e.preventDefault(); q.focus(); } }
    else if (e.key === "j") step(1);
    else if (e.key === "k") step(-1);
    else if (e.key === "u") document.querySelector(".toast form button")?.click();
    else if (e.key === "e") { const menu = document.querySelector("details.menu"); if (menu) { menu.open = true; menu.querySelector("input:not([type=hidden])")?.focus(); } }
    else if (e.key === "?") help();
  });

  // ---- policy editor --------------------------------------------------------------------------
  const text = $("text");
  let errorAt = -1;
  const goTo = (li) => {
    const lines = text.value.split("\n"), line = Number(li.dataset.line);
    if (!line) return;
    const at = lines.slice(0, line - 1).reduce((n, l) => n + l.length + 1, 0) + Number(li.dataset.column) - 1;
    text.focus();
    text.setSelectionRange(at, at);
  };
  const nextError = () => {
    const all = [...document.querySelectorAll("#errors li[data-line]")];
    if (all.length) { errorAt = (errorAt + 1) % all.length; goTo(all[errorAt]); }
  };
  if (text) {
    let timer, turn = 0;
    const check = async () => {
      const mine = ++turn;
      const answer = await fetch("/access/check", { method: "POST", body: new URLSearchParams(new FormData($("policy"))) }).catch(() => null);
      if (!answer || !answer.ok || mine !== turn) return;
      const r = await answer.json();
      $("marks").innerHTML = r.marks;
      $("errors-count").innerHTML = r.count;
      $("errors").outerHTML = r.errors;
      $("effects").outerHTML = r.effects;
      $("whynot").textContent = r.whynot;
      $("save").disabled = !r.ok;
    };
    text.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(check, 300); });
    text.addEventListener("keydown", (e) => {
      if (e.key === "Tab" && !e.shiftKey) { e.preventDefault(); text.setRangeText("  ", text.selectionStart, text.selectionEnd, "end"); text.dispatchEvent(new Event("input")); }
    });
    text.addEventListener("scroll", () => { $("marks").scrollLeft = text.scrollLeft; });
    document.addEventListener("click", (e) => { const li = e.target.closest("#errors li[data-line]"); if (li) goTo(li); });
    check();
  }
  const band = document.querySelector(".band");
  if (band) {
    let left = Number(band.dataset.seconds);
    const tick = setInterval(() => { left -= 1; if (left <= 0) { clearInterval(tick); location.reload(); } else $("band-seconds").textContent = left; }, 1000);
  }

  // ---- a device that waits for approval ------------------------------------------------------
  const waits = $("waiting-device");
  if (waits) {
    const ask = async () => {
      const answer = await fetch(waits.dataset.wait).catch(() => null);
      if (answer?.ok && (await answer.text()) !== "waiting") location.reload(); else setTimeout(ask, 2000);
    };
    setTimeout(ask, 2000);
  }

  // ---- passkeys -------------------------------------------------------------------------------
  const says = (words) => { const p = $("passkey-says"); p.textContent = words; p.hidden = false; };
  const send = async (url, fields) => {
    const answer = await fetch(url, { method: "POST", body: new URLSearchParams(fields) });
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  };
  const ceremony = (button, act) => $(button)?.addEventListener("click", async (e) => {
    if (!window.PublicKeyCredential?.parseCreationOptionsFromJSON) { says("This browser is too old for passkeys."); return; }
    try { await act(e.target.dataset.csrf, e.target.dataset.next); } catch (error) {
      says(error.name === "NotAllowedError" ? "No passkey was given. Nothing was changed." : error.message);
    }
  });
  ceremony("passkey-add", async (csrf) => {
    const start = await send("/passkey/add/start", { csrf });
    const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(start.publicKey);
    const made = await navigator.credentials.create({ publicKey });
    location.href = (await send("/passkey/add/finish", { csrf, ceremony: start.ceremony, credential: JSON.stringify(made) })).to;
  });
  ceremony("passkey-use", async (csrf, next) => {
    const start = await send("/passkey/use/start", {});
    const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(start.publicKey);
    const got = await navigator.credentials.get({ publicKey });
    location.href = (await send("/passkey/use/finish", { next, ceremony: start.ceremony, credential: JSON.stringify(got) })).to;
  });
})();
