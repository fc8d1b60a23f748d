"use strict";
(() => {
  // Draws the pipes and the memories from the table that the page carries; one span of time for all of them.
  const data = JSON.parse(document.getElementById("data").textContent);
  const LEFT = 58, FOOT = 20, ROW = 26, GAP = 4, LEAST_CYCLES = 40;
  const HEIGHTS = { L1: 240, UB: 170, L0A: 96, L0B: 96, L0C: 120 };
  const WORK = { CUBE: "cube", VECTOR: "vector" };
  const STAYS = ["residency", "workspace", "spill", "fill"];
  const DOES = ["lies", "lies", "is on its way out", "is on its way back"];
  const backed = new Set(data.backed);
  const users = new Map(); // buffer -> operations that name it
  for (const item of data.operations) {
    for (const buffer of item[5]) {
      if (!users.has(buffer)) users.set(buffer, []);
      users.get(buffer).push(item);
    }
  }
  const root = document.querySelector(".figures");
  const output = root.querySelector("output");
  root.hidden = false;
  const number = (value) => Math.round(value).toLocaleString("en-US");
  let from = 0, to = data.span, focus = null, colours = {}, asked = 0;

  // a part: what it shows, and where each of its rectangles is: start, end, top, height (px), colour, label
  const pipes = (item) => {
    const spill = item[2] === 0 ? "spill" : item[2] === 1 ? "fill" : null;
    const kind = spill ?? WORK[data.pipes[item[1]]] ?? "prefetch";
    const low = item[4] ? 0 : 0.75; // what takes no time is a mark at the foot of its row
    const top = item[1] * ROW + GAP / 2, high = ROW - GAP;
    return [item[3], item[3] + item[4], top + low * high, (1 - low) * high, kind, data.names[item[2]]];
  };
  const memory = (capacity, height) => (item) => {
    const px = height / capacity;
    return [item[4], item[5], height - (item[2] + item[3]) * px, item[3] * px, STAYS[item[6]], String(item[1])];
  };
  const parts = Array.from(root.querySelectorAll("canvas"), (canvas) => {
    const name = canvas.dataset.part;
    if (name === "pipes") {
      const height = data.pipes.length * ROW;
      return { canvas, height, items: data.operations, box: pipes, capacity: 0 };
    }
    const [place, capacity] = data.places[Number(name)];
    const height = HEIGHTS[place] ?? 120;
    const items = data.stays.filter((item) => item[0] === Number(name)).sort((a, b) => a[6] - b[6]);
    return { canvas, height, items, box: memory(capacity, height), capacity };
  });

  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["surface", "panel", "ink", "soft", "line", "cube", "vector", "prefetch", "residency",
      "workspace", "spill", "fill"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
  };
  const niceStep = (span, most) => {
    for (let step = 1; ; step *= 10) {
      for (const factor of [1, 2, 5]) if (span / (step * factor) <= most) return step * factor;
    }
  };

  const related = (item) => {
    if (!focus) return false;
    if (item === focus) return true;
    const operations = focus.length === 6, mine = item.length === 6;
    if (operations) return !mine && focus[5].includes(item[1]) && item[4] <= focus[3] + focus[4] && item[5] >= focus[3];
    return mine ? item[5].includes(focus[1]) : item[1] === focus[1];
  };

  const draw = (part) => {
    const { canvas, height } = part;
    const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
    const whole = height + FOOT;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(whole * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(whole * ratio);
      canvas.style.height = `${whole}px`;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, whole);
    pen.font = '11px system-ui, -apple-system, "Segoe UI", sans-serif';
    const wide = Math.max(1, width - LEFT - 1), px = wide / (to - from);
    const at = (time) => LEFT + (time - from) * px;
    pen.fillStyle = colours.panel;
    if (part.capacity) pen.fillRect(LEFT, 0, wide, height);
    else data.pipes.forEach((_, row) => pen.fillRect(LEFT, row * ROW + GAP / 2, wide, ROW - GAP));

    const step = niceStep(to - from, Math.max(2, wide / 96));
    pen.strokeStyle = colours.line;
    pen.lineWidth = 1;
    pen.textBaseline = "alphabetic";
    for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
      const x = Math.round(at(time)) + 0.5, words = number(time), size = pen.measureText(words).width;
      pen.beginPath();
      pen.moveTo(x, 0);
      pen.lineTo(x, height + 3);
      pen.stroke();
      pen.fillStyle = colours.soft;
      pen.fillText(words, Math.min(Math.max(LEFT, x - size / 2), width - size), height + 15);
    }
    pen.textAlign = "right";
    if (part.capacity) {
      pen.fillText(number(part.capacity), LEFT - 6, 10);
      if (height > 120) pen.fillText(number(part.capacity / 2), LEFT - 6, height / 2 + 4);
      pen.fillText("0", LEFT - 6, height);
    } else {
      pen.fillStyle = colours.ink;
      data.pipes.forEach((name, row) => pen.fillText(name, LEFT - 6, row * ROW + ROW / 2 + 4));
    }
    pen.textAlign = "left";

    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, wide, height);
    pen.clip();
    const outlined = [];
    for (const item of part.items) {
      const [start, end, top, high, kind, label] = part.box(item);
      if (end < from || start > to) continue;
      const least = start === end || (part.capacity && (kind === "spill" || kind === "fill")) ? 1.5 : 0; // seen from afar
      const left = Math.max(LEFT - 2, at(start)), right = Math.min(LEFT + wide + 2, Math.max(at(end), at(start) + least));
      const gap = right - left > 3 ? 0.6 : 0, strip = high > 3 ? 0.6 : 0;
      pen.fillStyle = colours[kind];
      pen.fillRect(left, top + strip / 2, right - left - gap, high - strip);
      if (right - left > 24 && high >= 11) {
        const chars = Math.floor((right - left - 6) / 6.3);
        const words = label.length <= chars ? label : chars >= 3 ? `${label.slice(0, chars - 1)}…` : "";
        pen.fillStyle = kind === "cube" ? "#ffffff" : "#101418";
        if (words) pen.fillText(words, left + 4, top + Math.min(high, 40) / 2 + 4);
      }
      if (related(item)) outlined.push([left, top, right - left, high]);
    }
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 2;
    for (const [x, y, w, h] of outlined) pen.strokeRect(x, y + 1, Math.max(w, 1), Math.max(1, h - 2));
    pen.restore();
  };
  const redraw = () => {
    if (asked) return;
    asked = requestAnimationFrame(() => {
      asked = 0;
      parts.forEach(draw);
    });
  };

  const show = (start, span) => {
    const wanted = Math.min(data.span, Math.max(Math.min(LEAST_CYCLES, data.span), span));
    from = Math.max(0, Math.min(start, data.span - wanted));
    to = from + wanted;
    redraw();
  };
  // keeps the instant under `at` (a share of what is seen) where it is
  const zoom = (factor, at = 0.5) => show(from + at * (to - from) * (1 - 1 / factor), (to - from) / factor);
  const pan = (share) => show(from + share * (to - from), to - from);
  const actions = {
    closer: () => zoom(2),
    wider: () => zoom(0.5),
    whole: () => show(0, data.span),
    back: () => pan(-0.5),
    on: () => pan(0.5),
  };
  const keys = { "+": "closer", "=": "closer", "-": "wider", _: "wider", 0: "whole", ArrowLeft: "back", ArrowRight: "on" };
  for (const button of root.querySelectorAll("[data-action]")) {
    button.addEventListener("click", () => actions[button.dataset.action]());
  }

  const words = (item) => {
    if (item.length === 6) {
      const named = item[5].slice(0, 8).join(", ") + (item[5].length > 8 ? ", …" : "");
      const used = item[5].length ? `, buffer${item[5].length > 1 ? "s" : ""} ${named}` : "";
      return `${data.names[item[2]]}, node ${item[0]} on ${data.pipes[item[1]]}, ${number(item[3])} to ` +
        `${number(item[3] + item[4])}: ${number(item[4])} cycles${used}`;
    }
    const count = (users.get(item[1]) ?? []).filter((op) => op[2] > 1).length;
    return `Buffer ${item[1]}${backed.has(item[1]) ? " (filled by COPY_IN)" : ""} ${DOES[item[6]]} in ` +
      `${data.places[item[0]][0]} at ${number(item[2])} to ${number(item[2] + item[3])}, ${number(item[4])} to ` +
      `${number(item[5])}: ${number(item[5] - item[4])} cycles, named by ${number(count)} operations`;
  };
  const find = (part, event) => {
    const frame = part.canvas.getBoundingClientRect();
    const wide = frame.width - LEFT - 1, x = event.clientX - frame.left - LEFT, y = event.clientY - frame.top;
    if (x < 0 || x > wide) return null;
    const time = from + (x / wide) * (to - from), slack = (1.5 / wide) * (to - from);
    let best = null, nearest = slack;
    for (const item of part.items) {
      const [start, end, top, high] = part.box(item);
      if (y < top || y > top + high) continue;
      const away = Math.max(start - time, time - end, 0);
      if (away <= nearest) {
        best = item;
        nearest = away;
      }
    }
    return best;
  };

  for (const part of parts) {
    let held = null;
    part.canvas.addEventListener("keydown", (event) => {
      const action = keys[event.key];
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      actions[action]();
    });
    part.canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const frame = part.canvas.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY / 300), Math.max(0, (event.clientX - frame.left - LEFT) / (frame.width - LEFT)));
    }, { passive: false });
    part.canvas.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, from };
      part.canvas.setPointerCapture(event.pointerId);
    });
    for (const name of ["pointerup", "pointercancel"]) part.canvas.addEventListener(name, () => { held = null; });
    part.canvas.addEventListener("pointermove", (event) => {
      if (held) {
        const px = (to - from) / Math.max(1, part.canvas.clientWidth - LEFT);
        show(held.from - (event.clientX - held.x) * px, to - from);
        return;
      }
      const item = find(part, event);
      if (item === focus) return;
      focus = item;
      output.textContent = item ? words(item) : "";
      redraw();
    });
    part.canvas.addEventListener("pointerleave", () => {
      if (focus && !held) {
        focus = null;
        redraw();
      }
    });
    part.canvas.addEventListener("click", (event) => {
      const item = find(part, event);
      if (item) output.textContent = words(item);
    });
  }

  readColours();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    redraw();
  });
  new ResizeObserver(redraw).observe(root);
  redraw();
})();
