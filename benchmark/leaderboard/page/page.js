for (const [kind, draw] of [
  ["scatters", scatter],
  ["matrices", matrix],
  ["tables", (host, table) => new Table(host, table)],
])
  for (const [key, spec] of Object.entries(data[kind])) draw(document.getElementById(`${key}-${kind}`), spec);

tip.explain("[data-of]", (cell) => {
  const { of, said, frame, row } = cell.dataset;
  if (row !== undefined) return curves(data.details[frame][row], `${of}: ${said}`);
  return [el("p", { class: "head" }, ...breakable(of)), el("p", {}, said)];
});

/** Light or dark as the system says, until one is chosen; storage may be forbidden. */
const theme = {
  button: document.getElementById("theme"),
  dark: matchMedia("(prefers-color-scheme: dark)"),

  stored() {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  },

  choose(name) {
    document.documentElement.dataset.theme = name;
    this.button.setAttribute("aria-pressed", String(name === "dark"));
  },
};
theme.choose(theme.stored() ?? (theme.dark.matches ? "dark" : "light"));
theme.button.hidden = false;
theme.dark.addEventListener("change", ({ matches }) => theme.stored() ?? theme.choose(matches ? "dark" : "light"));
theme.button.addEventListener("click", () => {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  theme.choose(name);
  try {
    localStorage.setItem("theme", name);
  } catch {
    // It is remembered until the page is left.
  }
});

/** Mark the section that is being read. */
const entries = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver(
  (seen) => {
    for (const { target, isIntersecting } of seen)
      if (isIntersecting)
        for (const [key, link] of entries)
          if (key === target.id) link.setAttribute("aria-current", "true");
          else link.removeAttribute("aria-current");
  },
  { rootMargin: "-20% 0px -75% 0px" },
);
for (const section of document.querySelectorAll("main > section[id]")) reading.observe(section);
