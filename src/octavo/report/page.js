"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures");
  const details = Object.values(read("details"));
  const config = { displaylogo: false, displayModeBar: false, responsive: true };

  // Plotly wants colours as numbers, so they are read from the style sheet, again whenever that changes.
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return { ink: colour("--ink"), faint: colour("--faint"), line: colour("--line"), card: colour("--card") };
  };
  const themed = (layout) => {
    const { ink, faint, line, card } = colours();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { color: faint } };
    const own = (given) => ({ ...given, ...axis, title: { ...(given || {}).title, font: { color: faint, size: 13 } } });
    return {
      ...layout,
      font: { color: ink, size: 13, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink }, align: "left" },
      xaxis: own(layout.xaxis), yaxis: own(layout.yaxis),
    };
  };

  const drawn = new Set();
  const draw = (element) => {
    const figure = figures[element.id];
    if (!figure || drawn.has(element.id) || element.closest("[hidden]")) return;
    drawn.add(element.id);
    Plotly.newPlot(element, figure.data, themed(figure.layout), config);
    if (element.id.startsWith("graph-")) {
      const number = Number(element.id.slice("graph-".length));
      element.on("plotly_click", (event) => show(number, event.points[0].customdata));
    }
  };
  const drawAll = () => document.querySelectorAll(".figure").forEach(draw);
  const recolour = () => drawn.forEach((id) => Plotly.relayout(id, themed(figures[id].layout)));

  // Names come from model files: they are only ever set as text.
  const show = (number, index) => {
    const facts = details[number][index];
    if (!facts) return;
    const percent = (value) => (100 * value).toFixed(2) + " %";
    const list = document.createElement("dl");
    const add = (name, value) => {
      if (value === undefined || value === null || value === "") return;
      const row = document.createElement("div");
      row.append(Object.assign(document.createElement("dt"), { textContent: name }));
      row.append(Object.assign(document.createElement("dd"), { textContent: value }));
      list.append(row);
    };
    add("op", facts.op);
    add("layer", facts.layer);
    add("makes", facts.output);
    facts.inputs.forEach((input) => add("reads", input));
    if (typeof facts.own === "number") add("adds", percent(facts.own));
    if (typeof facts.inherited === "number") add("inherits", percent(facts.inherited));
    add("why", facts.cause);
    document.getElementById("details-" + number).replaceChildren(list);
  };

  document.querySelectorAll("select[data-choose]").forEach((select) => {
    const choose = () => {
      document.querySelectorAll(`[data-panel="${select.dataset.choose}"]`).forEach((panel) => {
        panel.hidden = panel.dataset.number !== select.value;
      });
      drawAll();
    };
    select.addEventListener("change", choose);
    choose();
  });

  document.querySelectorAll("table.sortable").forEach((table) => {
    const body = table.tBodies[0];
    const value = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.value ?? cell.textContent.trim();
    };
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "descending" || !head.classList.contains("n") && !head.hasAttribute("aria-sort");
        [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "ascending" : "descending");
        const sign = down ? 1 : -1;
        const order = (a, b) => {
          const [x, y] = [value(a, column), value(b, column)];
          const [p, q] = [Number.parseFloat(x), Number.parseFloat(y)];
          return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q);
        };
        body.append(...[...body.rows].sort(order));
      });
    });
  });

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  addEventListener("beforeprint", recolour);
  addEventListener("afterprint", recolour);
  drawAll();
})();
