// A flame graph of requests: the outermost call on top, width is seconds of wall clock. No library, no network.
"use strict";
let endFlameGraph = null;

// Brings the graph to life that stands in the page; one that was shown before lets go of the page's events.
function showFlameGraph() {
  if (endFlameGraph) endFlameGraph.abort();
  endFlameGraph = new AbortController();
  const whileShown = { signal: endFlameGraph.signal };
  const data = JSON.parse(document.getElementById("recording").textContent);
  const byId = (id) => document.getElementById(id);
  const canvas = byId("graph"), pen = canvas.getContext("2d");
  const ROW = 20, OWN = 1, LIBRARY = 2, WAIT = 3, ROUTE = 4;
  let root, zoomed, focused, boxes = [];

  // --- what is recorded: calls, routes and waits. There are some thousands of them.

  const item = (name, place, kind) => ({ name, place, kind, matches: false });
  const everything = item("all requests", "", ROUTE), more = item("(more calls)", "", LIBRARY);
  const routes = data.routes.map((name) => item(name, "", ROUTE));
  const workers = data.workers.map((name) => item(name, "", ROUTE));
  const waits = data.waits.map((name) => item(name, "", WAIT));
  const calls = data.frames.map(([name, file, line, isOwn]) =>
    item(name, line === null ? file : `${file}:${line}`, isOwn ? OWN : LIBRARY));

  // --- the tree: a node is {what, seconds, parent, children}, and there may be half a million. Without any: null.

  const node = (what, parent) => ({ what, seconds: 0, parent, children: null });

  function child(parent, what, seconds) {
    const children = parent.children || (parent.children = new Map());
    let below = children.get(what);
    if (!below) children.set(what, (below = node(what, parent)));
    below.seconds += seconds;
    return below;
  }

  function wanted() {
    const route = byId("route").value, cpu = byId("cpu").checked;
    return data.stacks.filter((stack) =>
      (route === "" || stack.route === Number(route)) && (!cpu || data.on_cpu.includes(stack.wait)));
  }

  function build() {
    root = node(everything, null);
    const server = byId("server").checked;
    for (const { route, worker, frames, server: first, wait, cut, seconds } of wanted()) {
      root.seconds += seconds;
      let at = root;
      if (data.by === "worker") at = child(at, workers[worker], seconds);
      if (data.by === "wait") at = child(at, waits[wait], seconds);
      at = child(at, routes[route], seconds);
      for (let index = server ? 0 : first; index < frames.length; index++) at = child(at, calls[frames[index]], seconds);
      if (cut) at = child(at, more, seconds);
      child(at, waits[wait], seconds);
    }
    zoomed = focused = root;
    search();
    lines();
  }

  const sorted = (parent) => [...(parent.children || new Map()).values()].sort((a, b) => b.seconds - a.seconds);
  const share = (at) => `${(100 * at.seconds / (root.seconds || 1)).toFixed(1)} %`;
  const spoken = (at) => {
    const { name, place, kind } = at.what;
    const said = kind !== WAIT ? name : name === "CPU" ? "on a CPU" : /^(on a CPU|not known)/.test(name) ? name : `waits for ${name}`;
    const whose = kind === OWN ? ", your code" : "";
    return `${said}${place ? ", " + place : ""}${whose}, ${at.seconds.toFixed(2)} s, ${share(at)}`;
  };

  // --- drawing

  const colour = (name) => getComputedStyle(canvas).getPropertyValue(name).trim();

  function place() {
    boxes = [];
    const path = [];
    for (let at = zoomed.parent; at; at = at.parent) path.unshift(at);
    path.forEach((at, row) => boxes.push({ at, row, x: 0, width: 1 }));
    const put = (at, row, x, width) => {
      boxes.push({ at, row, x, width });
      // Narrower than a third of a pixel nobody sees it, nor what it calls.
      for (const below of width * canvas.clientWidth < 0.33 ? [] : sorted(at)) {
        const part = width * below.seconds / (at.seconds || 1);
        put(below, row + 1, x, part);
        x += part;
      }
    };
    put(zoomed, path.length, 0, 1);
  }

  function draw() {
    const scale = window.devicePixelRatio || 1, width = canvas.clientWidth;
    const height = ROW * (1 + boxes.reduce((most, box) => Math.max(most, box.row), 0));
    canvas.style.height = `${height}px`;
    canvas.width = width * scale;
    canvas.height = height * scale;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.textBaseline = "middle";
    const fills = { [OWN]: colour("--own"), [LIBRARY]: colour("--library"), [WAIT]: colour("--wait"), [ROUTE]: colour("--route") };
    const ink = colour("--ink"), match = colour("--match");
    for (const { at, row, x, width: part } of boxes) {
      const { name, place, kind, matches } = at.what;
      const left = x * width, wide = part * width, top = row * ROW;
      pen.fillStyle = matches ? match : fills[kind];
      pen.fillRect(left, top, Math.max(wide - 0.5, 0.3), ROW - 1);
      if (kind === OWN && wide > 3) {
        pen.fillStyle = ink;
        pen.fillRect(left, top, 2, ROW - 1);
      }
      if (matches) {
        pen.fillStyle = ink;
        pen.fillRect(left, top + ROW - 4, Math.max(wide - 0.5, 0.3), 3);
      }
      if (wide > 24) {
        pen.save();
        pen.beginPath();
        pen.rect(left, top, wide - 2, ROW);
        pen.clip();
        pen.font = `${kind === OWN ? "bold " : kind === WAIT ? "italic " : ""}12px system-ui, sans-serif`;
        pen.fillStyle = ink;
        pen.fillText(place ? `${name}  ${place.split("/").pop()}` : name, left + 5, top + ROW / 2);
        pen.restore();
      }
      if (at === focused && document.activeElement === canvas) {
        pen.strokeStyle = ink;
        pen.lineWidth = 2;
        pen.strokeRect(left + 1, top + 1, Math.max(wide - 2, 2), ROW - 3);
      }
    }
    if (!root.seconds) {
      pen.fillStyle = ink;
      pen.fillText("nothing was recorded", 8, ROW * 1.5);
    }
  }

  function show() {
    place();
    draw();
    byId("said").textContent = spoken(focused);
  }

  function zoom(at) {
    zoomed = focused = at;
    show();
  }

  // --- search, and the table of lines

  function search() {
    const text = byId("search").value.toLowerCase();
    // Line 5 is not line 53.
    const isLine = /:\d+$/.test(text);
    [...routes, ...workers, ...calls, ...waits].forEach((what) => {
      const all = `${what.name} ${what.place}`.trim().toLowerCase();
      what.matches = text !== "" && (isLine ? all.endsWith(text) : all.includes(text));
    });
    // Of calls that match within one that does, the time counts once.
    const total = (at) => {
      if (at.what.matches) return at.seconds;
      let sum = 0;
      if (at.children) for (const below of at.children.values()) sum += total(below);
      return sum;
    };
    const found = text ? total(root) : 0;
    byId("found").textContent = text ? `${found.toFixed(2)} s, ${(100 * found / (root.seconds || 1)).toFixed(1)} %` : "";
    show();
  }

  function lines() {
    const hottest = new Map();
    for (const stack of wanted()) {
      const index = [...stack.frames].reverse().find((each) => data.frames[each][3]);
      if (index === undefined) continue;
      const known = hottest.get(index) || { seconds: 0, waits: new Map() };
      known.seconds += stack.seconds;
      known.waits.set(stack.wait, (known.waits.get(stack.wait) || 0) + stack.seconds);
      hottest.set(index, known);
    }
    const rows = [...hottest].sort((a, b) => b[1].seconds - a[1].seconds).slice(0, 20);
    byId("lines").replaceChildren(...rows.map(([index, { seconds, waits }]) => {
      const [name, file, line] = data.frames[index];
      const most = [...waits].sort((a, b) => b[1] - a[1])[0][0];
      const row = document.createElement("tr"), button = document.createElement("button");
      button.textContent = `${file}:${line}`;
      button.title = "Search for it";
      button.addEventListener("click", () => { byId("search").value = `${file}:${line}`; search(); });
      const cells = [seconds.toFixed(2), `${(100 * seconds / (root.seconds || 1)).toFixed(1)} %`, button, name, data.waits[most]];
      row.replaceChildren(...cells.map((value) => {
        const cell = document.createElement("td");
        cell.append(value);
        return cell;
      }));
      return row;
    }));
  }

  // --- mouse and keyboard

  function under(event) {
    const area = canvas.getBoundingClientRect();
    const x = (event.clientX - area.left) / area.width, row = Math.floor((event.clientY - area.top) / ROW);
    return boxes.find((box) => box.row === row && box.x <= x && x < box.x + box.width);
  }

  canvas.addEventListener("mousemove", (event) => {
    const box = under(event), tip = byId("tip");
    tip.hidden = !box;
    if (!box) return;
    tip.textContent = spoken(box.at);
    tip.style.left = `${Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 16, window.innerHeight - tip.offsetHeight - 8)}px`;
  });
  canvas.addEventListener("mouseleave", () => { byId("tip").hidden = true; });
  canvas.addEventListener("click", (event) => {
    const box = under(event);
    if (box) zoom(box.at);
  });

  const step = {
    ArrowDown: () => sorted(focused)[0],
    ArrowUp: () => focused.parent,
    ArrowRight: () => beside(1),
    ArrowLeft: () => beside(-1),
    Home: () => root,
  };

  function beside(by) {
    if (!focused.parent) return undefined;
    const all = sorted(focused.parent);
    return all[all.indexOf(focused) + by];
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter") zoom(focused);
    else if (event.key === "Escape") zoom(root);
    else if (step[event.key]) {
      const next = step[event.key]();
      if (next) {
        focused = next;
        if (!boxes.some((box) => box.at === next)) zoomed = next;
        show();
      }
    } else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.defaultPrevented && document.activeElement.tagName !== "INPUT") {
      byId("search").focus();
      event.preventDefault();
    }
  }, whileShown);
  canvas.addEventListener("focus", draw);
  canvas.addEventListener("blur", draw);
  byId("search").addEventListener("input", search);
  byId("search").addEventListener("keydown", (event) => {
    if (event.key === "Escape") { byId("search").value = ""; search(); }
  });
  ["route", "cpu", "server"].forEach((id) => byId(id).addEventListener("change", build));
  byId("reset").addEventListener("click", () => { byId("search").value = ""; search(); zoom(root); });
  window.addEventListener("resize", show, whileShown);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, whileShown);

  const seconds = new Map();
  data.stacks.forEach((stack) => seconds.set(stack.route, (seconds.get(stack.route) || 0) + stack.seconds));
  [...seconds].sort((a, b) => b[1] - a[1]).forEach(([route, total]) =>
    byId("route").add(new Option(`${data.routes[route]}  (${total.toFixed(1)} s)`, route)));
  build();
}

if (document.getElementById("recording")) showFlameGraph();
