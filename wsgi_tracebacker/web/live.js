// Renews the page once a second, and does what a link does without loading the page anew. All state is in the address.
"use strict";

const EVERY_MILLISECONDS = 1000;
const live = document.getElementById("live");
let isPaused = false;
let asked = 0;
let shown = "";

// What the reader has opened, written or selected stays as it is.
function replaceBy(html) {
  if (html === shown) {
    return;
  }
  shown = html;
  const active = document.activeElement;
  const id = active && live.contains(active) ? active.id : "";
  const filter = document.getElementById("filter");
  const written = filter && { value: filter.value, start: filter.selectionStart, end: filter.selectionEnd };
  const opened = [...live.querySelectorAll("tr.opened details")].map((each) => each.open);
  live.innerHTML = html;
  const details = [...live.querySelectorAll("tr.opened details")];
  if (details.length === opened.length) {
    details.forEach((each, index) => { each.open = opened[index]; });
  }
  prepare();
  const again = id && document.getElementById(id);
  if (again) {
    again.focus({ preventScroll: true });
    if (id === "filter") {
      again.value = written.value;
      again.setSelectionRange(written.start, written.end);
    }
  }
}

// What is of use only with this script.
function prepare() {
  const pause = document.getElementById("pause");
  pause.hidden = false;
  pause.setAttribute("aria-pressed", String(isPaused));
  pause.textContent = isPaused ? "Go on" : "Pause";
  document.getElementById("apply").hidden = true;
}

async function renew() {
  const mine = ++asked;
  try {
    const answer = await fetch("fragment" + location.search, { credentials: "same-origin" });
    if (answer.status === 401) {
      location.assign("login");
      return;
    }
    const html = await answer.text();
    // Of two questions, the answer to the later one counts.
    if (mine === asked && answer.ok) {
      replaceBy(html);
      document.title = document.getElementById("totals").textContent;
    }
    live.classList.toggle("away", !answer.ok);
  } catch {
    live.classList.add("away");
  }
}

async function go(address) {
  history.pushState(null, "", address);
  await renew();
  // A link to another row.
  const row = location.hash && document.getElementById(location.hash.slice(1));
  if (row) {
    row.focus();
  }
}

function setPaused(paused) {
  isPaused = paused;
  prepare();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-live]");
  if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
    event.preventDefault();
    go(link.href);
  } else if (event.target.id === "pause") {
    setPaused(!isPaused);
  } else if (event.target.id === "close") {
    showRecording("");
    document.getElementById("recorded").textContent = "";
    document.getElementById("record").focus();
  }
});

document.addEventListener("submit", (event) => {
  if (event.target.id === "filter-form") {
    event.preventDefault();
  } else if (event.target.id === "record-form") {
    event.preventDefault();
    record(event.target, event.submitter);
  }
});

// The answer comes when the recording is over; meanwhile the page goes on.
async function record(form, button) {
  const progress = document.getElementById("progress");
  const recorded = document.getElementById("recorded");
  const seconds = Number(form.elements.seconds.value);
  const began = performance.now();
  const passed = () => { progress.value = (performance.now() - began) / 1000; };
  progress.max = seconds;
  progress.hidden = false;
  passed();
  const ticking = setInterval(passed, 200);
  recorded.className = "";
  recorded.textContent = `recording for ${seconds} s`;
  document.getElementById("record").disabled = true;
  try {
    const body = new URLSearchParams(new FormData(form, button));
    const headers = { "X-Requested-With": "live.js" };
    const answer = await fetch(form.action, { method: "POST", body, headers, credentials: "same-origin" });
    const said = await answer.text();
    if (!answer.ok) {
      throw new Error(said.trim());
    }
    showRecording(said);
    recorded.textContent = "recorded";
  } catch (error) {
    recorded.className = "stuck";
    recorded.textContent = error.message;
  } finally {
    clearInterval(ticking);
    progress.hidden = true;
    document.getElementById("record").disabled = false;
  }
}

function showRecording(html) {
  const flame = document.getElementById("flame");
  flame.innerHTML = html;
  flame.hidden = html === "";
  document.getElementById("close").hidden = flame.hidden;
  if (flame.hidden) {
    endFlameGraph.abort();
  } else {
    showFlameGraph();
  }
}

document.addEventListener("input", (event) => {
  if (event.target.id === "filter") {
    const address = new URL(location.href);
    address.searchParams.set("q", event.target.value);
    history.replaceState(null, "", address);
    renew();
  }
});

document.addEventListener("keydown", (event) => {
  const isWriting = event.target.tagName === "INPUT";
  // The flame graph has keys of its own.
  if (event.target.closest("#flame")) {
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  if (event.key === "Escape" && isWriting) {
    event.target.blur();
  } else if (!isWriting && event.key === "/") {
    event.preventDefault();
    document.getElementById("filter").focus();
  } else if (event.key === " " && !isWriting && event.target.tagName !== "BUTTON" && event.target.tagName !== "SUMMARY") {
    event.preventDefault();
    setPaused(!isPaused);
  } else if (!isWriting && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    const links = [...live.querySelectorAll("tbody a[aria-expanded]")];
    const at = links.indexOf(document.activeElement);
    const next = links[at + (event.key === "ArrowDown" ? 1 : -1)] || (at < 0 ? links[0] : null);
    if (next) {
      event.preventDefault();
      next.focus();
    }
  }
});

window.addEventListener("popstate", renew);

async function keepRenewing() {
  if (!isPaused && !document.hidden) {
    await renew();
  }
  setTimeout(keepRenewing, EVERY_MILLISECONDS);
}

document.querySelector(".keys").hidden = false;
prepare();
setTimeout(keepRenewing, EVERY_MILLISECONDS);
