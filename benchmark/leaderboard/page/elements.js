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

/** A plugin's name, or several joined to a pipeline, as links to what was played. */
function linked(text) {
  const parts = text.split("+");
  if (!parts.every((part) => Object.hasOwn(data.plugins, part))) return [text];
  return parts.flatMap((part, number) => [
    number ? "+" : "",
    el("a", { href: `#${data.plugins[part]}` }, part),
  ]);
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
