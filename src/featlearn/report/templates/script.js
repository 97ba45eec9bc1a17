"use strict";

// Tables: a click on a heading sorts by its column, falling, then rising, then back to the order of the layers.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    const data = cell.querySelector("data");
    return data ? Number(data.value) : cell.querySelector(".none") ? null : cell.textContent.trim();
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const next = { none: "descending", descending: "ascending", ascending: "none" }[heading.ariaSort || "none"];
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", next);
      const rows = [...original];
      if (next !== "none") {
        const sign = next === "ascending" ? 1 : -1;
        rows.sort((one, other) => {
          const a = key(one, column), b = key(other, column);
          if (a === null || b === null) return (a === null) - (b === null);
          return sign * compare(a, b);
        });
      }
      body.append(...rows);
    });
  });
}

// Curves: pointing at one, or at its name, brings that layer forward in every figure of the section; a click keeps it.
for (const group of document.querySelectorAll(".linked")) {
  const marked = [...group.querySelectorAll("[data-layer]")];
  const readout = group.querySelector(".readout");
  const resting = readout.textContent;
  let pinned = null;
  const show = (layer) => {
    group.classList.toggle("lit", layer !== null);
    marked.forEach((element) => element.classList.toggle("on", element.dataset.layer === layer));
    readout.textContent = layer === null ? resting : layer;
  };
  const layerOf = (event) => event.target.closest("[data-layer]")?.dataset.layer ?? null;
  for (const enter of ["pointerover", "focusin"]) group.addEventListener(enter, (event) => show(layerOf(event) ?? pinned));
  for (const leave of ["pointerleave", "focusout"]) group.addEventListener(leave, () => show(pinned));
  group.addEventListener("click", (event) => {
    const layer = layerOf(event);
    pinned = layer === pinned ? null : layer;
    group.querySelectorAll("button").forEach((chip) =>
      chip.setAttribute("aria-pressed", String(pinned !== null && chip.dataset.layer === pinned)));
    show(pinned);
  });
  group.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      pinned = null;
      group.querySelectorAll("button").forEach((chip) => chip.setAttribute("aria-pressed", "false"));
      show(null);
    }
  });
}

// On paper nothing can be unfolded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
