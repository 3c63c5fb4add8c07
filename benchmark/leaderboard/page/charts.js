/** Okabe and Ito's colours are classes, so that they can differ in the dark. */
const MARKS = {
  circle: (x, y) => svg("circle", { cx: x, cy: y, r: 5 }),
  square: (x, y) => svg("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9 }),
  triangle: (x, y) => svg("path", { d: `M${x} ${y - 6}l6 10.5h-12z` }),
  line: (x, y) => svg("path", { d: `M${x - 8} ${y}h16` }),
  ring: (x, y) => svg("path", { class: "open", d: `M${x} ${y - 9}l9 9l-9 9l-9 -9z` }),
  diamond: (x, y) => svg("path", { d: `M${x} ${y - 6.5}l6.5 6.5l-6.5 6.5l-6.5 -6.5z` }),
};
const SHAPES = ["circle", "square", "triangle", "diamond"];
const COLOURS = 7;

/** A plane with grid, ticks and titles; `ticks` are [value, text]. */
function plane({ width, height, x, y, title, label, edge = { left: 52, right: 16, top: 12, bottom: 44 } }) {
  const scale = ({ domain: [from, to] }, start, end) => (value) =>
    start + ((value - from) / (to - from)) * (end - start);
  const place = {
    x: scale(x, edge.left, width - edge.right),
    y: scale(y, height - edge.bottom, edge.top),
  };
  const [left, right] = x.domain.map(place.x);
  const [bottom, top] = y.domain.map(place.y);
  const root = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "group", "aria-label": label },
    ...x.ticks.flatMap(([value, text]) => [
      svg("path", { class: "grid", d: `M${place.x(value)} ${top}V${bottom}` }),
      svg("text", { x: place.x(value), y: bottom + 17, "text-anchor": "middle" }, text),
    ]),
    ...y.ticks.flatMap(([value, text]) => [
      svg("path", { class: "grid", d: `M${left} ${place.y(value)}H${right}` }),
      svg("text", { x: left - 8, y: place.y(value) + 4, "text-anchor": "end" }, text),
    ]),
    svg("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }),
    svg("text", { class: "title", x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, title.x),
    svg(
      "text",
      { class: "title", transform: `translate(13 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" },
      title.y,
    ),
  );
  return { root, place, left, right, top, bottom };
}

const fifths = (text) => [0, 0.2, 0.4, 0.6, 0.8, 1].map((value) => [value, text(value)]);
const percents = fifths((value) => `${Math.round(100 * value)} %`);

/** Points with error bars on both axes, their names beside them; `x` and `y` are a title and
 * whom the low and the high end favour. */
function scatter(host, { x, y, points }) {
  // Letters keep their size on a phone.
  const width = Math.max(320, Math.min(760, host.clientWidth));
  const chart = plane({
    width,
    height: Math.max(400, 0.68 * width),
    edge: { left: 74, right: 16, top: 12, bottom: 64 },
    x: { domain: [-0.02, 1.02], ticks: percents },
    y: { domain: [-0.02, 1.04], ticks: fifths((value) => value.toFixed(1)) },
    title: { x: x[0], y: y[0] },
    label: `${y[0]} over ${x[0]}`,
  });
  const { left, right, top, bottom } = chart;
  // Without what stands before whom it favours, where there is no room for both.
  const end = (words) => (width < 480 ? words.split(": ").at(-1) : words);
  const turned = (at) => `translate(32 ${at}) rotate(-90)`;
  chart.root.append(
    svg("text", { class: "end", x: left, y: bottom + 36 }, `← ${end(x[1])}`),
    svg("text", { class: "end", x: right, y: bottom + 36, "text-anchor": "end" }, `${end(x[2])} →`),
    svg("text", { class: "end", transform: turned(bottom) }, `← ${y[1]}`),
    svg("text", { class: "end", transform: turned(top), "text-anchor": "end" }, `${y[2]} →`),
    svg("text", { class: "end", x: right - 6, y: bottom - 8, "text-anchor": "end" }, "best for attackers ↘"),
  );
  for (const kind of new Set(points.map((point) => point.kind)))
    chart.root.append(svg("path", { class: "front-line", d: front(points, kind, chart.place) }));
  const threats = [...new Set(points.map((point) => point.threat))].sort();
  const spots = points.map((point) => [chart.place.x(point.x[0]), chart.place.y(point.y[0])]);
  const taken = spots.map(([px, py]) => box(px - 7, py - 7, 14, 14));
  taken.push(box(right - 140, bottom - 20, 140, 20));
  points.forEach((point, number) => {
    const kind = threats.indexOf(point.threat);
    const [[px, x0, x1], [py, y0, y1]] = [point.x.map(chart.place.x), point.y.map(chart.place.y)];
    const name = point.met ? `${point.name}, met ${point.met}` : point.name;
    const place = point.front ? ", on the Pareto front" : "";
    const mark = svg(
      "g",
      {
        class: `point c${kind % COLOURS}${point.met ? " few" : ""}`,
        tabindex: 0,
        role: "img",
        "aria-label": `${name}, ${point.threat}: ${point.lines.join(", ")}${place}`,
        "data-point": number,
      },
      svg("path", { class: "error", d: `M${x0} ${py}H${x1}M${px} ${y0}V${y1}` }),
      MARKS[SHAPES[kind % SHAPES.length]](px, py),
      svg("circle", { class: "reach", cx: px, cy: py, r: 14 }),
    );
    const spot = room(taken, spots, number, 6.6 * name.length, chart);
    taken.push(spot.box);
    if (spot.far) mark.append(svg("path", { class: "leader", d: `M${px} ${py}L${spot.x} ${spot.y - 4}` }));
    mark.append(svg("text", { class: "name", x: spot.x, y: spot.y, "text-anchor": spot.side }, name));
    chart.root.append(mark);
  });
  const legend = threats.map((threat, kind) =>
    el("li", {}, key(SHAPES[kind % SHAPES.length], `point c${kind % COLOURS}`), threat),
  );
  legend.push(el("li", {}, key("line", "front-line"), "Pareto fronts"));
  if (points.some((point) => point.met))
    legend.push(el("li", {}, key("circle", "point c6 few"), "hollow: met fewer defenses or detectors, on no front"));
  host.append(el("ul", { class: "legend" }, ...legend), chart.root);
  tip.explain(`#${host.id} [data-point]`, (mark) => {
    const point = points[mark.dataset.point];
    const lines = [...point.lines, ...(point.met ? [`met ${point.met}: looks better than it is`] : [])];
    if (point.front) lines.push("on the Pareto front");
    return [
      el("p", { class: "head" }, point.name, el("span", {}, point.threat)),
      ...lines.map((line) => el("p", {}, line)),
    ];
  });
}

/** Where what one kind of attack dominates ends: more ASR or less AUC is better than all. */
function front(points, kind, place) {
  const own = points.filter((point) => point.front && point.kind === kind);
  own.sort((a, b) => a.x[0] - b.x[0] || a.y[0] - b.y[0]);
  const steps = own.map((point) => `V${place.y(point.y[0])}H${place.x(point.x[0])}`);
  return own.length ? `M${place.x(0)} ${place.y(own[0].y[0])}${steps.join("")}V${place.y(1)}` : "";
}

const key = (shape, kind) =>
  svg("svg", { viewBox: "0 0 16 16", class: `key ${kind}`, "aria-hidden": true }, MARKS[shape](8, 8));

const box = (x, y, width, height) => ({ x, y, width, height });
const shared = (a, b) =>
  Math.max(0, Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x)) *
  Math.max(0, Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y));

