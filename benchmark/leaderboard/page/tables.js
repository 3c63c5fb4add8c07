/** Rows that are put on the page at once; sorting and filtering act on all. */
const ROWS = 200;
const collator = new Intl.Collator("en", { numeric: true });
const value = (cell) => (Array.isArray(cell) ? cell[0] : cell);
const text = (cell) => (cell === null ? "–" : Array.isArray(cell) ? cell[1] : cell);

/** Numbers by size, words by their order, and what was not measured at the end. */
function sorted(rows, keys, descending) {
  const sign = descending ? -1 : 1;
  return rows.sort((a, b) => {
    const [left, right] = [keys[a], keys[b]];
    if (left === null || right === null) return (left === null) - (right === null) || a - b;
    const order = typeof left === "number" ? left - right : collator.compare(left, right);
    return sign * order || a - b;
  });
}

class Table {
  constructor(host, { caption, columns, rows }) {
    Object.assign(this, { host, columns, rows, shown: ROWS, order: null, words: [], picked: new Map() });
    this.haystack = rows.map((row) => row.map((cell) => (cell === null ? "" : text(cell))).join(" ").toLowerCase());
    this.numeric = columns.map((_, number) => rows.some((row) => Array.isArray(row[number])));
    this.count = el("output", { class: "count", "aria-live": "polite" });
    this.more = el("button", { type: "button", class: "more" });
    this.more.addEventListener("click", () => {
      this.shown += ROWS;
      this.draw();
    });
    this.heads = columns.map((column, number) => this.head(column, number));
    this.body = el("tbody");
    const label = `${host.id}-caption`;
    const table = el(
      "table",
      { "aria-describedby": "keys" },
      el("caption", { id: label }, caption),
      el("thead", {}, el("tr", {}, ...this.heads)),
      this.body,
    );
    const area = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": label }, table);
    host.append(this.controls(caption), area, this.more);
    this.rove = rove(table);
    this.filter();
  }

  /** A heading that sorts. */
  head({ title }, number) {
    const button = el("button", { type: "button" }, title);
    button.addEventListener("click", () => {
      const again = this.order?.number === number;
      // Names from A, numbers from the largest.
      const descending = again ? !this.order.descending : this.numeric[number];
      this.order = { number, descending };
      this.heads.forEach((head, other) => {
        if (other === number) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      this.filter();
    });
    return el("th", { scope: "col", class: this.numeric[number] ? "number" : null }, button);
  }

  /** The text box and the drop-downs. */
  controls(caption) {
    const search = el("input", { type: "search", placeholder: "all of these words", "aria-label": `Filter: ${caption}` });
    search.addEventListener("input", () => {
      this.words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      this.filter();
    });
    const menus = this.columns.flatMap(({ title, menu }, number) => {
      const found = menu ? [...new Set(this.rows.map((row) => text(row[number])))] : [];
      if (found.length < 2) return [];
      const options = found.sort(collator.compare).map((name) => el("option", {}, name));
      const select = el("select", { "aria-label": title }, el("option", { value: "" }, "all"), ...options);
      select.addEventListener("change", () => {
        if (select.selectedIndex) this.picked.set(number, select.options[select.selectedIndex].text);
        else this.picked.delete(number);
        this.filter();
      });
      return [el("label", {}, title, select)];
    });
    return el("div", { class: "controls" }, el("label", {}, "filter", search), ...menus, this.count);
  }

  filter() {
    const kept = [];
    this.rows.forEach((row, index) => {
      if (!this.words.every((word) => this.haystack[index].includes(word))) return;
      for (const [number, wanted] of this.picked) if (text(row[number]) !== wanted) return;
      kept.push(index);
    });
    if (this.order) {
      const keys = this.rows.map((row) => value(row[this.order.number]));
      sorted(kept, keys, this.order.descending);
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
      const long = typeof cell === "string" && cell.length > 40;
      const kind = { class: this.numeric[number] ? "number" : long ? "long" : null };
      return number === 0
        ? el("th", { scope: "row", ...kind }, ...this.content(cell, number, index))
        : el("td", kind, ...this.content(cell, number, index));
    });
    return el("tr", {}, ...cells);
  }

  content(cell, number, index) {
    const { plugin, curve } = this.columns[number];
    if (cell === null) return [el("span", { class: "none" }, "–")];
    if (!Array.isArray(cell)) return plugin ? linked(cell) : breakable(cell);
    const shown = el("span", {}, cell[1]);
    const parts = cell.length > 2 ? [shown, bar(cell)] : [shown];
    return curve ? [el("button", { type: "button", class: "curve-of", "data-curve": index }, ...parts)] : parts;
  }
}

/** The interval as a line and the mean as a dot, from 0 to 1. */
function bar([mean, , low, high]) {
  const made = el("span", { class: "bar", "aria-hidden": true });
  for (const [name, share] of Object.entries({ mean, low, high })) made.style.setProperty(`--${name}`, share);
  return made;
}

/** Attacks down, defenses across; one reading at a time. */
function matrix(host, { caption, lines, columns, readings, scale, mark }) {
  const grid = lines.map((line) => {
    const cells = columns.map(() => el("td", {}));
    return { cells, row: el("tr", {}, el("th", { scope: "row" }, ...breakable(line)), ...cells) };
  });
  const draw = (cells) => {
    for (const { cells: line } of grid) for (const cell of line) cell.replaceChildren(el("span", { class: "none" }, "–"));
    for (const [line, column, short, whole, strength, marked, curve] of cells) {
      const said = `${lines[line]}, ${columns[column]}: ${whole}${marked ? `, ${mark}` : ""}`;
      const found = el(
        "button",
        {
          type: "button",
          class: marked ? "heat marked" : "heat",
          "data-curve": curve,
          "data-said": curve === null ? whole : null,
          "data-of": `${lines[line]}, ${columns[column]}`,
          "aria-label": said,
        },
        marked ? `✓ ${short}` : short,
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
    scale[0],
    el("span", { class: "ramp", "aria-hidden": true }),
    scale[1],
    mark ? el("span", { class: "marked" }, `✓ ${mark}`) : null,
  );
  const controls = el("div", { class: "controls" }, choice.length > 1 ? el("div", { class: "choice", role: "group", "aria-label": "Reading" }, ...choice) : null, legend);
  host.append(controls, el("div", { class: "scroll" }, table));
  draw(readings[0][1]);
}
