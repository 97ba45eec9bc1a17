"use strict";
// The walk down the tree repeats Python's, from Python's numbers: weights, thresholds and values are looked up.

const data = JSON.parse(document.getElementById("tree-data").textContent);
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
const shown = (x) => {  // four significant digits
  const [mantissa, exponent] = x.toExponential(3).split("e").map(Number);
  return (x !== 0 && (exponent < -4 || exponent > 5) ? `${mantissa}e${exponent}` : String(Number(x.toPrecision(4)))).replaceAll("-", "−");
};
const signed = (x) => (x < 0 ? "" : "+") + shown(x);

// What every input of a rule adds to its feature, in standard deviations of the feature.
const partsOf = (node, row) => node.inputs.map((i, k) => {
  const x = (row[i] - data.mean[i]) / data.scale[i];
  return node.kind === "prototype" ? -((node.weights[k] * (x - node.centers[k])) ** 2) : node.weights[k] * x;
});
const shareRight = (z, threshold) => data.bandwidth
  ? Math.min(Math.max(((z - threshold) / data.bandwidth + 1) / 2, 0), 1) : Number(z > threshold);

// The prediction for a row, and its parts: the value at the root, and what every node adds.
const explain = (row) => {
  const reach = data.nodes.map(() => 0), prediction = data.outputs.map(() => 0), steps = [];
  reach[0] = 1;
  data.nodes.forEach((node, id) => {
    if (!reach[id]) return;
    if (node.left === null) {
      node.value.forEach((value, k) => { prediction[k] += reach[id] * value; });
      return;
    }
    const parts = partsOf(node, row), z = parts.reduce((sum, part) => sum + part, 0);
    const share = shareRight(z, node.threshold);
    reach[node.left] += reach[id] * (1 - share);
    reach[node.right] += reach[id] * share;
    const [left, right] = [data.nodes[node.left].value, data.nodes[node.right].value];
    const contribution = node.value.map((value, k) => reach[id] * ((1 - share) * left[k] + share * right[k] - value));
    steps.push({ node: id, parts, z, right: z > node.threshold, share, reach: reach[id], contribution });
  });
  return { root: data.nodes[0].value, reach, steps, prediction };
};
const best = (values) => values.indexOf(Math.max(...values));

all(".needs-script, .fold").forEach((part) => { part.hidden = false; });

// Folding.
const fold = (button, open) => {
  document.getElementById(button.getAttribute("aria-controls")).hidden = !open;
  button.setAttribute("aria-expanded", String(open));
  button.setAttribute("aria-label", `${open ? "Fold" : "Unfold"} what is under this rule`);
  button.textContent = open ? "−" : "+";
};
all(".fold").forEach((button) => button.addEventListener("click", (event) => {
  event.stopPropagation();
  fold(button, button.getAttribute("aria-expanded") !== "true");
}));
all(".all-folds").forEach((button) =>
  button.addEventListener("click", () => all(".fold").forEach((one) => fold(one, button.dataset.open === "true"))));
addEventListener("beforeprint", () => all(".fold").forEach((button) => fold(button, true)));