/** Where a name of this width covers least, the nearest such place first; `far` where a line must
 * lead to it, as it does not touch its point or stands nearer to another. */
function room(taken, spots, number, width, chart) {
  const [px, py] = spots[number];
  const found = [];
  for (const dy of [-9, 19, -24, 34, -39, 49, -54, 64, -69, 79])
    for (const side of [1, -1]) {
      const x = Math.min(Math.max(px + 9 * side, chart.left + (side < 0 ? width : 2)), chart.right - (side > 0 ? width : 2));
      const y = py + dy;
      const own = box(side > 0 ? x : x - width, y - 11, width, 14);
      const outside = own.x < chart.left || own.y < chart.top - 8 || own.y + 14 > chart.bottom;
      const nearest = spots.every(([ox, oy], other) => other === number || (ox - x) ** 2 + (oy - y + 4) ** 2 >= (px - x) ** 2 + (py - y + 4) ** 2);
      const cost = taken.reduce((sum, other) => sum + shared(own, other), outside ? 1e6 : 0);
      const far = Math.abs(dy) > 20 || Math.abs(x - px) > 20 || !nearest;
      found.push({ x, y, side: side > 0 ? "start" : "end", box: own, far, cost });
    }
  return found.reduce((best, one) => (one.cost < best.cost ? one : best));
}

