"use strict";
(() => {
  // Stretches the plots along time. Without this script the whole span is shown, and everything is in the tables.
  const MOST = 64, CHAR = 6.3, LEAST = 3, LEAST_PX = 640;
  const charts = Array.from(document.querySelectorAll("figure[data-span]"), (figure) => ({
    figure,
    span: Number(figure.dataset.span),
    scroll: figure.querySelector(".scroll"),
    plot: figure.querySelector(".plot"),
    output: figure.querySelector("output"),
  }));
  let zoom = 1;

  const niceStep = (span, most) => {
    for (let step = 1; ; step *= 10) {
      for (const factor of [1, 2, 5]) if (span / (step * factor) <= most) return step * factor;
    }
  };

  const drawTicks = (chart, width) => {
    const group = chart.plot.querySelector(".ticks");
    const SVG = chart.plot.namespaceURI;
    const { top, bottom } = group.dataset;
    group.replaceChildren();
    const step = niceStep(chart.span, Math.max(2, width / 100));
    for (let index = 0; index * step <= chart.span; index += 1) {
      const x = `${(100 * index * step) / chart.span}%`;
      const line = document.createElementNS(SVG, "line");
      const text = document.createElementNS(SVG, "text");
      for (const [name, value] of [["x1", x], ["x2", x], ["y1", top], ["y2", bottom], ["class", "grid"]]) {
        line.setAttribute(name, value);
      }
      const late = chart.span - index * step < (40 / width) * chart.span;
      const anchor = index === 0 ? "start" : late ? "end" : "middle";
      for (const [name, value] of [["x", x], ["y", Number(bottom) + 14], ["text-anchor", anchor], ["class", "soft"]]) {
        text.setAttribute(name, value);
      }
      text.textContent = `${Number(((index * step) / 1000).toPrecision(12))} µs`;
      group.append(line, text);
    }
  };

  const fit = (chart) => {
    const width = chart.plot.getBoundingClientRect().width;
    for (const text of chart.plot.querySelectorAll("[data-label]")) {
      const rect = text.previousElementSibling;
      const pixels = (parseFloat(rect.getAttribute("width")) / 100) * width;
      const label = text.dataset.label;
      const chars = Math.floor((pixels - 6) / CHAR);
      text.textContent = label.length <= chars ? label : chars >= LEAST ? `${label.slice(0, chars - 1)}…` : "";
    }
    for (const rect of chart.plot.querySelectorAll("rect.mark")) {
      const pixels = (parseFloat(rect.getAttribute("width")) / 100) * width;
      rect.classList.toggle("thin", pixels < 2 || Number(rect.getAttribute("height")) < 2);
    }
    drawTicks(chart, width);
  };

  // keeps the instant under `at` (a share of the visible width) where it is
  const zoomTo = (wanted, at = 0.5) => {
    const next = Math.min(MOST, Math.max(1, wanted));
    const lead = charts[0].scroll;
    const instant = (lead.scrollLeft + at * lead.clientWidth) / lead.scrollWidth;
    zoom = next;
    for (const chart of charts) {
      chart.plot.style.width = `${100 * zoom}%`;
      chart.plot.style.minWidth = `${LEAST_PX * zoom}px`;
      fit(chart);
    }
    lead.scrollLeft = instant * lead.scrollWidth - at * lead.clientWidth;
  };

  const pan = (chart, share) => chart.scroll.scrollBy({ left: share * chart.scroll.clientWidth });

  const actions = {
    closer: () => zoomTo(zoom * 2),
    wider: () => zoomTo(zoom / 2),
    whole: () => zoomTo(1),
    back: (chart) => pan(chart, -0.5),
    on: (chart) => pan(chart, 0.5),
  };
  const keys = { "+": "closer", "=": "closer", "-": "wider", _: "wider", 0: "whole" };

  for (const chart of charts) {
    chart.figure.querySelector(".tools").hidden = false;
    for (const button of chart.figure.querySelectorAll("[data-action]")) {
      button.addEventListener("click", () => actions[button.dataset.action](chart));
    }
    chart.scroll.addEventListener("keydown", (event) => {
      const action = keys[event.key];
      if (action && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        actions[action](chart);
      }
    });
    chart.scroll.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const box = chart.scroll.getBoundingClientRect();
      zoomTo(zoom * Math.exp(-event.deltaY / 300), (event.clientX - box.left) / box.width);
    }, { passive: false });
    chart.scroll.addEventListener("scroll", () => {
      for (const other of charts) {
        if (Math.abs(other.scroll.scrollLeft - chart.scroll.scrollLeft) > 1) {
          other.scroll.scrollLeft = chart.scroll.scrollLeft;
        }
      }
    });
    const tell = (event) => {
      const title = event.target.closest("g")?.querySelector(":scope > title");
      if (title) chart.output.textContent = title.textContent.replaceAll("\n", ", ");
    };
    chart.plot.addEventListener("pointerover", tell);
    chart.plot.addEventListener("click", tell);
  }
  const fitAll = () => charts.forEach(fit);
  window.addEventListener("resize", fitAll);
  fitAll();
})();
