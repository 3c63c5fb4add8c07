"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

/** Fill an element: texts become text nodes, so that no name can turn into markup. */
function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes))
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** A text that may break after colons, commas and plus signs; what is copied stays the same. */
const breakable = (text) =>
  text.split(/(?<=[:,+])(?=\S)/).flatMap((part, number) => (number ? [el("wbr"), part] : [part]));

/** A plugin's name, or several joined to a pipeline, as links to what was played. */
function linked(text) {
  const parts = text.split("+");
  if (!parts.every((part) => Object.hasOwn(data.plugins, part))) return breakable(text);
  return parts.flatMap((part, number) => [
    ...(number ? ["+", el("wbr")] : []),
    el("a", { href: `#${data.plugins[part]}` }, ...breakable(part)),
  ]);
}

/**
 * Make one tab stop of all links and buttons in a table's body; arrow keys, Home and End move
 * between them, with Control to the ends of the table. Call what is returned after every change.
 */
function rove(table) {
  const [body] = table.tBodies;
  const found = (root) => [...root.querySelectorAll("a, button")];
  const choose = (chosen) => {
    for (const one of found(body)) one.tabIndex = one === chosen ? 0 : -1;
  };
  const next = ({ key, ctrlKey, altKey, metaKey, shiftKey, target }) => {
    if (altKey || metaKey || shiftKey || (ctrlKey && key !== "Home" && key !== "End")) return;
    const row = target.closest("tr");
    const line = found(ctrlKey ? body : row);
    const column = target.closest("td, th").cellIndex;
    const rows = [...body.rows];
    const within = (others) => others.map((other) => found(other.cells[column])[0]).find(Boolean);
    switch (key) {
      case "ArrowLeft": return line[line.indexOf(target) - 1];
      case "ArrowRight": return line[line.indexOf(target) + 1];
      case "ArrowUp": return within(rows.slice(0, row.rowIndex - 1).reverse());
      case "ArrowDown": return within(rows.slice(row.rowIndex));
      case "Home": return line[0];
      case "End": return line.at(-1);
    }
  };
  body.addEventListener("focusin", ({ target }) => choose(target));
  body.addEventListener("keydown", (event) => {
    const chosen = next(event);
    if (!chosen) return;
    event.preventDefault();
    // What is focused must not hide behind the first column, which stays in place.
    const [corner] = table.tHead.rows[0].cells;
    table.parentElement.style.scrollPadding = `0 0 0 ${corner.offsetWidth}px`;
    chosen.focus();
    // Focus alone leaves what is in sight by a hair where it is.
    chosen.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  return () => choose(found(body)[0]);
}

/** What is shown beside whatever is pointed at, focused or tapped; Escape closes it. */
const tip = {
  box: document.getElementById("tip"),
  anchor: null,

  show(anchor, ...content) {
    if (anchor === this.anchor) return;
    this.hide();
    this.box.replaceChildren(...content);
    this.box.showPopover();
    this.anchor = anchor;
    anchor.setAttribute("aria-describedby", "tip");
    this.place();
  },

  hide() {
    this.anchor?.removeAttribute("aria-describedby");
    this.anchor = null;
    this.box.hidePopover();
  },

  /** Below the anchor, or above it where there is no room; touching it, to be reached. */
  place() {
    if (!this.anchor) return;
    const around = (this.anchor.querySelector(".reach") ?? this.anchor).getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.box;
    const left = around.left + around.width / 2 - width / 2;
    const below = around.bottom + height < innerHeight || around.top < height;
    const top = below ? Math.min(around.bottom, innerHeight - height - 8) : around.top - height;
    this.box.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
    this.box.style.top = `${Math.max(8, top)}px`;
  },

  /** Show `content(element)` for elements that match, wherever they are made later. */
  explain(selector, content) {
    const seen = (event) => {
      const anchor = event.target.closest?.(selector);
      if (anchor) this.show(anchor, ...content(anchor));
    };
    for (const kind of ["pointerover", "focusin", "click"]) document.addEventListener(kind, seen);
  },
};

for (const kind of ["pointerover", "focusin"])
  document.addEventListener(kind, ({ target }) => {
    if (tip.anchor && !tip.anchor.contains(target) && !tip.box.contains(target)) tip.hide();
  });
tip.box.addEventListener("click", () => tip.hide());
document.addEventListener("keydown", ({ key }) => key === "Escape" && tip.hide());
for (const kind of ["scroll", "resize"])
  addEventListener(kind, () => tip.place(), { capture: true, passive: true });
