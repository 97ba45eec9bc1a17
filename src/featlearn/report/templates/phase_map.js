"use strict";
// Everything shown is looked up: this script draws, and computes none of the numbers.

const data = JSON.parse(document.getElementById("phase-data").textContent);
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const set = (element, attributes) => Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
const shown = (x) => {  // three significant digits, as the tables have them
  const [mantissa, exponent] = x.toExponential(2).split("e").map(Number);
  return (exponent < -4 || exponent > 2 ? `${mantissa}e${exponent}` : String(Number(x.toPrecision(3)))).replaceAll("-", "−");
};
const word = (coded, i, j) => coded.words[Number(coded.rows[j][i])];

all(".needs-script, .widths, .tabs").forEach((part) => { part.hidden = false; });

// Tabs: one plane at a time, the arrow keys go from tab to tab.
const tabs = all("[role=tab]");
const open = (tab) => tabs.forEach((other) => {
  const panel = document.getElementById(other.getAttribute("aria-controls"));
  panel.hidden = other !== tab;
  set(panel, { role: "tabpanel" });
  panel.classList.add("tabbed");
  set(other, { "aria-selected": String(other === tab), tabindex: other === tab ? 0 : -1 });
});
tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = tabs[(place + 1) % tabs.length];
    open(next);
    next.focus();
  });
});
open(document.getElementById(`tab-${data.shown.plane}`));

// A plane: what it says under the pointer, and under a cursor that the arrow keys move.
const explore = (section, [x, y], tell, put) => {
  const frame = find(".map > .frame", section), cursor = find(".cursor", section), output = find(".here output", section);
  const within = (place, count) => Math.min(Math.max(place, 0), count - 1);
  let at = [(x.length - 1) >> 1, (y.length - 1) >> 1];
  const go = (i, j, stay) => {
    at = [within(i, x.length), within(j, y.length)];
    if (stay && put) put(at);
    set(cursor, { cx: `${100 * at[0] / (x.length - 1)}%`, cy: `${100 - 100 * at[1] / (y.length - 1)}%` });
    output.textContent = tell(...at);
  };
  const under = (event, stay) => {
    const box = frame.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width, up = (box.bottom - event.clientY) / box.height;
    go(Math.round(across * (x.length - 1)), Math.round(up * (y.length - 1)), stay);
  };
  frame.addEventListener("pointermove", (event) => under(event, event.buttons === 1));
  frame.addEventListener("pointerdown", (event) => { if (!event.target.closest(".dot")) under(event, true); });
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
    if (!step || event.target !== frame) return;
    event.preventDefault();
    go(at[0] + step[0], at[1] + step[1], true);
  });
  return () => { if (cursor.getAttribute("cx") !== "-100%") output.textContent = tell(...at); };
};

// Dots: pointer or focus shows the numbers, a click (Enter, the space bar) chooses.
const answer = (section, show, choose) => all(".dot", section).forEach((dot) => {
  const names = dot.dataset.names.split(" ");
  for (const enter of ["pointerenter", "focus"]) dot.addEventListener(enter, () => show(names));
  for (const leave of ["pointerleave", "blur"]) dot.addEventListener(leave, () => show(null));
  dot.addEventListener("click", () => choose(names[0]));
  dot.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(names[0]);
  });
});

// The plane of exponents.
const first = document.getElementById("exponents"), source = find("#all-points table"), panel = find(".hyperbola");
const { eT, eF } = data.exponents.axes;
const readout = find(".readout table", first);
let width = String(data.shown.width), chosen = data.shown.name, place = null;  // place: where the reader put one
const now = () => data.exponents.widths[width];
const point = (name) => now().points.find((one) => one.name === name);

// The way from any place depends on the growth of the kernel there: the nearest of those that Python drew.
const wayFrom = ([i, j]) => {
  const { low, step, members } = data.exponents.paths;
  const nearest = Math.round((now().log10_rho[j][i] - low) / step);
  const found = members[Math.min(Math.max(nearest, 0), members.length - 1)];
  const curve = { F: point(data.shown.name).panel.curve.F, Theta: found.panel.curve.Theta };
  return { ...found, panel: { ...found.panel, curve }, label: `your place, eT ${shown(eT[i])}, eF ${shown(eF[j])}` };
};

