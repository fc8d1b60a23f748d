"use strict";
(() => {
  // Stretches the figures over time. Without this script the whole span is shown, and everything is in the tables.
  // Time runs along the axis that a figure names; the map of L2 also has addresses along the other one.
  const MOST = 64, CHAR = 6.3, LEAST = 3, LABEL = 10, LEAST_PX = 640, MAP_PX = 440;
  const charts = Array.from(document.querySelectorAll("figure[data-span]"), (figure) => ({
    figure,
    across: figure.dataset.axis === "x",
    span: Number(figure.dataset.span),
    bytes: Number(figure.dataset.bytes),
    scroll: figure.querySelector(".scroll"),
    plot: figure.querySelector(".plot"),
    grid: figure.querySelector(".grid"),
    output: figure.querySelector("output"),
    told: null, // where the script itself has scrolled to
  }));
  let zoom = 1, broad = 1, here = 0; // here: the share of the span at which what is seen begins

  const draw = (parent, name, attributes, text = "") => {
    const element = document.createElementNS(parent.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };

  const niceStep = (span, most) => {
    for (let step = 1; ; step *= 10) {
      for (const factor of [1, 2, 5]) if (span / (step * factor) <= most) return step * factor;
    }
  };
  const time = (ns) => `${Number((ns / 1000).toPrecision(12))} µs`;
  const size = (count) => {
    let value = count;
    for (const unit of ["B", "KiB", "MiB", "GiB"]) {
      if (value < 1024 || unit === "GiB") return unit === "B" ? `${value} B` : `${value.toFixed(2)} ${unit}`;
      value /= 1024;
    }
  };
  const anchorAt = (share, width) => (share === 0 ? "start" : share > 1 - 40 / width ? "end" : "middle");

  const drawTicks = (chart, width) => {
    const group = chart.plot.querySelector(".ticks");
    const { top, bottom } = group.dataset;
    const step = niceStep(chart.span, Math.max(2, width / 100));
    const parts = [];
    for (let index = 0; index * step <= chart.span; index += 1) {
      const share = (index * step) / chart.span, x = `${100 * share}%`;
      parts.push(draw(group, "line", { x1: x, x2: x, y1: top, y2: bottom, class: "grid" }));
      const place = { x, y: Number(bottom) + 14, "text-anchor": anchorAt(share, width), class: "soft" };
      parts.push(draw(group, "text", place, time(index * step)));
    }
    group.replaceChildren(...parts);
  };

  const drawSheet = (chart, width, height) => {
    const find = (name) => chart.figure.querySelector(name);
    const rows = find(".rows"), columns = find(".columns"), times = find(".times .labels"), axis = find(".axis .labels");
    const step = niceStep(chart.span, Math.max(2, height / 48));
    const lines = [], words = [];
    for (let index = 0; index * step <= chart.span; index += 1) {
      const y = `${(100 * index * step) / chart.span}%`;
      lines.push(draw(rows, "line", { x1: 0, x2: "100%", y1: y, y2: y, class: "grid" }));
      const late = chart.span - index * step < (8 / height) * chart.span;
      const place = { x: 98, y, dy: index ? (late ? -2 : 4) : 10, "text-anchor": "end", class: "soft" };
      words.push(draw(times, "text", place, time(index * step)));
    }
    rows.replaceChildren(...lines);
    times.replaceChildren(...words);
    let bytes = 1;
    while (chart.bytes / bytes > width / 110) bytes *= 2;
    const bars = [], sizes = [];
    for (let at = 0; at <= chart.bytes; at += bytes) {
      const share = at / chart.bytes, x = `${100 * share}%`;
      bars.push(draw(columns, "line", { x1: x, x2: x, y1: 0, y2: "100%", class: "grid" }));
      const place = { x, y: 28, "text-anchor": anchorAt(share, width), class: "soft" };
      sizes.push(draw(axis, "text", place, size(at)));
    }
    columns.replaceChildren(...bars);
    axis.replaceChildren(...sizes);
  };

  const pixels = (element, name, whole) => {
    const value = element.getAttribute(name);
    return value.endsWith("%") ? (parseFloat(value) / 100) * whole : Number(value);
  };

  const label = (chart, group, rect, wide, high) => {
    const words = group.dataset.label;
    const chars = Math.floor((wide - 6) / CHAR);
    const shown = high < LABEL ? "" : words.length <= chars ? words : chars >= LEAST ? `${words.slice(0, chars - 1)}…` : "";
    let text = group.querySelector(":scope > text");
    if (!text && shown) {
      const kind = rect.classList[rect.classList.length - 1];
      text = draw(group, "text", { x: rect.getAttribute("x"), dx: 4, class: `on on-${kind}` });
      const y = rect.getAttribute("y");
      text.setAttribute("y", chart.across ? Number(y) + Math.min(high, 40) / 2 + 4 : y);
      if (!chart.across) text.setAttribute("dy", 11);
      group.append(text);
    }
    if (text && text.textContent !== shown) text.textContent = shown;
  };

  const fit = (chart) => {
    const { width, height } = chart.plot.getBoundingClientRect();
    for (const rect of chart.plot.querySelectorAll("rect.mark")) {
      const wide = pixels(rect, "width", width), high = pixels(rect, "height", height);
      const thin = wide < 2 || high < 2;
      if (rect.classList.contains("thin") !== thin) {
        const kind = rect.classList[rect.classList.length - 1];
        rect.setAttribute("class", thin ? `mark thin ${kind}` : `mark ${kind}`);
      }
      const group = rect.parentNode;
      if (group.dataset.label) label(chart, group, rect, wide, high);
    }
    if (chart.across) drawTicks(chart, width);
    else drawSheet(chart, width, height);
  };

  const stretch = (chart) => {
    if (chart.across) {
      chart.plot.style.width = `${100 * zoom}%`;
      chart.plot.style.minWidth = `${LEAST_PX * zoom}px`;
    } else {
      for (const part of chart.figure.querySelectorAll(".times, .plot")) part.style.height = `${MAP_PX * zoom}px`;
      chart.grid.style.width = `${100 * broad}%`;
      chart.grid.style.gridTemplateColumns = `104px minmax(${LEAST_PX * broad}px, 1fr)`;
    }
    fit(chart);
  };

  // Place in time: the share of the whole span at which the visible part begins.
  const whole = (chart) => {
    const box = chart.plot.getBoundingClientRect();
    return chart.across ? box.width : box.height;
  };
  const begin = (chart) => (chart.across ? chart.scroll.scrollLeft : chart.scroll.scrollTop) / whole(chart);
  const seen = (chart) => Math.min(1, (chart.across ? chart.scroll.clientWidth : MAP_PX) / whole(chart));
  const goTo = (chart, share) => {
    const name = chart.across ? "scrollLeft" : "scrollTop";
    const before = chart.scroll[name];
    chart.scroll[name] = share * whole(chart);
    if (chart.scroll[name] !== before) chart.told = chart.scroll[name];
  };

  const goToAll = (share) => {
    here = Math.max(0, Math.min(share, 1 - Math.min(...charts.map(seen))));
    for (const chart of charts) goTo(chart, here);
  };

  // keeps the instant under `at` (a share of the visible part) where it is
  const zoomTo = (wanted, lead, at = 0.5) => {
    const instant = begin(lead) + at * seen(lead);
    zoom = Math.min(MOST, Math.max(1, wanted));
    charts.forEach(stretch);
    goToAll(instant - at * seen(lead));
  };
  const broaden = (wanted, chart) => {
    broad = Math.min(MOST, Math.max(1, wanted));
    stretch(chart);
  };

  const pan = (chart, share) => goToAll(begin(chart) + share * seen(chart));

  const actions = {
    closer: (chart) => zoomTo(zoom * 2, chart),
    wider: (chart) => zoomTo(zoom / 2, chart),
    whole: (chart) => {
      zoomTo(1, chart);
      if (!chart.across) broaden(1, chart);
    },
    back: (chart) => pan(chart, -0.5),
    on: (chart) => pan(chart, 0.5),
    broad: (chart) => broaden(broad * 2, chart),
    narrow: (chart) => broaden(broad / 2, chart),
  };
  const keys = { "+": "closer", "=": "closer", "-": "wider", _: "wider", 0: "whole", ">": "broad", "<": "narrow" };

  // a kernel on a core group is told in the words of the timeline
  const words = (target) => {
    const group = target.closest("g");
    const own = group?.querySelector(":scope > title");
    const kernel = group?.dataset.k && document.querySelector(`.plot g[data-k="${group.dataset.k}"] > title`);
    return (own ?? kernel)?.textContent;
  };

  for (const chart of charts) {
    chart.figure.querySelector(".tools").hidden = false;
    for (const button of chart.figure.querySelectorAll("[data-action]")) {
      button.addEventListener("click", () => actions[button.dataset.action](chart));
    }
    chart.scroll.addEventListener("keydown", (event) => {
      const action = keys[event.key];
      const here = chart.across ? action !== "broad" && action !== "narrow" : true;
      if (action && here && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        actions[action](chart);
      }
    });
    chart.scroll.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const box = chart.scroll.getBoundingClientRect();
      const at = chart.across ? (event.clientX - box.left) / box.width : (event.clientY - box.top) / box.height;
      zoomTo(zoom * Math.exp(-event.deltaY / 300), chart, at);
    }, { passive: false });
    chart.scroll.addEventListener("scroll", () => {
      const place = chart.across ? chart.scroll.scrollLeft : chart.scroll.scrollTop;
      const own = chart.told !== null && Math.abs(place - chart.told) < 2;
      chart.told = null;
      if (own) return;
      here = begin(chart);
      for (const other of charts) if (other !== chart) goTo(other, here);
    });
    const tell = (event) => {
      const text = words(event.target);
      if (text) chart.output.textContent = text.replaceAll("\n", ", ");
    };
    chart.plot.addEventListener("pointerover", tell);
    chart.plot.addEventListener("click", tell);
  }
  window.addEventListener("resize", () => {
    const place = here; // in time: in px it is another one now
    charts.forEach(fit);
    goToAll(place);
  });
  charts.forEach(fit);
})();
