/** Rows that are put on the page at once; sorting and filtering act on all. */
const ROWS = matchMedia("(max-width: 40rem)").matches ? 10 : 50;
const collator = new Intl.Collator("en", { numeric: true });
const value = (cell) => (Array.isArray(cell) ? cell[0] : text(cell));
const text = (cell) =>
  cell === null ? "–" : Array.isArray(cell) ? cell[1] : typeof cell === "string" ? cell : cell.name + cell.rest;

/** Numbers by size, words by their order, and what was not measured at the end. */
function sorted(rows, cells, descending) {
  const sign = descending ? -1 : 1;
  return rows.sort((a, b) => {
    const [left, right] = [cells[a], cells[b]];
    if (left === null || right === null) return (left === null) - (right === null) || a - b;
    const [one, other] = [value(left), value(right)];
    const order = typeof one === "number" ? one - other : collator.compare(one, other);
    return sign * order || a - b;
  });
}

class Table {
  constructor(host, { caption, columns, rows }) {
    Object.assign(this, { host, columns, rows, shown: ROWS, order: null, words: [], picked: new Map() });
    this.haystack = rows.map((row) => row.map((cell) => (cell === null ? "" : text(cell))).join(" ").toLowerCase());
    this.count = el("output", { class: "count", "aria-live": "polite" });
    this.more = el("button", { type: "button", class: "more" });
    this.more.addEventListener("click", () => {
      this.shown += ROWS;
      this.draw();
    });
    this.heads = columns.map((column, number) => this.head(column, number));
    this.body = el("tbody", { role: "rowgroup" });
    const label = `${host.id}-caption`;
    // On a small screen rows are cards, which browsers would not call a table any more.
    const table = el(
      "table",
      { class: "cards", role: "table", "aria-describedby": "keys" },
      el("caption", { id: label }, caption),
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...this.heads)),
      this.body,
    );
    const area = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": label }, table);
    host.append(this.controls(caption), area, this.more);
    this.rove = rove(table);
    this.filter();
  }

  /** A heading that sorts. */
  head({ title, doc, number, brief }, place) {
    const button = el("button", { type: "button", title: doc }, title);
    button.addEventListener("click", () => {
      const again = this.order?.place === place;
      // Names from A, numbers from the largest.
      const descending = again ? !this.order.descending : number;
      this.order = { place, descending };
      this.heads.forEach((head, other) => {
        if (other === place) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      this.filter();
    });
    return el("th", { scope: "col", role: "columnheader", class: this.kind({ number, brief }) }, button);
  }

  kind({ number, brief }) {
    return [number && "number", !brief && "extra"].filter(Boolean).join(" ") || null;
  }

  /** The text box, the drop-downs, and the switch between the most important columns and all. */
  controls(caption) {
    const search = el("input", { type: "search", placeholder: "all of these words", "aria-label": `Filter: ${caption}` });
    search.addEventListener("input", () => {
      this.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      this.filter();
    });
    const menus = this.columns.flatMap(({ title, menu, brief }, number) => {
      const found = menu ? [...new Set(this.rows.map((row) => text(row[number])))] : [];
      if (found.length < 2) return [];
      const options = found.sort(collator.compare).map((name) => el("option", {}, name));
      const select = el("select", { "aria-label": title }, el("option", { value: "" }, "all"), ...options);
      select.addEventListener("change", () => {
        if (select.selectedIndex) this.picked.set(number, select.options[select.selectedIndex].text);
        else this.picked.delete(number);
        this.filter();
      });
      return [el("label", { class: brief ? null : "extra" }, title, select)];
    });
    const extra = this.columns.some(({ brief }) => !brief);
    const all = el("button", { type: "button", class: "all", "aria-pressed": "false" }, `All ${this.columns.length} columns`);
    all.addEventListener("click", () => {
      const whole = this.host.classList.toggle("whole");
      all.setAttribute("aria-pressed", String(whole));
    });
    return el("div", { class: "controls" }, el("label", {}, "filter", search), ...menus, extra ? all : null, this.count);
  }

  filter() {
    const kept = [];
    this.rows.forEach((row, index) => {
      if (!this.words.every((word) => this.haystack[index].includes(word))) return;
      for (const [number, wanted] of this.picked) if (text(row[number]) !== wanted) return;
      kept.push(index);
    });
    if (this.order) {
      const cells = this.rows.map((row) => row[this.order.place]);
      sorted(kept, cells, this.order.descending);
    }
    this.kept = kept;
    this.shown = ROWS;
    this.count.value = `${kept.length} of ${this.rows.length} row${this.rows.length === 1 ? "" : "s"}`;
    this.draw();
  }

  draw() {
    const rows = this.kept.slice(0, this.shown);
    this.body.replaceChildren(...rows.map((index) => this.row(index)));
    this.rove();
    const left = this.kept.length - rows.length;
    this.more.hidden = left <= 0;
    this.more.textContent = `Show ${Math.min(ROWS, left)} more of ${left}`;
  }

  row(index) {
    const cells = this.rows[index].map((cell, number) => {
      const column = this.columns[number];
      const long = typeof cell === "string" && cell.length > 40 ? " long" : "";
      const kind = { class: `${this.kind(column) ?? ""}${long}`.trim() || null, "data-title": column.title };
      return number === 0
        ? el("th", { scope: "row", role: "rowheader", ...kind }, ...this.content(cell))
        : el("td", { role: "cell", ...kind }, el("span", { class: "cell" }, ...this.content(cell)));
    });
    return el("tr", { role: "row" }, ...cells);
  }

  content(cell) {
    if (cell === null) return [el("span", { class: "none" }, "–")];
    if (typeof cell === "string") return breakable(cell);
    if (cell.links)
      return cell.links.flatMap(([title, key], number) => [number ? "; " : "", el("a", { href: `#${key}` }, title)]);
    if (!Array.isArray(cell)) return [...linked(cell.name), cell.rest];
    return [el("span", {}, cell[1]), ...(cell.length > 2 ? [bar(cell)] : [])];
  }
}

/** The interval as a line and the mean as a dot, from 0 to 1. */
function bar([mean, , low, high]) {
  const made = el("span", { class: "bar", "aria-hidden": true });
  for (const [name, share] of Object.entries({ mean, low, high })) made.style.setProperty(`--${name}`, share);
  return made;
}

/** Attacks down, defenders across; one reading at a time. */
function matrix(host, { caption, lines, columns, readings, looks }) {
  const frame = host.id.replace(/-matrices$/, "");
  const grid = lines.map((line) => {
    const cells = columns.map(() => el("td", {}));
    return { cells, row: el("tr", {}, el("th", { scope: "row" }, ...breakable(line)), ...cells) };
  });
  const draw = (cells) => {
    for (const { cells: line } of grid) for (const cell of line) cell.replaceChildren(el("span", { class: "none" }, "–"));
    for (const [line, column, short, whole, strength, look, row] of cells) {
      const of = `${lines[line]}, ${columns[column]}`;
      const found = el(
        "button",
        {
          type: "button",
          class: `heat ${look}`.trim(),
          "data-of": of,
          "data-said": whole,
          "data-frame": row === null ? null : frame,
          "data-row": row,
          "aria-label": `${of}: ${whole}`,
        },
        short,
      );
      found.style.setProperty("--strength", strength);
      grid[line].cells[column].replaceChildren(found);
    }
    reset();
  };
  const table = el(
    "table",
    { class: "matrix", role: "grid", "aria-describedby": "keys" },
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, el("td", {}), ...columns.map((name) => el("th", { scope: "col" }, ...breakable(name))))),
    el("tbody", {}, ...grid.map(({ row }) => row)),
  );
  const reset = rove(table);
  const choice = readings.map(([title, cells], number) => {
    const button = el("button", { type: "button", "aria-pressed": String(number === 0) }, title);
    button.addEventListener("click", () => {
      for (const other of choice) other.setAttribute("aria-pressed", String(other === button));
      draw(cells);
    });
    return button;
  });
  const legend = el(
    "p",
    { class: "scale" },
    "good for the defender",
    el("span", { class: "ramp", "aria-hidden": true }),
    "good for the attacker",
    ...Object.entries(looks).map(([look, words]) => el("span", { class: `sample ${look}` }, words)),
  );
  const controls = el("div", { class: "controls" }, choice.length > 1 ? el("div", { class: "choice", role: "group", "aria-label": "Reading" }, ...choice) : null, legend);
  host.append(controls, el("div", { class: "scroll" }, table));
  draw(readings[0][1]);
}