const retell = explore(first, [eT, eF], (i, j) =>
  `eT ${shown(eT[i])}, eF ${shown(eF[j])}: ${word(data.exponents.phase, i, j)} phase, ${word(data.exponents.speed, i, j)}; ` +
  `log10 ρ ${shown(now().log10_rho[j][i])}, Θ₀ ${shown(now().Theta0[i])}.`,
  (at) => { place = at; draw(); });

const placeOf = (plot) => (F, Theta) => [
  Number((100 * (F - plot.F[0]) / (plot.F[1] - plot.F[0])).toFixed(2)), Number((100 - 100 * Theta / plot.Theta[1]).toFixed(2))];
const draw = () => {
  const one = place ? wayFrom(place) : point(chosen), plot = one.panel, core = one.hyperbola, put = placeOf(plot);
  const line = (F, Theta) => F.map((x, k) => (k ? "L" : "M") + put(x, Theta[k]).join(" ")).join("");
  const tick = (at, label, up) => up
    ? `<line class="grid-line" x1="0" x2="100%" y1="${100 - at}%" y2="${100 - at}%"/><text class="outside" x="-6" y="${100 - at}%" dy="4" text-anchor="end">${label}</text>`
    : `<line class="grid-line" x1="${at}%" x2="${at}%" y1="0" y2="100%"/><text class="outside" x="${at}%" y="100%" dy="15" text-anchor="middle">${label}</text>`;
  find(".x-ticks", panel).innerHTML = plot.ticks[0].map(([at, label]) => tick(at, label, false)).join("");
  find(".y-ticks", panel).innerHTML = plot.ticks[1].map(([at, label]) => tick(at, label, true)).join("");
  set(find(".curve", panel), { d: line(plot.curve.F, plot.curve.Theta) });
  set(find(".asymptotes", panel), { d: line([plot.F[0], 0, plot.F[1]], [plot.asymptote, 0, plot.asymptote]) });
  set(find(".taken", panel), { d: line(one.trajectory.F, one.trajectory.Theta) });
  const start = put(core.F0, core.Theta0), end = put(core.F_limit, core.Theta_inf);
  set(find(".start", panel), { cx: `${start[0]}%`, cy: `${start[1]}%` });
  set(find(".end", panel), { x: `${end[0]}%`, y: `${end[1]}%` });
  find(".chosen", panel).textContent = one.label;
  all(".dot", first).forEach((dot) => dot.classList.toggle("on", !place && dot.dataset.names.split(" ").includes(chosen)));
  const [x, y] = place ? [100 * place[0] / (eT.length - 1), 100 - 100 * place[1] / (eF.length - 1)] : [-100, -100];
  set(find(".placed", first), { cx: `${x}%`, cy: `${y}%` });
};
const show = (names) => {
  const mine = names || all(".dot", first).map((dot) => dot.dataset.names.split(" ")).find((some) => some.includes(chosen));
  find("tbody", readout).replaceChildren(...mine.map((name) => find(`tr[data-name="${name}"]`, source).cloneNode(true)));
};
find("thead", readout).replaceChildren(source.tHead.rows[0].cloneNode(true));
const choose = (name) => { chosen = name; place = null; draw(); };
answer(first, show, choose);

const atWidth = (value) => {
  width = value;
  set(find(".colors", first), { href: now().colors });
  find(".width-now", first).textContent = Number(width).toLocaleString("en");
  now().points.forEach((one) => {
    const cells = [...find(`tr[data-name="${one.name}"]`, source).cells].slice(-2);
    [one.Theta0, one.rho].forEach((number, k) => {
      cells[k].innerHTML = `<data value="${number}">${shown(number)}</data>`;
    });
  });
  draw();
  show(null);
  retell();
};
find(".widths select").addEventListener("change", (event) => atWidth(event.target.value));
atWidth(find(".widths select").value);

// The plane of initial scales: its points are rows of the table beside it.
const second = document.getElementById("initialisation");
const { gamma, gamma_prime: ratio } = data.initialisation.axes;
explore(second, [gamma, ratio], (i, j) =>
  `γ ${shown(gamma[i])}, γ′ ${shown(ratio[j])}: ${word(data.initialisation.phase, i, j)}, slope ${shown(data.initialisation.slope[j][i])}.`);
const mark = (names) => all("tr[data-name]", second).forEach((row) => row.classList.toggle("on", (names || []).includes(row.dataset.name)));
answer(second, mark, (name) => mark([name]));