/** The trade-off curves behind a number: one per seed, with what both readings choose. */
function curves(group, title) {
  const losses = group.flatMap((curve) => curve.loss);
  const [low, high] = [Math.min(0, ...losses), Math.max(0.01, ...losses, 1.4 * (data.budget ?? 0))];
  const chart = plane({
    width: 420,
    height: 270,
    x: { domain: [low - 0.04 * (high - low), high + 0.04 * (high - low)], ticks: round(low, high) },
    y: { domain: [-0.03, 1.05], ticks: percents },
    title: { x: "lost clean accuracy (points)", y: "ASR" },
    label: `Trade-off curves of ${title}`,
  });
  if (data.budget !== null) {
    const x = chart.place.x(data.budget);
    chart.root.append(
      svg("path", { class: "budget", d: `M${x} ${chart.top}V${chart.bottom}` }),
      svg("text", { class: "budget", x: x + 4, y: chart.top + 9 }, "budget"),
    );
  }
  const lines = [];
  group.forEach((curve, number) => {
    const spots = curve.loss.map((loss, step) => [chart.place.x(loss), chart.place.y(curve.asr[step] ?? 0)]);
    const line = svg("g", { class: `curve c${number % COLOURS}` });
    line.append(svg("path", { d: `M${spots.map((spot) => spot.join(" ")).join("L")}` }));
    for (const [cx, cy] of spots) line.append(svg("circle", { cx, cy, r: 2 }));
    const told = (index) => {
      if (index < 0) return "none";
      const asr = curve.asr[index] === null ? "–" : (100 * curve.asr[index]).toFixed(1);
      return `${curve.points[index]}, ASR ${asr} %, ${(100 * curve.loss[index]).toFixed(1)} points lost`;
    };
    const { deployable, paper } = curve;
    if (deployable >= 0) line.append(MARKS.circle(...spots[deployable]));
    if (paper >= 0) line.append(MARKS.ring(...spots[paper]));
    chart.root.append(line);
    const words =
      deployable === paper
        ? `both: ${told(paper)}`
        : `deployable: ${told(deployable)}; paper: ${told(paper)}`;
    lines.push(el("li", { class: `c${number % COLOURS}` }, el("b", {}, `seed ${curve.seed} `), words));
  });
  return [
    el("p", { class: "head" }, ...breakable(title)),
    chart.root,
    el("p", { class: "note" }, "● deployable reading, ◇ paper's reading; every dot is a checkpoint"),
    el("ul", {}, ...lines.slice(0, 10)),
  ];
}

/** About five ticks in points of accuracy. */
function round(low, high) {
  const steps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5];
  const step = steps.find((size) => (high - low) / size <= 6) ?? 1;
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, number) => {
    const value = (first + number) * step;
    return [value, String(Math.round(1000 * value) / 10)];
  });
}