// The rule under the pointer or the focus, in words; arrow keys go through the tree.
const told = find(".rule-told output");
const card = (id) => find(`.card[data-node="${id}"]`);
const parentOf = (id) => data.nodes.findIndex((node) => node.left === id || node.right === id);
const tell = (id) => {
  const node = data.nodes[id];
  told.textContent = node.left === null ? card(id).getAttribute("aria-label") : node.rule;
};
const next = (id, key) => {
  const node = data.nodes[id], parent = parentOf(id);
  if (key === "ArrowLeft") return parent;
  if (key === "ArrowRight") return node.right;
  if (parent < 0) return null;
  return key === "ArrowUp" ? data.nodes[parent].right : data.nodes[parent].left;
};
all(".card").forEach((one) => {
  const id = Number(one.dataset.node);
  for (const enter of ["pointerenter", "focus"]) one.addEventListener(enter, () => tell(id));
  one.addEventListener("keydown", (event) => {
    if (event.target !== one) return;
    const button = find(".fold", one);
    if (button && (event.key === "-" || event.key === "+")) { fold(button, event.key === "+"); return; }
    if (!["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    const other = next(id, event.key);
    if (other === null || other < 0) return;
    if (event.key === "ArrowRight") fold(button, true);
    card(other).focus();
  });
});

// One row.
const row = [...data.rows[0].values];
const outputs = find(".outputs"), steps = find(".steps"), fields = new Map();
const bar = (share) => {
  const track = make("span", "term-track"), filled = make("i", "plus");
  filled.style.cssText = `left:0;width:${100 * share}%`;
  track.append(filled);
  return track;
};
const partsTold = (step) => {
  const node = data.nodes[step.node];
  const order = step.parts.map((part, k) => [data.features[node.inputs[k]], part]).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const rest = order.slice(3).reduce((sum, [, part]) => sum + part, 0);
  const words = order.slice(0, 3).map(([name, part]) => `${name} ${signed(part)}`);
  if (order.length > 3) words.push(`${order.length - 3} more ${signed(rest)}`);
  return words.join(", ");
};
const update = () => {
  const { root, reach, steps: passed, prediction } = explain(row);
  const classes = data.task === "classification", first = classes ? best(prediction) : 0;
  all(".node").forEach((node) => node.classList.toggle("lit", reach[Number(node.dataset.node)] > 0));
  find(".prediction").textContent = classes ? `Prediction: ${data.outputs[first]}`
    : `Prediction: ${prediction.map((value, k) => (prediction.length > 1 ? `${data.outputs[k]} ` : "") + shown(value)).join(", ")}`;
  const order = prediction.map((value, k) => k).sort((a, b) => prediction[b] - prediction[a]).slice(0, 5);
  outputs.replaceChildren(...(classes ? order.filter((k) => prediction[k] > 0) : []).map((k) => {
    const line = make("div", "share-row");
    line.append(make("span", "term-name", data.outputs[k]), bar(prediction[k]), make("span", "small-number", prediction[k].toFixed(2)));
    return line;
  }));
  const columns = classes ? [first] : prediction.map((_, k) => k).slice(0, 4);
  const line = (told, values, parts = "") => {
    const cells = make("tr", ""), words = make("td", "", told);
    if (parts) words.append(make("span", "parts", parts));
    cells.append(words, ...columns.map((k) => make("td", "", values(k))));
    return cells;
  };
  const head = make("tr", "");
  head.append(make("th", "", "what"), ...columns.map((k) => make("th", "", classes ? `share of ${data.outputs[k]}` : data.outputs[k])));
  find("thead", steps).replaceChildren(head);
  find("tbody", steps).replaceChildren(
    line("all training rows", (k) => shown(root[k])),
    ...passed.map((step) => {
      const weight = step.reach < 1 ? `, with weight ${shown(step.reach)}` : "";
      const partly = step.share > 0 && step.share < 1 ? ` (${Math.round(100 * step.share)}%)` : "";
      return line(`${step.right ? "yes" : "no"}${partly}: ${shown(step.z)} ${step.right ? ">" : "≤"} ${shown(data.nodes[step.node].threshold)}${weight}`,
        (k) => signed(step.contribution[k]), partsTold(step));
    }),
    line("prediction", (k) => shown(prediction[k])));
  const tested = new Set(passed.flatMap((step) => data.nodes[step.node].inputs));
  fields.forEach(({ label }, i) => label.classList.toggle("idle", !tested.has(i)));
};
const put = (i, value, from) => {
  row[i] = value;
  const { slider, number } = fields.get(i);
  if (from !== slider) slider.value = value;
  if (from !== number) number.value = value;
};
data.used.forEach((i) => {
  const label = make("label", ""), slider = make("input", ""), number = make("input", "");
  Object.assign(slider, { type: "range", min: data.low[i], max: data.high[i], step: "any" });
  Object.assign(number, { type: "number", step: "any" });
  slider.setAttribute("aria-label", `${data.features[i]}, slider`);
  number.setAttribute("aria-label", data.features[i]);
  label.append(make("span", "", data.features[i]), slider, number);
  label.dataset.input = i;
  find(".fields").append(label);
  fields.set(i, { label, slider, number });
  slider.addEventListener("input", () => { put(i, Number(Number(slider.value).toPrecision(4)), slider); update(); });
  number.addEventListener("input", () => {
    if (number.value === "" || !Number.isFinite(number.valueAsNumber)) return;
    put(i, number.valueAsNumber, number);
    update();
  });
});
const choice = find(".examples select");
choice.append(...data.rows.map(({ label }, k) => Object.assign(make("option", "", label), { value: k })));
const start = (k) => {
  data.rows[k].values.forEach((value, i) => { row[i] = value; });
  data.used.forEach((i) => put(i, row[i], null));
  update();
};
choice.addEventListener("change", () => start(Number(choice.value)));
start(0);
